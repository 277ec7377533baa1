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
    key_B: Tensor | None = None
    """Key of each clip's random numbers, int64: it follows from the recipe's seed and the clip's
    position alone, and what is drawn from it (`trainer.seeds`) is the same in every batch."""
    clean_BTF: Tensor | None = None
    """The log-mel without noise, for targets that are to be made of it; None: there is none."""
    real_B: Tensor | None = None
    """False in rows that only fill up the batch, bool: no figure may count them. None: all real."""

    def keys(self) -> Tensor:
        """`key_B`, which must be there.

        Raises:
            ValueError: the batch has no keys.
        """
        if self.key_B is None:
            raise ValueError("this batch has no key_B, which random choices per clip need")
        return self.key_B


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
    scores_BC: Tensor | None = None
    """What ranks clips and classes, where the objective has classes, detached: a class's scores
    of any two clips can be compared (raw logits of a softmax cannot)."""
