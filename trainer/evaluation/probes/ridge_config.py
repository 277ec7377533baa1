"""Numbers of the ridge probe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Positive, check_ranges
from dawnchorus.trainer.evaluation.probes.base_config import ProbeConfig


@dataclass(frozen=True, kw_only=True)
class RidgeConfig(ProbeConfig):
    """Ridge regression to the labels, one class against the rest, in closed form: no draw, no
    epochs, seconds where the linear probe takes minutes.
    """

    title: ClassVar[str] = "Ridge probe"

    name: Literal["ridge"] = "ridge"
    """Which probe; the other keys are its own."""
    penalties: tuple[Positive, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    """Candidates for the factor of the squared weights (scikit-learn's `alpha`). The best on the
    fold's validation part is taken; where there is no such part, the one with the least squared
    leave-one-out error on the training part."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.penalties:
            raise ValueError("penalties is empty: name one at least")
