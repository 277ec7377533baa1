"""The run folder: what is written into it before the first step, and what may continue it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.hub.provenance import lineage
from dawnchorus.trainer.runtime.environment import describe_environment
from dawnchorus.trainer.runtime.files import write_text

if TYPE_CHECKING:
    from dawnchorus.trainer.data.module import TrainStream
    from dawnchorus.trainer.recipe import Recipe

# What may differ when a run folder is continued: nothing of it changes what is learned.
_PLACE = re.compile(r"data\.(train|valid|noise)\.[^.]+\.path")
_FREE_TO_CHANGE = {
    "runs", "log", "card", "train.max_steps", "train.max_clips", "train.micro_batch",
    "train.accelerator", "train.devices", "train.nodes", "train.strategy", "train.compile",
    "train.log_every",
    "train.validate_every", "train.checkpoint_every", "train.keep_last", "train.keep_every",
    "train.best_metric", "train.watchdog_minutes", "data.workers", "data.prefetch",
    "data.max_broken", "data.remote", "init_from",
}  # fmt: skip


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_differences(
    old: dict[str, Any], new: dict[str, Any], *, moved: bool = False
) -> list[str]:
    """Keys in which two resolved recipes differ so that one cannot continue the other's run.

    Args:
        old: the recipe in the run folder.
        new: the one that is asked for.
        moved: whether datasets may lie elsewhere by now (because their digests are compared).
    """
    a, b = _flat(old), _flat(new)
    return [
        f"{key}: {a.get(key)!r} there, {b.get(key)!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
        and not any(key == free or key.startswith(free + ".") for free in _FREE_TO_CHANGE)
        and not (moved and _PLACE.fullmatch(key))
    ]


def check_folder(recipe: Recipe, stream: TrainStream | None = None) -> None:
    """Make sure that the run folder is new or holds a run of this very recipe, on the same data.

    A dataset may lie elsewhere than before, in an object store or on disk: what counts is that its
    index and its label space are the same.

    Args:
        recipe: the recipe.
        stream: its opened data; None where that is not at hand (it is checked when the run starts).

    Raises:
        RecipeError: it holds another recipe's run; every differing key is listed.
    """
    path = recipe.folder / "recipe.yaml"
    if not path.is_file():
        return
    known = _digests(recipe.folder)
    old = plain_yaml.load(path.read_text(encoding="utf-8"))
    differences = recipe_differences(old, recipe.resolved(), moved=bool(known))
    if stream is not None:
        differences += [
            f"data.{name}: its index has the digest {known[name]} there, {digest} now"
            for name, digest in stream.digests.items()
            if known.get(name, digest) != digest
        ]
    if differences:
        listed = "\n".join(f"  {d}" for d in differences)
        raise RecipeError(
            f"the run folder {recipe.folder} holds a run of another recipe:\n{listed}\n"
            "Give this run another name (name=...), or delete that folder"
        )


def _digests(folder: Path) -> dict[str, str]:
    """Digest of each dataset when the run was last started; empty where none is known."""
    try:
        found = json.loads((folder / "data.json").read_text())["datasets"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(found)


def write_folder(recipe: Recipe, stream: TrainStream) -> None:
    """Create the run folder with what is known before the first step. Rank 0 only."""
    folder = recipe.folder
    write_text(folder / "recipe.yaml", plain_yaml.dump(recipe.resolved()))
    described = zip(stream.describe_sources(), stream.sources, strict=True)
    data: dict[str, Any] = {
        "sources": [_source(plain, source.index.root) for plain, source in described],
        "datasets": stream.digests,
    }
    if recipe.init_from is not None:
        # What the starting weights learned from; the card needs it even if that run is gone later.
        data["earlier"] = lineage(recipe.init_from)
    for name, content in (
        ("environment.json", describe_environment()),
        ("data.json", data),
        ("labels.json", {"labels": list(stream.labels.names)}),
    ):
        write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _source(source: dict[str, Any], tables: Path) -> dict[str, Any]:
    """A source with its hours by licence and by recordist, for the model card and the report.

    The figures are those of the whole dataset; a fold of it has fewer hours, the same credits.
    """
    import polars as pl

    path = tables / "licences.parquet"
    if not path.is_file():
        return source | {"licences": [], "recordists": []}
    table = pl.read_parquet(path)
    totals = [pl.col("clips").sum(), pl.col("hours").sum()]
    by_licence = table.group_by("licence_url").agg(totals).sort("hours", descending=True)
    by_recordist = (
        table.group_by("recordist", "licence_url").agg(totals).sort("hours", descending=True)
    )
    return source | {"licences": by_licence.to_dicts(), "recordists": by_recordist.to_dicts()}
