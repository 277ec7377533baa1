"""Numbers of the probe with hidden layers. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Count, ShareBelowOne
from dawnchorus.trainer.evaluation.probes.trained_config import EpochsConfig


@dataclass(frozen=True, kw_only=True)
class MlpConfig(EpochsConfig):
    """Hidden layers with ReLU and dropout, then a linear classifier, on one embedding per clip.

    Widths and dropout are the defaults of avex's `models/probes/mlp_probe.py`; the optimiser's
    numbers are those of its other later probes (`configs/evaluation_configs/icassp`).
    """

    title: ClassVar[str] = "MLP probe"

    name: Literal["mlp"] = "mlp"
    """Which probe; the other keys are its own."""
    hidden: tuple[Count, ...] = (512, 256)
    """Width of each hidden layer (avex: 512, 256)."""
    dropout: ShareBelowOne = 0.1
    """Share of the hidden numbers that is dropped in training (avex: 0.1)."""
