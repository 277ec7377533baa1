"""Checks that the datasets and weights of a recipe exist, before anything starts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.trainer.errors import DataError

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe


def missing_inputs(
    recipe: Recipe, *, opened: bool = False, later: Collection[str] = ()
) -> list[str]:
    """List the inputs of the recipe that do not exist: a sentence each, with its key.

    Args:
        recipe: the recipe.
        opened: also open each dataset, even in object stores, to check splits, folds, sample rate
            and labels.
        later: keys whose files an earlier job will make, e.g. `init_from`.
    """
    problems = []
    if not recipe.data.train:
        problems.append("data.train names no dataset: add data.train.NAME.path=DATASET")
    labelled = False
    for part in ("train", "valid", "noise"):
        for name, source in getattr(recipe.data, part).items():
            where = f"data.{part}.{name}.path"
            folder = Path(source.path)
            remote = "://" in source.path
            if not remote and not (folder / "index.parquet").is_file():
                what = "does not exist"
                if folder.exists():
                    what = "holds no finished dataset" if folder.is_dir() else "is no folder"
                problems.append(f"{where}: {folder} {what} (see `chorus prep`)")
            elif opened:
                from dawnchorus.trainer.data.sources import open_indexes

                try:
                    index = open_indexes(
                        {name: source}, part, recipe.encoder.sample_rate_hz, recipe.data.remote
                    )[name]
                    labelled |= part == "train" and bool(index.label_counts().any())
                except DataError as error:
                    problems.append(str(error))
    if opened and not problems and recipe.objective.needs_labels and not labelled:
        problems.append(
            "data.train: no clip of these datasets has a label, and objective "
            f"{recipe.objective.name} learns from labels"
        )
    for key, path in recipe.earlier.items():
        if key not in later and not Path(path).exists():
            problems.append(f"{key}: {path} does not exist")
    return problems
