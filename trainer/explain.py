"""What pydantic finds wrong with a recipe, as sentences: path, what is wrong, what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def describe(error: ValidationError, origin: str, root: Any) -> str:
    """All problems of a validation, one block each: path, what is wrong, what is allowed."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        lines += _one_problem(problem, root)
    count = len(lines)
    head = f"{count} problem{'s' if count > 1 else ''} in recipe {origin!r}:"
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _one_problem(problem: Any, root: Any) -> list[str]:
    # A tagged union puts the tag into the path; nobody wrote it there.
    location = [p for p in problem["loc"] if p not in {"masked_tokens", "multilabel"}]
    path = ".".join(str(p) for p in location)
    kind, value = problem["type"], problem.get("input")
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        known = _keys_at(root, problem["loc"][:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.7)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return [f"{path}: there is no such key; {hint}"]
    if kind == "missing":
        return [f"{path}: is required and not given"]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:
        return message.split("\n")
    shown = f" (got {value!r})" if not isinstance(value, dict) else ""
    return [f"{path}: {message}{shown}"]


def _keys_at(root: Any, location: Sequence[Any]) -> list[str]:
    """The keys that the schema allows at a path."""
    from typing import get_args, get_type_hints

    current = root
    for step in location:
        hints = get_type_hints(current) if isinstance(current, type) else {}
        if step in hints:
            current = hints[step]
            continue
        arguments = [a for a in get_args(current) if isinstance(a, type)]
        tagged = [a for a in arguments if getattr(a, "name", None) == step]
        current = tagged[0] if tagged else (arguments[-1] if arguments else current)
    if isinstance(current, type) and dataclasses.is_dataclass(current):
        return [f.name for f in dataclasses.fields(current)]
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
