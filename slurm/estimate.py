"""Estimate the memory and the time of a job from its recipe and from earlier runs; no torch.

Weights, gradients and AdamW's two moments in float32 take 16 bytes a parameter, 20 with a moving
average. `ddp` keeps all of that on every device; the buckets in which it gathers gradients are
views and take no more. `fsdp` keeps a share on each device, and gathers one layer at a time
besides the parameters outside the layers. Activations depend on the micro-batch and on kernels.
They can only be measured, so they are not in these figures and come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """Figures for the person who submits."""

    parameters: int
    """Parameters of encoder and objective, with a head of `classes` labels."""
    classes: int | None
    """Labels that the head was counted with; None if it has none, or if they are not known yet."""
    state_gb: float
    """Weights, gradients, optimiser and average on one device, in 10^9 bytes."""
    gathered_gb: float
    """Most that one device holds of other devices' shares at a time (`fsdp`), in 10^9 bytes."""
    checkpoint_gb: float
    """Size of a checkpoint on the disk in 10^9 bytes: weights, optimiser and average."""
    hours: float | None
    """Duration of training, without the wait in the queue; None if no earlier run tells it."""
    basis: str
    """Where the figure of `hours` comes from, or why there is none."""

    @property
    def lines(self) -> list[str]:
        """For the screen."""
        hours = "unknown" if self.hours is None else f"about {self.hours:.1f} h"
        head = "" if self.classes is None else f" (with a head of {self.classes:,} labels)"
        gathered = f", up to {self.gathered_gb:.2f} GB gathered" if self.gathered_gb else ""
        return [
            f"model     {self.parameters / 1e6:.1f} M parameters{head}",
            f"memory    {self.state_gb:.2f} GB{gathered} on each device, plus activations; "
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
        # Weights and gradients of one block, and of everything outside the blocks.
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
    """Labels in the union of the training datasets; None if one of them cannot be read here."""
    from dawnchorus.trainer.data.index import LabelSpace
    from dawnchorus.trainer.errors import DataError

    places = [Path(source.path) / "labels.json" for source in recipe.data.train.values()]
    try:
        return len({name for place in places for name in LabelSpace.read(place).names}) or None
    except DataError:
        return None


def _measured(recipe: Recipe, ranks: int) -> tuple[float | None, str]:
    """Clips per second on `ranks` devices, scaled from the newest comparable run, and its basis."""
    import yaml

    wanted = recipe.resolved()
    for folder in sorted(Path(recipe.runs).glob("*/metrics.jsonl"), key=_age)[::-1]:
        run = folder.parent
        try:
            other = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
            # The window and every number of the encoder change the cost, so all are compared.
            alike = all(_same(other, wanted, key) for key in (
                ("encoder",), ("objective", "name"), ("data", "window_s"), ("train", "precision")
            ))  # fmt: skip
            if alike and (found := _rate(folder)):
                rate, of_ranks = found
                return rate / of_ranks * ranks, (
                    f"from {rate:.1f} clips/s on {of_ranks} device(s) in {run.name}, scaled "
                    f"linearly to {ranks}"
                )
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    return None, "the runs folder has no earlier run of this encoder to estimate from"


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _same(a: Any, b: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        a, b = a[key], b[key]
    # A run replaces "auto" by a definite value, so "auto" cannot be compared.
    return bool(a == b or "auto" in (a, b))


def _rate(metrics: Path) -> tuple[float, int] | None:
    from dawnchorus.trainer.metrics_log import standing_lines

    rate, ranks = None, 1
    for line in standing_lines(metrics):
        ranks = line.get("ranks", ranks)
        if line.get("kind") == "train" and line.get("clips_per_s"):
            rate = float(line["clips_per_s"])
    return (rate, ranks) if rate else None
