"""eBird's codes: a code means something only together with its year.

Between two years codes come and go, and a code that stays may stand for another scientific name:
because the genus moved (the same bird), or because a species was divided or joined (another one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dawnchorus.data_prep.taxonomy.model import Taxon, Taxonomy

SAME = "same"
GENUS_MOVED = "genus moved"
RENAMED = "another name"
GONE = "code gone"
NEW = "code new"
CODE_CHANGED = "code changed"

# Endings that Latin changes when a species moves to a genus of another gender.
_GENDER = re.compile(r"(?:us|um|is|os|on|er|ra|rum|ii|i|a|e)$")


@dataclass(frozen=True, slots=True)
class CodeChange:
    """The change of a code between two years."""

    code: str
    first: str
    """Scientific name in the earlier year, "" where it had none."""
    second: str
    kind: str
    new_code: str = ""
    """The code of the same name, where the code changed."""


def code_in_year(
    taxonomies: Sequence[Taxonomy], taxonomy: str, code: str
) -> tuple[Taxon | None, tuple[str, str]]:
    """Return the taxon of a code in the year of its `taxonomy` ("ebird-2021").

    None, with a reason and what to do, where the year is not stated, its file was not given, or
    has no such code.
    """
    if not re.fullmatch(r"ebird-\d{4}", taxonomy):
        return None, ("no year", "a code without its year: the taxonomy must be ebird-YYYY")
    year = next((t for t in taxonomies if t.label == taxonomy), None)
    if year is None:
        return None, ("no file", f"its code needs the file of {taxonomy}")
    taxon = year.by_key.get(code)
    return taxon, ("unknown", f"{taxonomy} has no code {code}")


def moved_within(target: Taxonomy, source: Taxonomy, taxon: Taxon) -> Taxon | None:
    """Return the taxon of the same code in another year, where only the genus has changed.

    None where the name changed otherwise: then the species may have been divided or joined, which a
    program cannot decide.
    """
    if target.kind != "ebird" or source.kind != "ebird":
        return None
    other = target.by_key.get(taxon.key)
    if other is None or other.rank != taxon.rank or not same_epithets(other.name, taxon.name):
        return None
    return other


def same_epithets(first: str, second: str) -> bool:
    """Return whether two names differ only in the genus and the ending that it demands."""
    left, right = first.split()[1:], second.split()[1:]
    return bool(left) and [_stem(word) for word in left] == [_stem(word) for word in right]


def _stem(word: str) -> str:
    return _GENDER.sub("", word)


def compare_years(first: Taxonomy, second: Taxonomy) -> list[CodeChange]:
    """Return every code that is not the same in both, in the order of the codes."""
    changes = []
    codes_of = {taxon.name: code for code, taxon in second.by_key.items()}
    for code in sorted(first.by_key.keys() | second.by_key.keys()):
        old, new = first.by_key.get(code), second.by_key.get(code)
        if old is None or new is None:
            if new is not None:
                changes.append(CodeChange(code, "", new.name, NEW))
            elif old is not None:
                moved = codes_of.get(old.name, "")
                kind = CODE_CHANGED if moved else GONE
                changes.append(CodeChange(code, old.name, old.name if moved else "", kind, moved))
        elif old.name != new.name:
            kind = GENUS_MOVED if same_epithets(old.name, new.name) else RENAMED
            changes.append(CodeChange(code, old.name, new.name, kind))
    return changes


def years(taxonomies: Iterable[Taxonomy]) -> list[Taxonomy]:
    """Return the eBird taxonomies among these, the earliest first."""
    return sorted((t for t in taxonomies if t.kind == "ebird"), key=lambda t: t.label)
