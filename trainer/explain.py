"""Turns mistakes in a person's values into sentences: the place, the mistake, the allowed values.

Recipes of all kinds and cluster profiles are validated here; all mistakes are reported at once.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.overrides import alternatives, annotations_at, fields_of, walk

Model = TypeVar("Model")
_ROUNDS = 8


def did_you_mean(word: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> str:
    """Return "; did you mean 'layers'?" with the nearest of the known words, or "".

    Args:
        word: the word that was written.
        known: the words that are allowed.
        n: the most words to suggest.
        cutoff: least similarity of a suggestion: 0 accepts any word, 1 only the word itself.
    """
    close = difflib.get_close_matches(word, list(known), n=n, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def validated(
    schema: type[Model],
    composed: Mapping[str, Any],
    origin: str,
    problems: Sequence[str] = (),
) -> Model:
    """Validate nested values and return them as their model, or raise with all mistakes.

    pydantic compares fields with one another only if each of them is valid by itself. So wrong
    values are removed, and the rest is validated again.

    Args:
        schema: the dataclass or pydantic model.
        composed: the recipe as nested dicts.
        origin: name of the values in the message: `the training recipe 'mine.yaml'`.
        problems: mistakes that were found before.

    Raises:
        RecipeError: its message has one line per mistake.
    """
    from pydantic import TypeAdapter, ValidationError

    found = list(problems)
    adapter, rest = TypeAdapter(schema), copy.deepcopy(dict(composed))
    taken: set[str] = set()
    model = None
    for _ in range(_ROUNDS):
        try:
            model = adapter.validate_python(rest)
            break
        except ValidationError as invalid:
            mistakes = _joined(invalid.errors(include_url=False), schema)
        for mistake in mistakes:
            for line in _one_problem(mistake, schema):
                # A value that we have removed is not missing.
                if line not in found and not (taken & set(re.findall(r"\w+", line))):
                    found.append(line)
        before = len(taken)
        taken |= {name for mistake in mistakes if (name := _take_out(rest, mistake, schema))}
        if len(taken) == before:
            break
    if model is None or found:
        count = len(found)
        head = f"{count} problem{'s' if count > 1 else ''} in {origin}:"
        raise RecipeError("\n".join([head, *(f"  {line}" for line in found)]))
    return model


def _joined(mistakes: Sequence[Any], schema: Any) -> list[dict[str, Any]]:
    """One mistake per value: the mistakes of a union's members are joined to one sentence."""
    joined: dict[Any, dict[str, Any]] = {}
    for number, mistake in enumerate(mistakes):
        path = tuple(walk(schema, mistake["loc"])[1])
        of_a_union = len(path) < len(mistake["loc"]) and "Input should be" in mistake["msg"]
        first = joined.setdefault(path if of_a_union else number, dict(mistake))
        if first["msg"] != mistake["msg"]:
            first["msg"] += ", or " + mistake["msg"].removeprefix("Input should be ")
    return list(joined.values())


def _take_out(tree: dict[str, Any], mistake: Any, root: Any) -> str | None:
    """Remove the value with a mistake; returns the name of its key."""
    path = walk(root, mistake["loc"])[1]
    place: Any = tree
    for step in path[:-1]:
        inside = place.get(step) if isinstance(place, dict) else None
        if not isinstance(inside, dict):
            path = path[: path.index(step) + 1]
            break
        place = inside
    if not path or not isinstance(place, dict) or path[-1] not in place:
        return None
    section = place[path[-1]]
    if mistake["type"] == "value_error" and isinstance(section, dict):
        # Keys contradict each other: without the first of them the others may be valid.
        named = [word for word in re.findall(r"\w+", mistake["msg"]) if word in section]
        if named:
            del section[named[0]]
            return str(named[0])
    del place[path[-1]]
    return str(path[-1])


def _one_problem(problem: Any, root: Any) -> list[str]:
    _, location = walk(root, problem["loc"])
    path = ".".join(str(p) for p in location)
    kind, value = problem["type"], problem.get("input")
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        known = _keys_at(root, problem["loc"][:-1])
        hint = did_you_mean(str(location[-1]), known, cutoff=0.7)
        return [f"{path}: there is no such key{hint or '; known keys: ' + ', '.join(known)}"]
    if kind == "missing":
        return [f"{path}: is required and not given"]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error" and isinstance(value, dict):
        return [f"{path}: {line}" if path else line for line in message.split("\n")]
    shown = f" (got {value!r})" if not isinstance(value, dict) else ""
    return [f"{path}: {message}{shown}" if path else message]


def _keys_at(root: Any, location: Sequence[Any]) -> list[str]:
    """The keys that the schema allows at a path."""
    kinds = [kind for found in annotations_at(root, location) for kind in alternatives(found)]
    return list(dict.fromkeys(name for kind in kinds for name in fields_of(kind)))
