"""The run folder: what is written into it before the first step, and what may continue it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trainer.errors import RecipeError
from trainer.hub.provenance import lineage
from trainer.runtime.environment import describe_environment
from trainer.runtime.files import write_text

if TYPE_CHECKING:
    from trainer.data.module import TrainStream
    from trainer.recipe import Recipe

# What may differ when a run folder is continued: nothing of it changes what is learned.
_FREE_TO_CHANGE = {
    "runs", "log", "card", "train.max_steps", "train.max_clips", "train.micro_batch",
    "train.accelerator", "train.devices", "train.nodes", "train.compile", "train.log_every",
    "train.validate_every", "train.checkpoint_every", "train.keep_last", "train.keep_every",
    "train.best_metric", "train.watchdog_minutes", "data.workers", "data.prefetch",
    "data.max_broken", "init_from",
}  # fmt: skip


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys in which two resolved recipes differ so that one cannot continue the other's run."""
    a, b = _flat(old), _flat(new)
    return [
        f"{key}: {a.get(key)!r} there, {b.get(key)!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
        and not any(key == free or key.startswith(free + ".") for free in _FREE_TO_CHANGE)
    ]


def check_folder(recipe: Recipe) -> None:
    """Make sure that the run folder is new or holds a run of this very recipe.

    Raises:
        RecipeError: it holds another recipe's run; every differing key is listed.
    """
    path = recipe.folder / "recipe.yaml"
    if not path.is_file():
        return
    differences = recipe_differences(yaml.safe_load(path.read_text()), recipe.resolved())
    if differences:
        listed = "\n".join(f"  {d}" for d in differences)
        raise RecipeError(
            f"the run folder {recipe.folder} holds a run of another recipe:\n{listed}\n"
            "Give this run another name (name=...), or delete that folder"
        )


def write_folder(recipe: Recipe, stream: TrainStream) -> None:
    """Create the run folder with what is known before the first step. Rank 0 only."""
    folder = recipe.folder
    dump = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
    write_text(folder / "recipe.yaml", dump)
    data: dict[str, Any] = {"sources": [_source(s) for s in stream.describe_sources()]}
    if recipe.init_from is not None:
        # What the starting weights learned from; the card needs it even if that run is gone later.
        data["earlier"] = lineage(recipe.init_from)
    for name, content in (
        ("environment.json", describe_environment()),
        ("data.json", data),
        ("labels.json", {"labels": list(stream.labels.names)}),
    ):
        write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _source(source: dict[str, Any]) -> dict[str, Any]:
    """A source with its hours by licence and by recordist, for the model card and the report.

    The figures are those of the whole dataset; a fold of it has fewer hours, the same credits.
    """
    import polars as pl

    path = Path(source["path"]) / "licences.parquet"
    if not path.is_file():
        return source | {"licences": [], "recordists": []}
    table = pl.read_parquet(path)
    totals = [pl.col("clips").sum(), pl.col("hours").sum()]
    by_licence = table.group_by("licence_url").agg(totals).sort("hours", descending=True)
    by_recordist = (
        table.group_by("recordist", "licence_url").agg(totals).sort("hours", descending=True)
    )
    return source | {"licences": by_licence.to_dicts(), "recordists": by_recordist.to_dicts()}
