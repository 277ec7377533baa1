"""Removes places from everything of a run that leaves the machine; names of datasets and runs stay.

Recipes name home folders, buckets and projects of people and institutions. Everything that is
published or sent (exported repositories, Weights & Biases) passes through this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dawnchorus.trainer.references import filled, without_references

MACHINE = frozenset(
    {
        "runs", "log", "data.remote", "data.workers", "data.prefetch", "train.accelerator",
        "train.devices", "train.nodes", "train.watchdog_minutes",
    }
)  # fmt: skip
"""Keys of a recipe that describe the machine and have no effect on the result."""
PLACES = frozenset({"path", "init_from", "teacher"})
"""Keys whose values are places, even if they do not look like places."""
_WORDS = frozenset({"card"})
"""Sections that a person wrote for readers: addresses in them are intended."""
_ADDRESS = r"[A-Za-z][A-Za-z0-9+.-]*://"
_HTTP = r"https?://"
_PLACE = re.compile(rf"^(?:{_ADDRESS}|[/\\~]|[A-Za-z]:[/\\]|\.{{1,2}}[/\\])")
_LOGIN = re.compile(r"(\w+://)[^/@\s]+@")
# In a sentence: what starts with a folder, or an address that is none of the web.
_IN_TEXT = re.compile(
    rf"(?<![\w.:/~-])(?:(?!{_HTTP}){_ADDRESS}[^\s\"'<>|,;)\]]+|~?(?:/[^\s/\"'<>|,;:)\]]+){{2,}}/?)"
)


def public_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe with names instead of places, and without the keys of the machine.

    `data.train.birds.path: s3://museum/private/birds` becomes `birds`,
    `init_from: /home/me/runs/ssl` becomes `ssl`; the keys of MACHINE are left out.
    """
    return dict(_public(recipe, ""))


def _public(section: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        path = f"{where}.{key}" if where else str(key)
        if path not in MACHINE:
            yield key, _value(value, path)


def _value(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return dict(_public(value, path))
    if isinstance(value, list | tuple):
        return [_value(item, path) for item in value]
    if not isinstance(value, str):
        return value
    top, key = path.split(".")[0], path.rsplit(".", 1)[-1]
    if top in _WORDS:
        return without_places(value)
    return name_of(value) if key in PLACES or _PLACE.match(value) or "/" in value else value


def name_of(place: str) -> str:
    """The name of a dataset, run or file, which is the last part of its place.

    A checkpoint in a run is called as the run; `${oc.env:BIRDS}` is called BIRDS.
    """
    place = without_references(place)
    parts = [part for part in re.split(r"[/\\]+", re.split(r"[?#]", place)[0]) if part]
    if len(parts) > 2 and parts[-2] == "checkpoints":
        parts = parts[:-2]
    return parts[-1] if parts else place


def without_places(text: str) -> str:
    """A sentence in which folders and buckets are cut to their last part; web addresses stay."""
    return _IN_TEXT.sub(lambda match: name_of(match.group()), text)


def places_in(recipe: Mapping[str, Any]) -> set[str]:
    """All revealing places of a recipe: absolute paths and addresses.

    This includes paths that contain values of this process's environment.
    """
    found = set()
    for value in map(filled, _strings(recipe)):
        if _PLACE.match(value) and len(re.split(r"[/\\]+", value.strip("/\\"))) > 1:
            found.add(value.rstrip("/\\"))
    return found


def without_login(text: str) -> str:
    """A text in which addresses have `***@` in place of a user, a token or a password."""
    return _LOGIN.sub(r"\1***@", text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "card":
                yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value
