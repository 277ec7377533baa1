"""Numbers of the linear probe, and of the one on a learned layer mix. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Count, NotNegative, Positive, Whole
from dawnchorus.trainer.evaluation.probes.base_config import Needs
from dawnchorus.trainer.evaluation.probes.trained_config import EpochsConfig


@dataclass(frozen=True, kw_only=True)
class LinearConfig(EpochsConfig):
    """A linear classifier on frozen embeddings, trained by AdamW.

    The optimiser's defaults are those of the AVEX repository (`configs/evaluation_configs`):
    AdamW, lr 1e-3, weight decay 0.01, batch 32, 900 epochs, a constant rate, and the epoch that is
    best on the validation part. Digests of the paper (arXiv 2508.11845, appendix B.6) quote lr 1e-4
    and weight decay 0.1. The full text could not be compared, so both are named here; the
    repository's are the defaults, because its code made the published tables. Features are
    standardised by default, which the paper's probe (`recipes/evaluate/paper.yaml`) does not do.
    """

    title: ClassVar[str] = "Linear probe"

    name: Literal["linear"] = "linear"
    """Which probe; the other keys are its own."""
    learning_rate: Positive = 1e-3
    """AdamW's learning rate. AVEX repository 1e-3; digests of the paper say 1e-4."""
    weight_decay: NotNegative = 0.01
    """AdamW's decoupled weight decay, on weights and biases alike, as torch's default does. AVEX
    repository 0.01; digests of the paper say 0.1."""
    batch_size: Count = 32
    """Clips per step (AVEX repository and paper: 32)."""
    epochs: Count = 900
    """Passes over the training part (AVEX repository and paper: 900)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`constant` as in the AVEX code that made the published tables (August 2025); `cosine` to
    1 % of the rate, as in its later code."""
    warmup_epochs: Whole = 0
    """Epochs over which the rate rises linearly from zero (AVEX's later code: 5)."""
    clip: NotNegative = 0.0
    """Longest gradient of all parameters together; 0: no limit, as in the code that made the
    published tables (AVEX's later code: 1)."""
    layer_mix: bool = True
    """With `layer: all`, also fit a probe on a softmax-weighted mean of all layers whose weights
    are learned with it (arXiv 2605.10494). `probe.name=layer_mix` fits only that."""

    @property
    def mixes_layers(self) -> bool:
        """See `ProbeConfig.mixes_layers`."""
        return self.layer_mix


@dataclass(frozen=True, kw_only=True)
class LayerMixConfig(EpochsConfig):
    """A linear classifier on a softmax-weighted mean of the pooled layers; the weights, equal at
    first, are learned with it.

    arXiv 2605.10494, with the numbers of its code (avex `configs/evaluation_configs/icassp`): 50
    epochs, 5 of them of warm-up, cosine, lr 1e-3, weight decay 0.01, batch 32, gradients of at most
    1. Features are standardised by default, which that code does not do.
    """

    title: ClassVar[str] = "Linear probe on a layer mix"
    needs: ClassVar[Needs] = "layers"

    name: Literal["layer_mix"] = "layer_mix"
    """Which probe; the other keys are its own."""
