"""The toy objective: each clip's mean log-mel level from its tokens; no labels, a part of its own.

Shape legend: B clips, T frames, F mel bins, N tokens, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dawnchorus.trainer.encoders.ranges import Positive, check_ranges
from dawnchorus.trainer.objectives.base import (
    Context,
    FeatureBatch,
    Model,
    Objective,
    StepOutput,
)
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig
from dawnchorus.trainer.pooling import pool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dawnchorus.trainer.encoders.base_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class LevelConfig(ObjectiveConfig):
    """Regression of the mean of what the encoder takes."""

    metrics: ClassVar[dict[str, str]] = {"error": "min", "loss": "min"}

    name: Literal["level"] = "level"
    """Which objective this is."""
    scale: Positive = 1.0
    """Factor of the level."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """One linear layer."""
        return encoder.dim + 1


class Level(Objective):
    """Mean squared error of a linear layer on the mean token."""

    config: LevelConfig
    mean: Tensor
    steps_seen: Tensor

    def __init__(self, config: LevelConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.guess = nn.Linear(dim, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(cls, config: Any, model: Model, context: Context) -> Self:
        """See `Objective.build`."""
        return cls(config, model.encoder.dim)

    def prepare(self, model: Model, batches: Iterable[FeatureBatch]) -> dict[str, float]:
        """Centre the targets on the first batch."""
        self.mean.copy_(_levels(next(iter(batches)).x).mean())
        return {"mean_level": float(self.mean)}

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Squared errors, summed over clips."""
        out = model.encoder(batch.x, batch.steps_B)
        guess_B = self.guess(pool(out.tokens_BND, out.valid_BN))[:, 0]
        error_B = (guess_B.float() - self.config.scale * (_levels(batch.x) - self.mean)).square()
        real_B = torch.ones_like(error_B, dtype=torch.bool)
        real_B = real_B if batch.real_B is None else batch.real_B
        total, count = error_B.masked_fill(~real_B, 0.0).sum(), real_B.sum()
        logs = {"loss": (total.detach(), count), "error": (total.detach(), count)}
        return StepOutput(total, count, logs)

    def after_step(self, model: Model, step: int, total: int) -> None:
        """Count, as a teacher would follow."""
        self.steps_seen += 1


def _levels(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)
