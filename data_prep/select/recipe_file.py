"""Reading a recipe: the YAML file, overrides, the environment, and every mistake at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.select.selection_recipe import SelectRecipe
from dawnchorus.data_prep.tools.shipped_recipes import find_recipe
from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.names import names_a_secret
from dawnchorus.trainer.overrides import apply, read_override
from dawnchorus.trainer.references import ONLY_PATHS, PATHS


def load_recipe(name: str, overrides: Sequence[str] = ()) -> SelectRecipe:
    """Return the recipe `name` (shipped, or the path of a YAML file) with `key.key=value` applied.

    `${NAME}` and `${NAME:default}` in paths are environment variables. Paths that are not absolute
    start from the working folder. Raises PrepError that names everything that is wrong at once.
    """
    import yaml

    path = find_recipe("select", name)
    try:
        found = plain_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise PrepError(f"The recipe {path} cannot be read: {err}") from err
    if not isinstance(found, dict):
        raise PrepError(f"The recipe {path} is not a YAML mapping (key: value).")
    problems: list[str] = []
    for override in overrides:
        try:
            apply(found, read_override(override), SelectRecipe)
        except RecipeError as err:
            problems.append(str(err))
    _drop_nulls(found)
    written: dict[tuple[str, ...], str] = {}
    found = _environment(found, (), problems, written)
    try:
        recipe = SelectRecipe.model_validate(found).remember(written)
    except ValidationError as err:
        problems += [_explain(error) for error in err.errors()]
    if problems:
        raise PrepError(f"The recipe {path} is not valid.\n  " + "\n  ".join(problems))
    return recipe


def _drop_nulls(recipe: dict[str, Any]) -> None:
    """`tables.NAME=null` and `evaluation.sets.NAME=null` take one out of a shipped recipe."""
    evaluation = recipe.get("evaluation")
    for place in (recipe, evaluation if isinstance(evaluation, dict) else {}):
        for key in ("tables", "sets"):
            if isinstance(place.get(key), dict):
                place[key] = {k: v for k, v in place[key].items() if v is not None}


def _environment(
    value: Any, where: tuple[str, ...], problems: list[str], written: dict[tuple[str, ...], str]
) -> Any:
    """Replace ${NAME} and ${NAME:default} in all paths; elsewhere they are a problem.

    `written` takes the texts in which something was replaced.
    """
    import os
    import re

    if isinstance(value, dict):
        return {k: _environment(v, (*where, str(k)), problems, written) for k, v in value.items()}
    if isinstance(value, list):
        return [_environment(v, (*where, str(i)), problems, written) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        name, default = found.group(1), found.group(2)
        if where[-1] not in PATHS:
            problems.append(f"{'.'.join(where)}: ${{{name}}} stands here, and {ONLY_PATHS}")
            return found.group()
        written[where] = value
        if names_a_secret(name):
            problems.append(f"{'.'.join(where)}: {name} looks like a secret; no path needs one")
        if name not in os.environ and default is None:
            problems.append(f"{'.'.join(where)}: the environment variable {name} is not set")
        return os.environ.get(name, default or "")

    return re.sub(r"\$\{(\w+)(?::([^}]*))?\}", fill, value)


def _explain(error: Mapping[str, Any]) -> str:
    """One line for one mistake; a misspelt key gets the one that was meant."""
    where = ".".join(map(str, error["loc"])) or "recipe"
    if error["type"] == "extra_forbidden":
        keys = [key for key, _, _ in describe_keys()]
        known = sorted({part for key in keys for part in key.split(".")} - {"NAME"})
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: there is no such key{hint}"
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"


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
