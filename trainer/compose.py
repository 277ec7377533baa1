"""Composing a recipe: YAML files by Hydra, then overrides; nothing is validated here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.errors import RecipeError


def recipes_folder() -> Path:
    """Where the shipped recipes are: in the checkout, or inside the installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "recipes", here / "_recipes"):
        if (folder / "encoder").is_dir():
            return folder
    raise RecipeError(f"the folder of shipped recipes is missing beside {here}: reinstall")


def _search_path(recipe: str) -> tuple[Path, str]:
    """(config folder, config name) of a shipped recipe's name or of a path to a YAML file."""
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {recipe}")
        return path.resolve().parent, path.stem
    folder = recipes_folder()
    if not (folder / f"{recipe}.yaml").is_file():
        close = difflib.get_close_matches(recipe, shipped_recipes(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise RecipeError(
            f"there is no recipe {recipe!r}.{hint} `chorus recipe list` shows the shipped ones; "
            "a recipe of your own is given as the path of its YAML file"
        )
    return folder, recipe


def shipped_recipes() -> list[str]:
    """Names of the complete training recipes (the YAML files at the top of the folder)."""
    return sorted(p.stem for p in recipes_folder().glob("*.yaml"))


def _as_hydra_overrides(overrides: Sequence[str], folder: Path) -> list[str]:
    """`group=choice` stays; `a.b=value` becomes a forced set, so that a misspelt key reaches the
    validation, which reports all of them at once and says what was meant.
    """
    result = []
    for override in overrides:
        key, equals, _ = override.partition("=")
        bare = key.lstrip("+~")
        if not equals and not override.startswith("~"):
            raise RecipeError(
                f"cannot read the override {override!r}: write key=value, e.g. train.max_steps=100"
            )
        is_group = "." not in bare and any(
            (root / bare.split("@")[0]).is_dir() for root in {folder, recipes_folder()}
        )
        result.append(
            override if is_group or override.startswith("~") else f"++{bare}{override[len(key) :]}"
        )
    return result


def compose(recipe: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose a recipe and its overrides into plain dicts; nothing is validated yet.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file (whose `defaults` may name the
            shipped groups).
        overrides: Hydra's grammar, e.g. `encoder=beats_large`, `optim.lr=1e-4`.

    Raises:
        RecipeError: there is no such recipe, group or choice, or an override cannot be read.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder, name = _search_path(recipe)
    arguments = _as_hydra_overrides(overrides, folder)
    if folder != recipes_folder():
        arguments.append(f"hydra.searchpath=[file://{recipes_folder()}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3", job_name="chorus"):
            config = hydra_compose(name, arguments)
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError(f"recipe {recipe!r} does not compose: {error}") from None
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}
