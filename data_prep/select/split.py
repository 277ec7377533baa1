"""Which recording goes into which part: decided by a hash of the group, never by a shuffle or a
count.

A group's place depends on its name and the salt alone. Data added later moves nothing, with one
exception that cannot be avoided: a sound that turns up in two groups joins them, and one of the
two moves (none of those in `previous` does).

That the hash knows nothing of classes is the price: a class of G groups has its share of a part
give or take sqrt(share (1 - share) / G). `describe` says which classes a part lacks; `cover` mends
it for one part, and then a class that lacked it may give the group back when more data comes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.data_prep.select.duplicates import Link, Sets
from dawnchorus.data_prep.select.selection_recipe import Split
from dawnchorus.data_prep.table.recording_table import table_path

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Place:
    """The part of a recording."""

    split: str
    fold: str | None
    group_id: str


def unit(group: str, salt: str) -> float:
    """Return the number in [0, 1) that decides where a group goes."""
    digest = hashlib.blake2b(f"{salt}\0{group}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def choose(value: float, parts: Mapping[str, float]) -> str:
    """Return the part that `value` in [0, 1) falls into; the parts lie in their order."""
    end = 0.0
    for name, share in parts.items():
        end += share
        if value < end:
            return name
    return max(parts, key=lambda name: parts[name])  # the shares sum to a hair below 1


def place_all(left: pl.DataFrame, links: Sequence[Link], split: Split) -> dict[int, Place]:
    """Return {n: place} of all rows; rows that `links` join are never divided."""
    rows = left.select("n", "id", "recordist", "group_id", "split", "fold").rows(named=True)
    groups = Sets()
    name_of = {row["n"]: _group(row, split.by) for row in rows}
    for link in links:
        if link.a in name_of and link.b in name_of:
            groups.join(name_of[link.a], name_of[link.b])
    names: dict[object, set[str]] = defaultdict(set)
    for name in name_of.values():
        names[groups.find(name)].add(name)
    # Of joined groups the one with the least number speaks for all.
    speaker = {
        root: min(some, key=lambda g: (unit(g, split.salt), g)) for root, some in names.items()
    }
    before = _previous(split.previous)
    settled: dict[object, tuple[float, str, str | None]] = {}
    for row in rows:
        if row["id"] in before:
            root = groups.find(name_of[row["n"]])
            claim = (unit(row["id"], split.salt), *before[row["id"]])
            settled[root] = min(settled.get(root, claim), claim, key=lambda c: c[0])
    placed = {}
    for row in rows:
        root = groups.find(name_of[row["n"]])
        group = speaker[root]
        part, fold = row["split"] or "train", row["fold"] or None
        if split.parts:
            part = choose(unit(group, split.salt), split.parts)
        if split.folds:
            fold = str(int(unit(group, f"{split.salt}\0fold") * split.folds))
        if root in settled:
            _, part, fold = settled[root]
        own = row["group_id"] or row["id"]
        placed[row["n"]] = Place(part, fold, group if len(names[root]) > 1 else own)
    if split.cover is not None and split.parts:
        root_of = {n: groups.find(name) for n, name in name_of.items()}
        order = {root: unit(group, split.salt) for root, group in speaker.items()}
        _cover(left, placed, split.cover, root_of, {r: u for r, u in order.items()
                                                    if r not in settled})  # fmt: skip
    return placed


def _cover(
    left: pl.DataFrame,
    placed: dict[int, Place],
    part: str,
    root_of: Mapping[int, object],
    free: Mapping[object, float],
) -> None:
    """Move, for every class that `part` lacks, its group with the least number there."""
    members: dict[object, list[int]] = defaultdict(list)
    classes: dict[str, set[object]] = defaultdict(set)
    for n, names in left.select("n", "names").iter_rows():
        members[root_of[n]].append(n)
        for name in names:
            classes[name].add(root_of[n])
    for _, roots in sorted(classes.items()):
        movable = [root for root in roots if root in free]
        if movable and not any(placed[members[root][0]].split == part for root in roots):
            for n in members[min(movable, key=lambda root: free[root])]:
                placed[n] = dataclasses.replace(placed[n], split=part)


def _group(row: Mapping[str, str], by: str) -> str:
    person = " ".join(row["recordist"].casefold().split())
    if by == "recordist" and person:
        return f"recordist:{person}"
    return row["id"] if by == "recording" else row["group_id"] or row["id"]


def _previous(path: Path | None) -> dict[str, tuple[str, str | None]]:
    """{id: (split, fold)} of an earlier selection."""
    if path is None:
        return {}
    import polars as pl

    frame = pl.read_parquet(table_path(path), columns=["id", "split", "fold"])
    return {i: (part, fold) for i, part, fold in frame.iter_rows()}


def describe(left: pl.DataFrame, placed: Mapping[int, Place]) -> dict[str, object]:
    """Return how balanced the parts are: counts of each, and classes that a part lacks."""
    parts: dict[str, dict[str, float]] = defaultdict(lambda: {"recordings": 0, "hours": 0.0})
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    groups: dict[str, set[str]] = defaultdict(set)
    for n, seconds, names in left.select("n", "duration_s", "names").iter_rows():
        place = placed[n]
        parts[place.split]["recordings"] += 1
        parts[place.split]["hours"] += seconds / 3600
        groups[place.split].add(place.group_id)
        for name in set(names):
            classes[name][place.split] += 1
    told: dict[str, object] = {}
    for part, counts in sorted(parts.items()):
        lacking = sorted(name for name, where in classes.items() if part not in where)
        told[part] = {
            "recordings": int(counts["recordings"]),
            "hours": round(counts["hours"], 3),
            "groups": len(groups[part]),
            "classes": len(classes) - len(lacking),
            "classes_missing": len(lacking),
            "classes_missing_first": lacking[:20],
        }
    return told
