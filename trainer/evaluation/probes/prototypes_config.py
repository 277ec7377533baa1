"""Numbers of the layer-wise prototype probe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Count, NotNegative, Positive, Share
from dawnchorus.trainer.evaluation.probes.base_config import Needs
from dawnchorus.trainer.evaluation.probes.trained_config import TokenProbeConfig


@dataclass(frozen=True, kw_only=True)
class PrototypesConfig(TokenProbeConfig):
    """How alike the tokens of a clip are to each class's prototypes, wherever they lie.

    The form and the numbers of the layer-wise prototype probe of ESP's bioacoustic-ssl (2026,
    `models/architectures/vit/classifier.py`): each block's output through a norm of its own, a
    softmax-weighted sum of the blocks, less the CLS token; the cosine to each prototype, greatest
    over the tokens; a linear combination of each class's own prototypes. An encoder without a CLS
    token has the mean of its valid tokens taken off instead.
    """

    title: ClassVar[str] = "Prototype probe on all layers"
    needs: ClassVar[Needs] = "layer_tokens"

    name: Literal["prototypes"] = "prototypes"
    """Which probe; the other keys are its own."""
    per_class: Count = 20
    """Prototypes of each class (published: 20)."""
    steps: Count = 2500
    """Steps of a fit (published: 2,500 to 7,500, by task). Whole epochs are trained, at least so
    many steps."""
    batch_size: Count = 256
    """Clips per step (published: 256)."""
    learning_rate: Positive = 0.01
    """AdamW's highest learning rate (published: 0.01 for a batch of 256)."""
    weight_decay: NotNegative = 3e-4
    """AdamW's decoupled weight decay, of all parameters (published: 3e-4)."""
    warmup_share: Share = 0.1
    """Share of the steps over which the rate rises linearly from zero (published: 0.1)."""
    final_rate: NotNegative = 1e-6
    """The rate at which the cosine ends (published: 1e-6)."""
    clip: NotNegative = 2.0
    """Longest gradient of all parameters together (published: 2); 0: no limit."""
    loss: Literal["plain", "asymmetric"] = "asymmetric"
    """`asymmetric` (published): binary cross-entropy in which classes that are already right count
    less (Ridnik et al. 2021, with Bird-MAE's exponents 1 and 4 and margin 0.05). `plain`:
    cross-entropy where each clip has one label, binary cross-entropy where it may have any number.
    """
    chunk: Count = 4096
    """Prototypes that are compared with the tokens at once. It bounds the memory and changes no
    figure."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)

    @property
    def falls_to(self) -> float:
        """See `TrainedConfig.falls_to`."""
        return self.final_rate

    def total_steps(self, steps_per_epoch: int) -> int:
        """See `TrainedConfig.total_steps`."""
        return -(-self.steps // steps_per_epoch) * steps_per_epoch

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """See `TrainedConfig.warmup_steps`."""
        return round(self.warmup_share * self.steps)
