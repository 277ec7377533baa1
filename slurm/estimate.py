"""What a job will need, from the recipe's numbers and from what was measured before; no torch.

Weights, gradients and AdamW's two moments in float32 are 16 bytes a parameter, 20 with a moving
average. `ddp` keeps all of that on every device and gathers gradients in buckets, which view them;
`fsdp` keeps a share of it, and gathers one layer at a time and what stands outside the layers.
Activations depend on the micro-batch and on kernels: they are measured, not guessed, and come on
top.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """Figures for the person who submits; None where nothing was measured."""

    parameters: int
    """Of encoder and objective, with `classes` of them in the head."""
    classes: int | None
    """Labels that the head was counted with; None where there is none, or none is known yet."""
    state_gb: float
    """Weights, gradients, optimiser and average on one device, in 10^9 bytes."""
    gathered_gb: float
    """What one device holds of others' shares for a moment (`fsdp`)."""
    checkpoint_gb: float
    """A checkpoint on the disk: weights, optimiser and average, no gradients."""
    hours: float | None
    """Of training, without waiting in the queue."""
    basis: str
    """What the hours rest on."""

    @property
    def lines(self) -> list[str]:
        """For the screen."""
        hours = "unknown" if self.hours is None else f"about {self.hours:.1f} h"
        head = "" if self.classes is None else f" (a head of {self.classes:,} labels among them)"
        gathered = f", up to {self.gathered_gb:.2f} GB gathered" if self.gathered_gb else ""
        return [
            f"model     {self.parameters / 1e6:.1f} M parameters{head}",
            f"memory    {self.state_gb:.2f} GB{gathered} on each device, and the activations; "
            f"{self.checkpoint_gb:.2f} GB per checkpoint",
            f"duration  {hours} ({self.basis})",
        ]


def estimate(recipe: Recipe, ranks: int) -> Estimate:
    """Estimate from the recipe; looks for an earlier run of the same encoder and stage."""
    encoder, objective = recipe.encoder, recipe.objective
    classes = _classes(recipe) if objective.needs_labels else None
    outside = objective.parameters(encoder, classes or 0)
    parameters = encoder.parameters + outside
    per_parameter = 16 + 4 * (recipe.optim.ema_decay is not None)
    frozen = 4.0 * objective.frozen_parameters(encoder)
    state, gathered = parameters * per_parameter + frozen, 0.0
    if recipe.train.strategy == "fsdp" and ranks > 1:
        state /= ranks
        # Weights and their gradients: of a block, and of what no block holds.
        elsewhere = encoder.parameters - encoder.blocks_parameters + outside
        gathered = 8.0 * (encoder.largest_block + elsewhere)
    rate, basis = _measured(recipe, ranks)
    clips = recipe.train.total_steps * recipe.train.global_batch
    return Estimate(
        parameters=parameters,
        classes=classes,
        state_gb=state / 1e9,
        gathered_gb=gathered / 1e9,
        checkpoint_gb=(parameters * (per_parameter - 4) + frozen) / 1e9,
        hours=clips / rate / 3600 if rate else None,
        basis=basis,
    )


def _classes(recipe: Recipe) -> int | None:
    """Labels in the union of the training datasets; None where one cannot be read from here."""
    from dawnchorus.trainer.data.index import LabelSpace
    from dawnchorus.trainer.errors import DataError

    places = [Path(source.path) / "labels.json" for source in recipe.data.train.values()]
    try:
        return len({name for place in places for name in LabelSpace.read(place).names}) or None
    except DataError:
        return None


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
    from dawnchorus.trainer.metrics_log import standing_lines

    rate, ranks = None, 1
    for line in standing_lines(metrics):
        ranks = line.get("ranks", ranks)
        if line.get("kind") == "train" and line.get("clips_per_s"):
            rate = float(line["clips_per_s"])
    return (rate, ranks) if rate else None
