"""Xeno-canto's queries, checked before they are sent.

The API takes tags only (`gen:Larus cnt:"United States"`); it answers free text with an error, and a
range such as `year:2015-2020` silently with the first year alone. Tags and the trap:
https://xeno-canto.org/help/search and https://xeno-canto.org/explore/api.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.explain import did_you_mean

TAGS = frozenset(
    ("gen", "sp", "ssp", "grp", "fam", "en", "cnt", "loc", "area", "lat", "lon", "box", "rec", "q",
     "type", "sex", "stage", "method", "len", "year", "month", "since", "lic", "also", "id?",
     "seen", "playback", "nr", "temp", "regnr", "auto", "dvc", "mic", "smp", "rmk")
)  # fmt: skip
_RANGES_LOST = frozenset(("year", "month", "smp", "temp"))
_WORD = re.compile(r'([a-z?]+):("[^"]*"|\S*)|"[^"]*"|\S+', re.IGNORECASE)
_RANGE = re.compile(r"(-?\d+)\s*-\s*(-?\d+)")
_NUMBERS = re.compile(r"\d+(?:-\d+)?")
_MOVED = {"lng": "lon", "group": "grp", "nr.": "nr", "id": "nr", "country": "cnt", "species": "sp"}


def check_queries(queries: Sequence[str]) -> None:
    """Raise PrepError with all that is wrong with the queries and how to write it."""
    problems = [f"{query!r}: {problem}" for query in queries for problem in _problems(query)]
    if problems:
        raise PrepError(
            "Xeno-canto would misunderstand these queries.\n  "
            + "\n  ".join(problems)
            + "\n  tags: "
            + " ".join(sorted(TAGS))
        )


def _problems(query: str) -> list[str]:
    """Return what is wrong with a query."""
    if query.count('"') % 2:
        return ["a quotation mark is not closed"]
    problems = []
    free: list[str] = []
    before = ""
    for found in _WORD.finditer(query):
        tag, value = (found[1] or "").lower(), (found[2] or "").strip('"').strip()
        if not tag:
            free.append(found[0].strip('"'))
            continue
        if free:
            problems.append(_free_text(free, before))
        free, before = [], found[0]
        problems += _tag_problems(tag, value)
    if free:
        problems.append(_free_text(free, before))
    return problems or ([] if query.strip() else ["it is empty"])


def _tag_problems(tag: str, value: str) -> list[str]:
    if tag not in TAGS:
        meant = did_you_mean(_MOVED.get(tag, tag), TAGS)
        return [f"there is no tag {tag!r}{meant}"]
    if not value:
        return [f"{tag}: has no value"]
    found = _RANGE.fullmatch(value)
    if tag in _RANGES_LOST and found:
        first, last = int(found[1]), int(found[2])
        return [
            f"{tag}:{value} finds {tag} {first} alone, the range is lost; write "
            f'{tag}:">{first - 1}" {tag}:"<{last + 1}"'
        ]
    if tag == "nr" and not _NUMBERS.fullmatch(value):
        return [f"nr:{value} is no number or range of numbers, such as nr:76967 or nr:1-500"]
    return []


def _free_text(words: Sequence[str], before: str) -> str:
    """Return a sentence on how to write free text with tags."""
    text = " ".join(words)
    hint = f'sp:"{text}" for a species, en:"{text}" for an English name'
    if before and '"' not in before:
        tag, _, value = before.partition(":")
        hint += f', or {tag}:"{value} {text}" if it belongs together'
    return f"{text!r} has no tag, and free text is not searched; write {hint}"
