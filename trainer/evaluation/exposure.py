"""Counts the tested recordings that a model has seen in training, with or without their labels.

A probe score measures memory if the encoder was trained on the labels of the tested clips. The
recipe in a checkpoint names its training datasets and folds, so this can be checked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from dawnchorus.trainer.data.config import RemoteConfig
from dawnchorus.trainer.data.storage import open_folder
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.recipe import earlier_weights
from dawnchorus.trainer.registry import needs_labels
from dawnchorus.trainer.training.recorded_paths import recorded_path

# An unreachable training set only leaves its exposure unknown; that is not worth a long wait.
_PATIENCE_S = 10.0
_MOST_STAGES = 8


def exposure(
    recipe: Mapping[str, Any] | None, recordings: Collection[str], run: Path | None = None
) -> dict[str, Any]:
    """Count tested recordings that the model's training sources hold, stage by stage.

    Follows `init_from`, teachers and tokenizers to the run folders of earlier stages. Recordings
    are compared by id, so the same archive prepared twice is recognised.

    Args:
        recipe: the resolved recipe of the checkpoint; None if the file carries none.
        recordings: ids of the recordings in the test parts.
        run: the run folder of the recipe; `recorded_path` resolves relative paths with it.

    Returns:
        `known`: whether every stage and source could be read; `labelled` and `unlabelled`: number
        of tested recordings seen with and without labels; `sources`: stage and count of each
        source; `missing`: the stages and sources that could not be read.
    """
    tested = set(recordings)
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    sources: list[dict[str, Any]] = []
    missing: list[str] = [] if recipe is not None else ["the file carries no recipe"]
    stages = [] if recipe is None else [(recipe, run)]
    # It grows while it is gone through.
    for stage, run in stages:
        labelled = needs_labels(_section(stage, "objective").get("name"))
        for name, source in _section(_section(stage, "data"), "train").items():
            held = _recordings(source, run)
            if held is None:
                missing.append(f"{stage.get('name')}: dataset {source.get('path')}")
                continue
            both = tested & held
            seen[labelled] |= both
            sources.append(
                {"stage": stage.get("name"), "source": name, "labelled": labelled,
                 "tested_recordings": len(both)}
            )  # fmt: skip
        for key, path in earlier_weights(stage).items():
            before, folder = _earlier_recipe(path, run)
            if before is None:
                missing.append(f"{key} {path}")
            elif len(stages) < _MOST_STAGES and (before, folder) not in stages:
                stages.append((before, folder))
    return {
        "known": not missing,
        "labelled": len(seen[True]),
        "unlabelled": len(seen[False]),
        "tested_recordings": len(tested),
        "sources": sources,
        "missing": missing,
    }


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _recordings(source: Mapping[str, Any], run: Path | None) -> set[str] | None:
    """Ids of the recordings of a recipe's source; None if the source cannot be reached."""
    import polars as pl

    path = str(source.get("path"))
    if "${" in path and recorded_path(path, run) is None:
        # References in an address are not filled in: a foreign checkpoint could send values of our
        # environment to any server.
        return None
    try:
        folder = open_folder(
            str(recorded_path(path, run) or path), RemoteConfig(patience_s=_PATIENCE_S)
        )
    except DataError:
        return None
    index = folder.root / "index.parquet"
    if not index.is_file():
        return None
    rows = pl.scan_parquet(index)
    if source.get("splits"):
        rows = rows.filter(pl.col("split").is_in(list(source["splits"])))
    if source.get("folds"):
        rows = rows.filter(pl.col("fold").is_in([str(f) for f in source["folds"]]))
    if source.get("exclude_folds"):
        excluded = [str(f) for f in source["exclude_folds"]]
        rows = rows.filter(pl.col("fold").is_in(excluded).fill_null(False).not_())
    ids = rows.select("recording_id").unique().collect()
    return set(ids["recording_id"].to_list())


def _earlier_recipe(path: str, run: Path | None) -> tuple[dict[str, Any] | None, Path | None]:
    """Find the run folder of earlier weights: `path` names it or one of its checkpoints.

    Returns its recipe and the folder.
    """
    # The checkpoint itself may be deleted: only its run folder is needed.
    for place in (Path(str(path)), Path(str(path)).parent.parent):
        folder = recorded_path(str(place), run)
        if folder is not None and (folder / "recipe.yaml").is_file():
            recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
            return (recipe if isinstance(recipe, dict) else None), folder
    return None, None
