"""Recordings of the same sound: finding them, and deciding which one stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from dawnchorus.data_prep.select.selection_recipe import QUALITIES

# Freest first. A share-alike licence binds what is made of it, NC and ND forbid uses.
FREEDOM = ("cc0", "pd", "by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd", "other",
           "unknown", "all-rights-reserved")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """Two rows with a sound in common. `kind`: id, samples, near (the same sound), part."""

    a: int
    b: int
    kind: str
    score: float = 1.0
    overlap_s: float = 0.0
    lag_s: float = 0.0


class Sets:
    """Union-find over any hashable things."""

    def __init__(self) -> None:
        self._above: dict[Hashable, Hashable] = {}

    def find(self, x: Hashable) -> Hashable:
        """Return the representative of the set that `x` is in."""
        root = x
        while (above := self._above.get(root, root)) != root:
            root = above
        while (above := self._above.get(x, x)) != root:
            self._above[x] = root
            x = above
        return root

    def join(self, a: Hashable, b: Hashable) -> None:
        """Put the sets of `a` and `b` together."""
        first, second = self.find(a), self.find(b)
        if first != second:
            self._above[second] = first


@dataclass(frozen=True, slots=True)
class Row:
    """The properties that decide which of several recordings stays."""

    n: int
    id: str
    licence: str
    quality: str
    duration_s: float


def preference(row: Row, prefer: Sequence[str]) -> tuple[object, ...]:
    """Return a key that sorts the recording that stays first. Ties fall to the least id."""
    quality = row.quality.strip().upper()
    places = {
        "licence": FREEDOM.index(row.licence) if row.licence in FREEDOM else len(FREEDOM),
        "quality": QUALITIES.index(quality) if quality in QUALITIES else len(QUALITIES),
        "duration": -round(row.duration_s, 1),  # decoders differ by a frame
    }
    return (*(places[name] for name in prefer), row.id, row.n)


def same_key(keys: Iterable[tuple[int, str]], kind: str) -> list[Link]:
    """Return a link from the first to every other row with the same key ("" is none)."""
    first: dict[str, int] = {}
    links = []
    for n, key in keys:
        if key:
            a = first.setdefault(key, n)
            if a != n:
                links.append(Link(a, n, kind))
    return links


def resolve(rows: dict[int, Row], links: Sequence[Link], prefer: Sequence[str]) -> dict[int, Link]:
    """Return {row that goes: link to the one that stays (`a`)} for links of one sound.

    The best row of a set stays. Another goes only where a link joins it to one that stays:
    A = B and B = C do not make A and C one sound when B merely contains both.
    """
    near: dict[int, list[Link]] = defaultdict(list)
    for link in links:
        if link.kind != "part" and link.a in rows and link.b in rows:
            near[link.a].append(link)
            near[link.b].append(link)
    order = sorted(near, key=lambda n: preference(rows[n], prefer))
    gone: dict[int, Link] = {}
    stays: set[int] = set()
    for n in order:
        if n in gone:
            continue
        stays.add(n)
        for link in near[n]:
            other = link.b if link.a == n else link.a
            if other not in stays and other not in gone:
                gone[other] = Link(n, other, link.kind, link.score, link.overlap_s, link.lag_s)
    return gone
