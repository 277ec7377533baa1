"""Makes sure that a recipe reads the environment only in its paths.

A recipe is recorded, logged and published with the model, so another person's recipe must not be
able to put a password from the environment into a title. Paths are recorded as they
were written, with `${oc.env:NAME}` in them: a job that is queued again reads its own environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from dawnchorus.trainer.names import names_a_secret

PATHS = frozenset(
    {"path", "table", "audio", "runs", "init_from", "cache", "previous", "species_file", "teacher"}
)
"""Keys of all recipes that name a file or folder."""
ONLY_PATHS = (
    "the environment is read in paths only (" + ", ".join(sorted(PATHS)) + "): what a recipe says "
    "elsewhere is recorded and published"
)
_NOT_ESCAPED = r"(?<!\\)(?:\\\\)*"
"""OmegaConf takes `\\${` for text, but `\\\\${` for a backslash and a reference."""
_REFERENCE = re.compile(_NOT_ESCAPED + r"\$\{\s*(?P<name>[^{}:]*?)\s*(?P<then>:|\}|\$?\{)")
_READS = re.compile(rf"({_NOT_ESCAPED}\$\{{\s*)oc\.env(?=\s*:)")
_WRITTEN = re.compile(r"\$\{oc\.env:(?P<name>\w+)(?:,(?P<default>[^{}]*))?\}")
_HELD = "dawnchorus.held"
_NO_DEFAULT = object()

Key = tuple[str, ...]
Written = dict[Key, str]
"""Key of a recipe, as its parts -> the text that stands there."""


def misread(tree: Any, where: Key = ()) -> Iterator[str]:
    """Find mistakes in the references of an unresolved recipe; yields a sentence for each.

    `${a.b}` stands for another key; `${oc.env:NAME,default}` for the environment. Nothing else is a
    reference.
    """
    for key, text in _texts(tree, where):
        path = ".".join(key)
        for found in _REFERENCE.finditer(text):
            name, then = found["name"], found["then"]
            if then not in (":", "}"):
                yield f"{path}: a reference is written out, without another one in its name"
            elif then == ":" and name != "oc.env":
                yield (
                    f"{path}: ${{{name}:...}} is not read; a reference is ${{key.of.the.recipe}} "
                    "or, in a path, ${oc.env:NAME,default}"
                )


def as_written(tree: Any) -> Written:
    """Collect key -> text of all values that read the environment, directly or by reference.

    References to other keys are filled in; those to the environment stay, as in a record.

    Raises:
        OmegaConfBaseException: a reference leads nowhere.
    """
    from omegaconf import OmegaConf

    if not OmegaConf.has_resolver(_HELD):
        OmegaConf.register_new_resolver(_HELD, _hold)
    held = OmegaConf.to_container(OmegaConf.create(_renamed(tree)), resolve=True)
    return {key: text for key, text in _texts(held, ()) if "${oc.env:" in text}


def misplaced(written: Written) -> Iterator[str]:
    """Find mistakes in the values of `as_written`; yields a sentence each, without the value."""
    for key, text in written.items():
        path = ".".join(key)
        if next((part for part in reversed(key) if not part.isdigit()), "") not in PATHS:
            yield f"{path}: ${{oc.env:...}} stands here or in what it refers to, and {ONLY_PATHS}"
            continue
        for found in re.finditer(r"\$\{oc\.env:(\w+)(,?)", text):
            name = found[1]
            if names_a_secret(name):
                yield (
                    f"{path}: {name} looks like a secret by its name, which no path needs; give a "
                    "variable that holds a folder or an address another name"
                )
            elif name not in os.environ and not found[2]:
                yield (
                    f"{path}: the environment variable {name} is not set here. Export it (a job "
                    "has the variables of the shell that submitted it, and `environment` of its "
                    f"cluster profile), or write {path}=PATH"
                )


def filled(text: str) -> str:
    """Fill in a recorded path from the present environment; unset references stay in it."""

    def fill(found: re.Match[str]) -> str:
        default = found["default"]
        value = os.environ.get(found["name"], default.strip("'\"") if default else default)
        return found.group() if value is None or names_a_secret(found["name"]) else value

    # From the inside out: a default may be a reference itself.
    for _ in range(text.count("${oc.env:")):
        text = _WRITTEN.sub(fill, text, count=1)
    return text


def without_references(text: str) -> str:
    """A recorded path for people: `NAME/birds` of `${oc.env:NAME,/data}/birds`."""
    for _ in range(text.count("${oc.env:")):
        text = _WRITTEN.sub(lambda found: found["name"], text)
    return text


def _texts(tree: Any, where: Key) -> Iterator[tuple[Key, str]]:
    """(Key, text) of all texts."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _texts(value, (*where, str(key)))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _texts(value, (*where, str(number)))
    elif isinstance(tree, str):
        yield where, tree


def _renamed(tree: Any) -> Any:
    """The same with a resolver that reads nothing in place of the one that reads."""
    if isinstance(tree, dict):
        return {key: _renamed(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_renamed(value) for value in tree]
    return _READS.sub(rf"\1{_HELD}", tree) if isinstance(tree, str) else tree


def _hold(name: Any, default: Any = _NO_DEFAULT) -> str:
    if default is _NO_DEFAULT:
        return f"${{oc.env:{name}}}"
    text = "null" if default is None else str(default)
    if not re.fullmatch(r"[\w./~+-]*", text) and "${" not in text:
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"${{oc.env:{name},{text}}}"
