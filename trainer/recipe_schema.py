"""The JSON Schema of a recipe: with it an editor completes, explains and checks the keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import TypeAdapter

from dawnchorus.trainer.compose import recipes_folder, shipped_recipes
from dawnchorus.trainer.kinds import TRAIN, Kind
from dawnchorus.trainer.overrides import fields_of


def json_schema(kind: Kind = TRAIN) -> dict[str, Any]:
    """JSON Schema of a file of a kind: every key is described, none is required.

    A file has only the differences from the recipe that it starts from, so no key is required here.
    The check of the composed recipe reports missing keys.
    """
    model = kind.schema()
    schema: dict[str, Any] = TypeAdapter(model).json_schema()
    parts = {"": schema, **schema.get("$defs", {})}
    classes = {"": model, **{found.__name__: found for found in _classes(model)}}
    for name, part in parts.items():
        part.pop("required", None)
        for key, field in part.get("properties", {}).items():
            # Of a section that is explained in the words of its class pydantic has the class's.
            if not field.keys() & {"description", "$ref"} and name in classes:
                field["description"] = _inherited(classes[name], key)
    schema = _lenient(schema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"dawnchorus {kind.noun}"
    schema["properties"]["defaults"] = _defaults(kind, list(schema["properties"]))
    return schema


def _classes(annotation: Any) -> Iterator[type]:
    """Every model within an annotation, itself included."""
    if fields := fields_of(annotation):
        yield annotation
    for inner in (*get_args(annotation), *fields.values()):
        yield from _classes(inner)


def _inherited(model: type, key: str) -> str:
    """The description of a field in the class that has it: pydantic reads only a class's own."""
    for base in model.__mro__[1:]:
        if key in fields_of(base):
            field = TypeAdapter(base).json_schema()["properties"].get(key, {})
            if text := field.get("description"):
                return str(text)
    return "Which one; the other keys are its own." if key == "name" else ""


def _lenient(tree: Any) -> Any:
    """Make the `name` of a union's member optional: a file may inherit it from its `defaults`."""
    if isinstance(tree, dict):
        return {
            "anyOf" if key == "oneOf" else key: _lenient(value)
            for key, value in tree.items()
            if key != "discriminator"
        }
    return [_lenient(value) for value in tree] if isinstance(tree, list) else tree


def _defaults(kind: Kind, keys: list[str]) -> dict[str, Any]:
    """The list that a file starts from: names of its kind, and choices of groups."""

    def one_of(names: list[str]) -> dict[str, Any]:
        # The shipped ones are completed; files of one's own have other names.
        return {"anyOf": [{"enum": names}, {"type": "string"}]}

    root = recipes_folder() / kind.folder
    groups = {
        key: one_of(sorted(p.stem for p in (root / key).glob("*.yaml")))
        for key in keys
        if (root / key).is_dir()
    }
    choices = groups | {f"override {key}": files for key, files in groups.items()}
    items: list[dict[str, Any]] = [one_of(["_self_", *shipped_recipes(kind)])]
    if choices:
        items.append({"type": "object", "properties": choices})
    return {
        "type": ["array", "string"],
        "items": {"anyOf": items},
        "description": "What this file starts from: recipes of its kind"
        + (" and choices of groups" if choices else "")
        + ". What stands in the file goes over it.",
    }
