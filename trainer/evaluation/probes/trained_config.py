"""Numbers of every probe that is trained by steps. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Positive,
    Range,
    ShareBelowOne,
    Whole,
    check_ranges,
)
from dawnchorus.trainer.evaluation.probes.base_config import Needs, ProbeConfig


@dataclass(frozen=True, kw_only=True)
class TrainedConfig(ProbeConfig):
    """A probe that AdamW trains, some clips at a time. Defaults: avex's later probes
    (arXiv 2605.10494, `configs/evaluation_configs/icassp`).
    """

    learning_rate: Positive = 1e-3
    """AdamW's highest learning rate."""
    weight_decay: NotNegative = 0.01
    """AdamW's decoupled weight decay, of all parameters."""
    batch_size: Count = 32
    """Clips per step."""
    clip: NotNegative = 1.0
    """Longest gradient of all parameters together; 0: no limit."""
    seeds: Annotated[int, Range(ge=3)] = 3
    """How many times the probe is fitted, with seeds 0, 1, ... A seed decides the initial weights,
    the order of the clips and what is dropped."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """AdamW's."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def fits(self) -> int:
        """See `ProbeConfig.fits`."""
        return self.seeds

    @property
    def falls_to(self) -> float:
        """The rate of the last step."""
        raise NotImplementedError

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of one fit, whole epochs."""
        raise NotImplementedError

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Steps over which the rate rises."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class EpochsConfig(TrainedConfig):
    """A trained probe that counts in passes over the training part."""

    epochs: Count = 50
    """Passes over the training part."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """`constant`, or `cosine`: falls to 1 % of the rate."""
    warmup_epochs: Whole = 5
    """Epochs over which the rate rises linearly from zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be below epochs ({self.epochs})"
            )

    @property
    def work(self) -> int:
        """The epochs of all seeds."""
        return self.epochs * self.seeds

    @property
    def falls_to(self) -> float:
        """See `TrainedConfig.falls_to`."""
        return (1.0 if self.schedule == "constant" else 0.01) * self.learning_rate

    def total_steps(self, steps_per_epoch: int) -> int:
        """See `TrainedConfig.total_steps`."""
        return self.epochs * steps_per_epoch

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """See `TrainedConfig.warmup_steps`."""
        return self.warmup_epochs * steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class TokenProbeConfig(TrainedConfig):
    """A trained probe that reads tokens and pools for itself."""

    needs: ClassVar[Needs] = "tokens"
    unit: ClassVar[str] = "parts"

    standardise: bool = False
    """Centre and scale every channel of every layer by its mean and standard deviation over the
    tokens of the probe's own training part. The published form does not. The log-mel baseline
    always is standardised."""
    loss: Literal["plain", "asymmetric"] = "plain"
    """`plain`: cross-entropy where each clip has one label, binary cross-entropy where it may have
    any number. `asymmetric`: binary cross-entropy in which classes that are already right count
    less (Ridnik et al. 2021, with Bird-MAE's exponents 1 and 4 and margin 0.05), in both cases."""

    @property
    def work(self) -> int:
        """A hundred ticks for each seed."""
        return 100 * self.seeds


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(TokenProbeConfig, EpochsConfig):
    """A probe with attention heads."""

    heads: Count = 8
    """Attention heads. Where they do not divide the channels, the greatest number below that does
    is used."""
    dropout: ShareBelowOne = 0.0
    """Share that is dropped in training."""

    def heads_of(self, dim: int) -> int:
        """The number of heads for so many channels."""
        return next(n for n in range(min(self.heads, dim), 0, -1) if dim % n == 0)
