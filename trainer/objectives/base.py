"""What an objective gets and what it gives back.

Shape legend: B clips, T frames, F mel bins, P label pairs, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class FeatureBatch:
    """A batch after the front end, on the device."""

    mel_BTF: Tensor
    """Normalised log-mel, float32."""
    frames_B: Tensor
    """Valid frames per clip, int64."""
    labels_P2: Tensor | None = None
    """Sparse labels, int64: each row is (clip in this batch, class)."""
    source_B: Tensor | None = None
    """Index of the dataset each clip came from, int64."""


@dataclass
class StepOutput:
    """The loss as a sum and the number of terms in it.

    So the mean can be taken over the *global* batch (ranks x accumulation), whatever the
    micro-batch.
    """

    loss_sum: Tensor
    """Scalar, differentiable."""
    count: Tensor
    """Scalar: how many terms `loss_sum` adds up."""
    logs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name -> (sum, count), detached scalars; the logger reduces both, then divides."""
    logits_BC: Tensor | None = None
    """Class logits where the objective has classes, detached: what validation ranks clips by."""
