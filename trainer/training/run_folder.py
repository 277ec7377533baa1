"""The run folder: its files from before the first step, and which recipes may continue it."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.data.overlap import Overlap, validation_overlap
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.hub.provenance import lineage
from dawnchorus.trainer.session.environment import describe_environment
from dawnchorus.trainer.training.layout import total_steps
from dawnchorus.trainer.training.schedule import learning_rate

if TYPE_CHECKING:
    from dawnchorus.trainer.data.module import TrainStream
    from dawnchorus.trainer.recipe import Recipe

# These keys may differ when a run folder is continued, because they do not change what is learned.
# The length of the run may differ only under the conditions of `_other_length`.
_PLACE = re.compile(r"data\.(train|valid|noise)\.[^.]+\.path")
_FREE_TO_CHANGE = {
    "runs", "log", "card", "train.micro_batch",
    "train.accelerator", "train.devices", "train.nodes", "train.strategy", "train.compile",
    "train.log_every",
    "train.validate_every", "train.checkpoint_every", "train.keep_last", "train.keep_every",
    "train.best_metric", "train.watchdog_minutes", "data.workers", "data.prefetch",
    "data.max_broken", "data.remote", "init_from",
    "train.prepare_batches", "train.codebook_batches",  # before the first step only; the old name
    "optim.restarts",  # see `_other_length`
}  # fmt: skip
_LENGTH = ("train.max_steps", "train.max_clips")
_EARLIER = {"objective.tokenizer.name": "random_projection"}
"""Keys that earlier versions did not write -> the only value that they stood for."""


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_differences(
    old: dict[str, Any],
    new: dict[str, Any],
    *,
    moved: bool = False,
    usual: Container[str] = (),
) -> list[str]:
    """List the differences that keep one resolved recipe from continuing the other's run.

    Args:
        old: the recipe in the run folder.
        new: the recipe that is to continue it.
        moved: whether the paths of datasets may differ (because their digests are compared).
        usual: keys that have their default in the new recipe. Where the old one, of an earlier
            version, does not have such a key, it did what the default does.
    """
    b = _flat(new)
    a = {key: value for key, value in _EARLIER.items() if key in b} | _flat(old)
    return [
        f"{key}: {a.get(key)!r} there, {b.get(key)!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
        and not (key not in a and key in usual)
        and key not in _LENGTH
        and not any(key == free or key.startswith(free + ".") for free in _FREE_TO_CHANGE)
        and not (moved and _PLACE.fullmatch(key))
    ]


def check_folder(recipe: Recipe, stream: TrainStream | None = None) -> None:
    """Make sure that the run folder is new or holds a run of this very recipe, on the same data.

    A dataset may have moved, on disk or to an object store, as long as its index and its label
    space are the same.

    Args:
        recipe: the recipe.
        stream: its opened data; None if it is not open yet (then the start of the run checks it).

    Raises:
        RecipeError: the folder holds a run of another recipe; every differing key is listed.
    """
    path = recipe.folder / "recipe.yaml"
    if not path.is_file():
        return
    known = _digests(recipe.folder)
    old = plain_yaml.load(path.read_text(encoding="utf-8"))
    new = recipe.resolved()
    usual = _flat(new).keys() - _flat(recipe.model_dump(mode="json", exclude_defaults=True)).keys()
    differences = recipe_differences(old, new, moved=bool(known), usual=usual)
    differences += _other_length(old, recipe)
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
            f"Undo these differences; or give this run another name (name=...), with init_from="
            f"{recipe.folder} if it shall start from that run's weights; or delete that folder"
        )


def _other_length(old: dict[str, Any], recipe: Recipe) -> list[str]:
    """Why a run cannot get another length, or other restarts; empty if it can.

    A learning-rate schedule falls towards the end of the run. With another end, the steps done so
    far would have had other rates, and the rate would jump now: no single recipe describes such a
    run. The length may change while the rate is the same for both lengths (during warm-up, in the
    flat part of wsd, or with a constant rate), and where the old end becomes a restart.
    """
    train = old.get("train") or {}
    there, now = total_steps(train), recipe.train.total_steps
    done = _steps_done(recipe.folder)
    new = recipe.optim
    restarts = tuple((old.get("optim") or {}).get("restarts") or ())
    if there is None or not done or (there, restarts) == (now, new.restarts):
        return []
    earlier = replace(new, restarts=restarts)
    # Where two schedules differ, they differ at a restart or at the last step before one.
    ends = {r + i for r in {*restarts, *new.restarts} for i in (-1, 0)}
    for step in sorted(s for s in {*ends, done - 1} if s < done):
        before, after = learning_rate(earlier, step, there), learning_rate(new, step, now)
        if before != after:
            break
    if before == after and now >= done:
        return []
    why = f"it has done {done} steps"
    if before != after:
        why += f", and the learning rate would jump from {before:.3g} to {after:.3g}"
        if step == done - 1:
            listed = ",".join(map(str, (*restarts, there)))
            why += f". Let it climb again from there: optim.restarts=[{listed}]"
    key = "max_steps" if recipe.train.max_steps is not None else "max_clips"
    return [f"train.{key}: {there} steps there, {now} now; {why}"]


def _steps_done(folder: Path) -> int:
    """Step in the name of the newest checkpoint; 0 if there is none."""
    names = (path.name for path in (folder / "checkpoints").glob("step_*.ckpt"))
    return max((int(n) for name in names if (n := name[5:-5]).isdigit()), default=0)


def _digests(folder: Path) -> dict[str, str]:
    """Digest of each dataset at the last start of the run; empty if none is recorded."""
    try:
        found = json.loads((folder / "data.json").read_text())["datasets"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(found)


def write_folder(recipe: Recipe, stream: TrainStream) -> Overlap:
    """Create the run folder with the files that precede the first step. Rank 0 only.

    Returns:
        The number of validation clips from recordings that are trained on (also in data.json).
    """
    folder = recipe.folder
    write_whole(folder / "recipe.yaml", plain_yaml.dump(recipe.resolved()))
    described = zip(stream.describe_sources(), stream.sources, strict=True)
    written = recipe.resolved()["data"]["train"]
    data: dict[str, Any] = {
        "sources": [
            _source(plain | _recorded(plain, written), source.index.root)
            for plain, source in described
        ],
        "datasets": stream.digests,
    }
    overlap = validation_overlap(
        [source.index for source in stream.sources],
        [source.index for source in stream.valid.sources],
    )
    if overlap.clips:
        data["validation"] = {"clips": overlap.clips, "trained_on": overlap.trained_on}
    if recipe.earlier:
        # The card names the data of earlier weights, even if their runs have been deleted.
        data["earlier"] = lineage(recipe.earlier.values())
    for name, content in (
        ("environment.json", describe_environment()),
        ("data.json", data),
        ("labels.json", {"labels": list(stream.labels.names)}),
    ):
        write_whole(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return overlap


def _recorded(source: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """The source with its path as the recipe writes it, if that refers to the environment."""
    path = written[source["name"]]["path"]
    return {"path": path} if "${" in path else {}


def _source(source: dict[str, Any], tables: Path) -> dict[str, Any]:
    """The source with its hours by licence and by recordist, for the model card and the report.

    The figures are of the whole dataset. A fold of it has fewer hours but the same credits.
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
