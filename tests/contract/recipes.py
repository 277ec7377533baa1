"""Recipes of the contract: any encoder with any objective."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tiny

from dawnchorus.trainer.recipe import load_recipe

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe

RECIPE = Path(__file__).with_name("recipe.yaml")


def contract_recipe(encoder: str, objective: str, *more: str, data: Path | None = None) -> Recipe:
    """A few steps of a tiny encoder with an objective.

    Raises:
        RecipeError: the two do not go together.
    """
    where = data or Path("nowhere")
    sources = [f"data.{part}.tones.path={where}" for part in ("train", "valid")]
    chosen = [*tiny.ENCODERS[encoder], *tiny.OBJECTIVES[objective]]
    return load_recipe(str(RECIPE), [*chosen, *sources, *more])
