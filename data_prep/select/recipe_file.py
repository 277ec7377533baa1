"""Reading the recipe of a selection, and explaining its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from dawnchorus.data_prep.select.selection_recipe import SelectRecipe
from dawnchorus.trainer.compose import load
from dawnchorus.trainer.kinds import SELECT


def load_recipe(name: str, overrides: Sequence[str] = ()) -> SelectRecipe:
    """Return the recipe `name` (shipped, or the path of a YAML file) with `key.key=value` applied.

    Paths that are not absolute start from the working folder. Raises RecipeError that names
    everything that is wrong at once.
    """
    loaded: SelectRecipe = load(SELECT, name, overrides)
    return loaded


def describe_keys(
    model: type[BaseModel] = SelectRecipe, prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, what it does) of every key of the recipe."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        key = f"{prefix}{name}"
        inner = kind
        if get_origin(kind) is dict:
            inner, key = get_args(kind)[1], f"{key}.NAME"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from describe_keys(inner, f"{key}.")
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "required" if field.is_required() else _yaml(default)
        yield f"{prefix}{name}", shown, field.description or ""


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {v:g}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
