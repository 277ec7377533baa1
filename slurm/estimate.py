"""What a job will need, from the parameter count and from what was measured before.

Memory per device: weights, gradients and AdamW's two moments in float32 are 16 bytes a parameter
(20 with a moving average); activations are measured, not guessed, so they are named as missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """Figures for the person who submits; None where nothing was measured."""

    parameters: int
    state_gb: float
    """Weights, gradients, optimiser and average on one device."""
    checkpoint_gb: float
    hours: float | None
    """Of training, without waiting in the queue."""
    basis: str
    """What the hours rest on."""

    @property
    def lines(self) -> list[str]:
        """For the screen."""
        hours = "unknown" if self.hours is None else f"about {self.hours:.1f} h"
        return [
            f"model     {self.parameters / 1e6:.1f} M parameters; {self.state_gb:.2f} GB on each "
            f"device before activations; {self.checkpoint_gb:.2f} GB per checkpoint",
            f"duration  {hours} ({self.basis})",
        ]


def estimate(recipe: Recipe, ranks: int) -> Estimate:
    """Estimate from the recipe; looks for an earlier run of the same encoder and stage."""
    import torch

    from dawnchorus.trainer.assembly import build_objective
    from dawnchorus.trainer.model import BioEncoder

    with torch.device("meta"):
        model = BioEncoder.from_config(recipe.resolved()["encoder"], None)
        objective = build_objective(recipe, model.encoder, 1000)
    parameters = sum(p.numel() for part in (model, objective) for p in part.parameters())
    per_parameter = 16 + 4 * (recipe.optim.ema_decay is not None)
    rate, basis = _measured(recipe, ranks)
    clips = recipe.train.total_steps * recipe.train.global_batch
    return Estimate(
        parameters,
        parameters * per_parameter / 1e9,
        parameters * (per_parameter - 4) / 1e9,
        clips / rate / 3600 if rate else None,
        basis,
    )


def _measured(recipe: Recipe, ranks: int) -> tuple[float | None, str]:
    """Clips per second on `ranks` devices by the newest comparable run in the runs folder."""
    import yaml

    wanted = recipe.resolved()
    for folder in sorted(Path(recipe.runs).glob("*/metrics.jsonl"), key=_age)[::-1]:
        run = folder.parent
        try:
            other = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
            # Not the name and the accelerator only: another window or encoder is another cost.
            alike = all(_same(other, wanted, key) for key in (
                ("encoder",), ("objective", "name"), ("data", "window_s"), ("train", "precision")
            ))  # fmt: skip
            if alike and (found := _rate(folder)):
                rate, of_ranks = found
                return rate / of_ranks * ranks, (
                    f"from {rate:.1f} clips/s on {of_ranks} device(s) in {run.name}, scaled to "
                    f"{ranks} without loss"
                )
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    return None, "no earlier run of this encoder in the runs folder to go by"


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _same(a: Any, b: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        a, b = a[key], b[key]
    # "auto" becomes something else in the run; it cannot be compared.
    return bool(a == b or "auto" in (a, b))


def _rate(metrics: Path) -> tuple[float, int] | None:
    rate, ranks = None, 1
    with metrics.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            ranks = line.get("ranks", ranks)
            if line.get("kind") == "train" and line.get("clips_per_s"):
                rate = float(line["clips_per_s"])
    return (rate, ranks) if rate else None
