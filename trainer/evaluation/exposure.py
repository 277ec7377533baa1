"""Which of the tested clips a model has already seen in training, with or without their labels.

A probe score on clips whose labels the encoder was trained on measures memory. The recipe that
travels with a checkpoint says which datasets and folds it was trained on, so this can be checked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from dawnchorus.trainer.data.config import RemoteConfig
from dawnchorus.trainer.data.storage import open_folder
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.registry import needs_labels
from dawnchorus.trainer.runtime.recorded_paths import recorded_path

# A training set that cannot be reached leaves one question open; it is not worth a long wait.
_PATIENCE_S = 10.0
_MOST_STAGES = 8


def exposure(
    recipe: Mapping[str, Any] | None, recordings: Collection[str], run: Path | None = None
) -> dict[str, Any]:
    """Count tested recordings that the model's training sources hold, stage by stage.

    Follows `init_from` to the run folders of earlier stages. Recordings are compared by id, so
    the same archive prepared twice is recognised.

    Args:
        recipe: the resolved recipe of the checkpoint; None where the file carries none.
        recordings: ids of the recordings in the test parts.
        run: the run folder that the recipe is of: relative paths in it are looked up as
            `recorded_path` does.

    Returns:
        `known`: whether every stage and source could be looked at; `labelled` and `unlabelled`:
        tested recordings seen with and without labels; `sources`: per source, stage and count;
        `missing`: what could not be looked at.
    """
    tested = set(recordings)
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    sources: list[dict[str, Any]] = []
    missing: list[str] = [] if recipe is not None else ["the file carries no recipe"]
    stage = recipe
    for _ in range(_MOST_STAGES):
        if stage is None:
            break
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
        earlier = stage.get("init_from")
        stage, run = _earlier_recipe(earlier, run)
        if earlier and stage is None:
            missing.append(f"init_from {earlier}")
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
    """Ids of the recordings that a recipe's source draws from; None where it is not at hand."""
    import polars as pl

    path = str(source.get("path"))
    if "${" in path and recorded_path(path, run) is None:
        # An address is not filled in: a checkpoint of somebody else's would choose who learns what.
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


def _earlier_recipe(path: object, run: Path | None) -> tuple[dict[str, Any] | None, Path | None]:
    """The recipe of the run folder that `init_from` names, or whose checkpoint it names, and that
    folder.
    """
    if not path:
        return None, None
    # The checkpoint itself may be gone; its run folder is what counts.
    for place in (Path(str(path)), Path(str(path)).parent.parent):
        folder = recorded_path(str(place), run)
        if folder is not None and (folder / "recipe.yaml").is_file():
            recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
            return (recipe if isinstance(recipe, dict) else None), folder
    return None, None
