"""The label space: every name means one thing, because a label's name is its key.

Names are given out in a fixed order (taxa of the first taxonomy first, sounds, then names that
nothing resolved), so that the result does not depend on the order of the recordings or the tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Label
from dawnchorus.data_prep.taxonomy.model import same_group
from dawnchorus.data_prep.taxonomy.shapes import RANK_COLUMNS
from dawnchorus.data_prep.taxonomy.sounds import SOUND


@dataclass(frozen=True, slots=True)
class Entry:
    """One taxon or sound that labels name. `lineage` holds (rank, name) of the taxa above it."""

    name: str
    rank: str
    taxonomy: str = ""
    lineage: tuple[tuple[str, str], ...] = ()
    ids: tuple[tuple[str, str], ...] = ()
    english: str = ""

    def label(self, role: str) -> Label:
        """Return it as a label; the taxa above it are among the ids."""
        return Label(self.name, self.rank, role, self.taxonomy, self.ids + self.lineage)

    @property
    def qualifiers(self) -> list[str]:
        """The qualifiers that may distinguish it from another entry of its name, the best first."""
        above = dict(self.lineage)
        known = [above.get(rank, "") for rank in ("class", "order", "family", "phylum", "kingdom")]
        return [text for text in (*known, self.rank, self.taxonomy) if text and text != self.name]


@dataclass
class LabelSpace:
    """Name -> what it means."""

    entries: dict[str, Entry] = field(default_factory=dict)
    qualified: list[str] = field(default_factory=list)
    """Names that got a qualifier because another entry had them."""

    def add(self, entry: Entry) -> str:
        """Add an entry; return its name here. An entry of the same thing is merged with the
        existing one and completes its ids; another thing of the same name gets a qualifier.
        """
        for name in (entry.name, *(f"{entry.name} ({text})" for text in entry.qualifiers)):
            known = self.entries.get(name)
            if known is None:
                self.entries[name] = replace(entry, name=name)
                if name != entry.name:
                    self.qualified.append(name)
                return name
            if one_thing(known, entry):
                self.entries[name] = _joined(known, entry)
                return name
        number = 2
        while f"{entry.name} ({number})" in self.entries:
            number += 1
        return self.add(replace(entry, name=f"{entry.name} ({number})"))

    def labels(self, names: tuple[str, ...]) -> dict[str, tuple[Label, ...]]:
        """Return the labels of these names, by role."""
        return {
            role: tuple(self.entries[name].label(role) for name in names)
            for role in (FOREGROUND, BACKGROUND)
        }


def one_thing(first: Entry, second: Entry) -> bool:
    """Return whether two entries of one name can be the same thing: no known field disagrees."""
    if (first.rank == SOUND) != (second.rank == SOUND):
        return not first.rank or not second.rank
    if first.rank == SOUND:
        return same_id(first, second, "audioset")
    if first.rank and second.rank and first.rank != second.rank:
        return False
    left, right = dict(first.lineage), dict(second.lineage)
    return all(
        same_group(left.get(rank, ""), right.get(rank, ""))
        for rank in ("kingdom", "phylum", "class")
    )


def same_id(first: Entry, second: Entry, key: str) -> bool:
    """Return whether an id agrees, or is not known for both."""
    left, right = dict(first.ids).get(key), dict(second.ids).get(key)
    return left is None or right is None or left == right


def _joined(first: Entry, second: Entry) -> Entry:
    ids = dict(second.ids) | dict(first.ids)
    lineage = dict(second.lineage) | dict(first.lineage)
    return replace(
        first,
        rank=first.rank or second.rank,
        taxonomy=first.taxonomy or second.taxonomy,
        ids=tuple(sorted(ids.items())),
        lineage=tuple((rank, lineage[rank]) for rank in RANK_COLUMNS if rank in lineage),
        english=first.english or second.english,
    )
