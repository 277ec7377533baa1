"""Where a recipe may read the environment: in paths, and nowhere else.

What a recipe says is recorded, logged and published with the model, so a recipe of somebody else's
must not be able to put a password from the environment into a title.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

PATHS = frozenset(
    {"path", "table", "audio", "runs", "init_from", "cache", "previous", "species_file"}
)
"""Keys of all recipes that name a file or folder."""
ONLY_PATHS = (
    "the environment is read in paths only (" + ", ".join(sorted(PATHS)) + "): what a recipe says "
    "elsewhere is recorded and published"
)
_REFERENCE = re.compile(r"(?<!\\)\$\{\s*(?P<name>[^{}:]*?)\s*(?P<resolver>:|\})")


def misplaced(tree: Any, where: tuple[str, ...] = ()) -> Iterator[str]:
    """What is wrong with the references of a recipe that is not resolved yet, a sentence each.

    `${a.b}` stands for another key; `${oc.env:NAME,default}` for the environment, in paths.
    Nothing else is a reference, and a path is referred to by paths alone.
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from misplaced(value, (*where, str(key)))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from misplaced(value, (*where, str(number)))
    elif isinstance(tree, str):
        key = next((part for part in reversed(where) if not part.isdigit()), "")
        for found in _REFERENCE.finditer(tree):
            problem = _problem(found["name"], found["resolver"] == ":", in_path=key in PATHS)
            if problem:
                yield f"{'.'.join(where)}: {problem}"


def _problem(name: str, resolver: bool, *, in_path: bool) -> str:
    if not resolver:
        if not in_path and name.rpartition(".")[2].strip("[]'\"") in PATHS:
            return (
                f"${{{name}}} is a path, which may hold something of the environment; {ONLY_PATHS}"
            )
        return ""
    if name != "oc.env":
        return (
            f"${{{name}:...}} is not read; a reference is ${{key.of.the.recipe}} or, in a path, "
            "${oc.env:NAME,default}"
        )
    return "" if in_path else f"${{oc.env:...}} stands here, and {ONLY_PATHS}"
