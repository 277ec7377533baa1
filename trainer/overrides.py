"""Overrides `key.key=value` on a command line; the type of the field decides how a value is read.

If a field holds text (a path, a name, one of several words), the value is taken literally, whatever
characters it has. Only quotes around the whole value are removed, and `null` means "no value" if
the field may be empty. If a field holds a list of texts, `[a, b]` is that list. In all other fields
the value is read as YAML: numbers (1e-4 too), true, false, null, [lists] and {mappings}. Anything
else is text.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dawnchorus.trainer.errors import RecipeError

_SINGLE = re.compile(r"'(?:[^']|'')*'", re.DOTALL)
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


@dataclass(frozen=True)
class Override:
    """One word of a command line, split at its first `=`."""

    word: str
    path: tuple[str, ...]
    value: str | None
    """The text after the `=`; None for `~key`, which removes the key."""


def read_override(word: str) -> Override:
    """Split `a.b=value` or `~a.b`. A `+` or `++` before the key is allowed and changes nothing.

    Raises:
        RecipeError: the word is neither.
    """
    key, equals, value = word.partition("=")
    removed = key.startswith("~")
    bare = key.lstrip("+~")
    path = tuple(bare.split("."))
    if (not equals and not removed) or not all(part.strip() for part in path):
        raise RecipeError(f"{word}: overrides are key=value, for example seed=1")
    return Override(word, path, None if removed else value)


def apply(tree: dict[str, Any], override: Override, schema: Any = None) -> None:
    """Set or remove one key of plain nested dicts, in place.

    Args:
        tree: the dicts.
        override: the key and its value.
        schema: the dataclass or pydantic model that describes `tree`. None: values are YAML.

    Raises:
        RecipeError: the value cannot be read, or the place for the key does not exist.
    """
    *above, last = override.path
    place: Any = tree
    for depth, part in enumerate(above):
        if override.value is not None and place.get(part) is None:
            place[part] = {}
        place = place.get(part)
        if not isinstance(place, dict):
            where = ".".join(override.path[: depth + 1])
            what = "there is no such key" if place is None else f"{where} has no keys below it"
            raise RecipeError(f"{override.word}: {what}")
    if override.value is None:
        if last not in place:
            raise RecipeError(f"{override.word}: there is no such key to remove")
        del place[last]
        return
    kinds = annotations_at(schema, override.path) if schema is not None else []
    place[last] = read_value(override.value, kinds, override.word)


def start_over(tree: dict[str, Any], override: Override, schema: Any) -> None:
    """Empty a section, in place, if the override names another kind of thing for it.

    The section's type is a union whose members are told apart by their `name`. Numbers that a file
    gives to a linear probe mean nothing to another probe, or something else.

    Args:
        tree: the dicts that the files gave.
        override: `section.name=...`; any other changes nothing.
        schema: the dataclass or pydantic model that describes `tree`.
    """
    *above, last = override.path
    place: Any = tree
    for part in above:
        place = place.get(part) if isinstance(place, dict) else None
    if last != "name" or override.value is None or not above or not isinstance(place, dict):
        return
    names = {name_of(place) for name_of in _discriminators(annotations_at(schema, above))}
    if names and override.value not in names:
        place.clear()


def _discriminators(annotations: Sequence[Any]) -> list[Callable[[Any], Any]]:
    """What tells the members of each union apart: a function from a section to its `name`."""
    found: list[Callable[[Any], Any]] = []
    for annotation in annotations:
        for mark in getattr(annotation, "__metadata__", ()):
            teller = getattr(mark, "discriminator", None)
            if teller == "name":
                found.append(lambda section: section.get("name"))
            elif callable(teller):
                found.append(teller)
    return found


def read_value(text: str, kinds: Sequence[Any], word: str) -> Any:
    """The value that `text` means for a field that is annotated with one of `kinds`.

    Args:
        text: what follows the `=`.
        kinds: the annotations of the field; empty for an unknown field.
        word: the whole override, for the message.

    Raises:
        RecipeError: the text begins like a list or a mapping and is not one, or it holds a
            reference.
    """
    import yaml

    from dawnchorus.trainer import plain_yaml

    if "${" in text:
        raise RecipeError(
            f"{word}: ${{ begins a reference, which only recipe files may hold. Let the shell "
            "fill in the value, or write the key in a recipe file of your own"
        )
    flat = [kind for annotation in kinds for kind in alternatives(annotation)]
    empty = type(None) in flat
    wanted = [kind for kind in flat if kind is not type(None)]
    if (quoted := _unquoted(text)) is not None:
        return quoted
    if wanted and all(_is_text(kind) for kind in wanted):
        return None if empty and plain_yaml.scalar(text) is None else text
    plain = text.strip()
    if plain[:1] in ("[", "{"):
        texts = bool(wanted) and all(_is_text(inner) for kind in wanted for inner in _inside(kind))
        try:
            return plain_yaml.load(plain, texts=texts)
        except yaml.YAMLError as error:
            raise RecipeError(
                f"{word}: the value begins like a list or a mapping and cannot be read as one "
                f"({' '.join(str(error).split())}). Put quotes around a text: key='\"{plain}\"'"
            ) from None
    found = plain_yaml.scalar(plain)
    return text if isinstance(found, str) else found


def _unquoted(text: str) -> str | None:
    """The text without the quotes around the whole of it; None if there are none."""
    import yaml

    if _SINGLE.fullmatch(text):
        return text[1:-1].replace("''", "'")
    if _DOUBLE.fullmatch(text):
        try:
            return str(yaml.safe_load(text))
        except yaml.YAMLError:
            return None
    return None


# --------------------------------------------------------------------------- what a field holds


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, without `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in alternatives(member)]
    return [annotation]


def fields_of(kind: Any) -> dict[str, Any]:
    """Name -> annotation of a dataclass or pydantic model; empty for anything else."""
    if not isinstance(kind, type):
        return {}
    names: Mapping[str, Any] | list[str] = getattr(kind, "model_fields", {})
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    hints = typing.get_type_hints(kind, include_extras=True) if names else {}
    return {name: hints[name] for name in names}


def annotations_at(root: Any, path: Sequence[Any]) -> list[Any]:
    """Annotations that a schema has at a path: several below a union, none for an unknown key."""
    return walk(root, path)[0]


def walk(root: Any, path: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return (the annotations at a path, the path as a person writes it).

    pydantic puts the tag or the name of a union's member into its paths. It is left out here.
    """
    current, written = [root], []
    for step in path:
        kinds = [kind for annotation in current for kind in alternatives(annotation)]
        kinds = [kind for kind in kinds if kind is not type(None)]
        tagged = [kind for kind in kinds if step in get_args(fields_of(kind).get("name"))]
        if tagged and len(kinds) > 1:
            current = tagged
            continue
        inner = [below for kind in kinds for below in _below(kind, step)]
        if not inner and len(kinds) > 1 and isinstance(step, str):
            continue
        written.append(step)
        current = inner
    return current, written


def _below(kind: Any, step: Any) -> list[Any]:
    if get_origin(kind) in (dict, Mapping):
        return [get_args(kind)[1]]
    if isinstance(step, int):
        return _inside(kind) if get_origin(kind) in (list, tuple) else []
    fields = fields_of(kind)
    return [fields[step]] if step in fields else []


def _inside(kind: Any) -> list[Any]:
    """The annotations of a list's elements or a mapping's values; of anything else itself."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, tuple, set, frozenset):
        inner = [argument for argument in arguments if argument is not Ellipsis]
    elif origin in (dict, Mapping):
        inner = [arguments[1]]
    else:
        return [kind]
    return [member for argument in inner for member in alternatives(argument)]


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(word, str) for word in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str | Path)
