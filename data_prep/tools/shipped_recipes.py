"""The recipes that come with the package (`recipes/<kind>/*.yaml`), for `chorus prep`."""

from __future__ import annotations

import difflib
from pathlib import Path

from dawnchorus.data_prep.errors import PrepError


def recipe_folder(kind: str) -> Path:
    """Return the folder of the shipped recipes of one kind, "select" or "download".

    In a checkout it is `recipes/<kind>`. The wheel holds the folder `recipes` once, as files
    beside the trainer; they are found by path, so nothing of the trainer is imported.
    """
    here = Path(__file__).resolve().parents[2]
    for folder in (here / "recipes" / kind, here / "trainer" / "_recipes" / kind):
        if folder.is_dir():
            return folder
    raise PrepError(f"The folder of shipped {kind} recipes is missing below {here}: reinstall.")


def recipe_names(kind: str) -> list[str]:
    """Return the names of the shipped recipes of one kind."""
    return sorted(path.stem for path in recipe_folder(kind).glob("*.yaml"))


def find_recipe(kind: str, recipe: str) -> Path:
    """Return the YAML file that `recipe` means: a path, or the name of a shipped recipe.

    Raises PrepError, with the closest names, where there is neither.
    """
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise PrepError(f"There is no recipe file {recipe}.")
        return path
    names = recipe_names(kind)
    if recipe not in names:
        close = difflib.get_close_matches(recipe, names, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise PrepError(
            f"There is no recipe {recipe!r}.{hint} Shipped are: {', '.join(names)}. A recipe of "
            "your own is given as the path of its YAML file."
        )
    return recipe_folder(kind) / f"{recipe}.yaml"
