"""AudioSet's classes: display names and the ontology.

A class is known by its mid ("/m/0jbk"). Names come from `class_labels_indices.csv` (the 527 of the
segment lists), `mid_to_display_name.tsv` (the strong labels, which have classes and spellings of
their own) and `ontology.json` (632 classes, among them abstract ones that label nothing).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.archives.delimited import BadRow, Dialect, plain_key, read_rows, sniff
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, tidy_name

TAXONOMY = "audioset"
RANK = "sound"
# Freebase and Google knowledge graph ids, and AudioSet's own "/t/dd00001".
MID = re.compile(r"/[a-z]/[A-Za-z0-9_]{1,40}")
_MAX_ONTOLOGY_BYTES = 64 << 20  # the published one has 350 kB
WHERE = (
    "AudioSet's download page has class_labels_indices.csv beside the segment lists and, for the "
    "strong labels, mid_to_display_name.tsv; ontology.json is in its repository 'ontology'."
)


@dataclass(frozen=True)
class Ontology:
    """Classes and what lies below them: a directed graph without cycles, not a tree."""

    names: Mapping[str, str] = field(default_factory=dict)
    children: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    restrictions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """`abstract` (a heading that no clip has) or `blacklist` (raters could not recognise it)."""

    def descendants(self, mid: str) -> set[str]:
        """Return all classes below `mid`, however many ways lead there, without itself."""
        return self._reach(mid, self.children)

    def ancestors(self, mid: str) -> set[str]:
        """Return all classes above `mid`, without itself."""
        parents: dict[str, list[str]] = {}
        for parent, below in self.children.items():
            for child in below:
                parents.setdefault(child, []).append(parent)
        return self._reach(mid, parents)

    @staticmethod
    def _reach(mid: str, edges: Mapping[str, Sequence[str]]) -> set[str]:
        found: set[str] = set()
        waiting = list(edges.get(mid, ()))
        while waiting:
            here = waiting.pop()
            if here not in found and here != mid:
                found.add(here)
                waiting.extend(edges.get(here, ()))
        return found


def read_ontology(path: Path) -> Ontology:
    """Read `ontology.json`. Raises PrepError when it is no list of classes."""
    try:
        if path.stat().st_size > _MAX_ONTOLOGY_BYTES:
            raise PrepError(f"{path} has more than 64 MB: it is not AudioSet's ontology.json.")
        found = json.loads(path.read_bytes())
    except OSError as err:
        raise PrepError(f"{path} cannot be read: {err.strerror or err}.") from err
    except (ValueError, RecursionError) as err:
        raise PrepError(f"{path} is no JSON: {' '.join(str(err).split())[:200]}.") from err
    if not isinstance(found, list) or not found or not all(map(_is_class, found)):
        raise PrepError(
            f"{path} is not AudioSet's ontology: a list of objects with id, name and child_ids."
        )
    return Ontology(
        {item["id"]: tidy_name(item["name"]) for item in found},
        {item["id"]: tuple(item.get("child_ids") or ()) for item in found},
        {item["id"]: frozenset(item.get("restrictions") or ()) for item in found},
    )


def _is_class(item: Any) -> bool:
    def texts(value: Any) -> bool:
        return value is None or (isinstance(value, list) and all(isinstance(x, str) for x in value))

    return (
        isinstance(item, dict)
        and isinstance(item.get("id"), str)
        and isinstance(item.get("name"), str)
        and texts(item.get("child_ids"))
        and texts(item.get("restrictions"))
    )


def read_class_labels(path: Path) -> dict[str, str]:
    """Return {mid: display name} of `class_labels_indices.csv`: index, mid, display_name."""
    with _open(path) as stream:
        header, dialect = sniff(stream, path.name)
        columns = [plain_key(name) for name in header]
        if "mid" not in columns or "displayname" not in columns:
            raise PrepError(
                f"{path} is not class_labels_indices.csv: its columns are {', '.join(header)[:200]}"
                " instead of index, mid, display_name."
            )
        stream.seek(0)
        at, name_at = columns.index("mid"), columns.index("displayname")
        return _names(read_rows(stream, path.name, dialect, len(columns)), at, name_at, path)


def read_mid_names(path: Path) -> dict[str, str]:
    """Return {mid: display name} of `mid_to_display_name.tsv`, which has no header."""
    with _open(path) as stream:
        return _names(read_rows(stream, path.name, Dialect("\t", "", "utf-8", 0), 2), 0, 1, path)


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as err:
        raise PrepError(f"{path} cannot be read: {err.strerror or err}.") from err


def _names(rows: Iterable[list[str] | BadRow], at: int, name_at: int, path: Path) -> dict[str, str]:
    """Collect the names. A table of names is short and must be valid: a bad row is an error."""
    names: dict[str, str] = {}
    for row in rows:
        if isinstance(row, BadRow):
            raise PrepError(f"{path}: {row.detail}.")
        mid, name = row[at].strip(), tidy_name(row[name_at])
        if not MID.fullmatch(mid) or not name:
            raise PrepError(f"{path} has {mid[:40]!r}, {name[:40]!r} in place of a mid and a name.")
        names[mid] = name
    if not names:
        raise PrepError(f"{path} lists no class.")
    return names


class Classes:
    """All classes that the given files name, as labels.

    A mid that none of them names is kept as a label named by itself and counted in `unnamed`;
    `outside` counts labels outside the 527 of `class_labels_indices.csv`, where that is given.
    """

    def __init__(
        self, class_labels: Path | None, mid_names: Path | None, ontology: Ontology | None
    ) -> None:
        """Read the tables. Raises PrepError when none is given or one is not what it should be."""
        if not (class_labels or mid_names or ontology):
            raise PrepError(
                "The segment lists hold ids of classes, not names. Give --labels "
                f"class_labels_indices.csv, or --ontology ontology.json. {WHERE}"
            )
        self.listed = read_class_labels(class_labels) if class_labels else {}
        # Where spellings differ, the one of the 527 is taken, so that a class has one name.
        self.names: dict[str, str] = {
            **(ontology.names if ontology else {}),
            **(read_mid_names(mid_names) if mid_names else {}),
            **self.listed,
        }
        count = Counter(self.names.values())
        self._shared = {name for name, times in count.items() if times > 1}
        self.restrictions = ontology.restrictions if ontology else {}
        self._labels: dict[str, Label] = {}
        self.unnamed: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()
        self.restricted: Counter[str] = Counter()

    def label(self, mid: str) -> Label:
        """Return the label of a class and count what is unusual about it."""
        known = self._labels.get(mid)
        if known is None:
            known = self._labels[mid] = Label(
                self._name(mid), RANK, taxonomy=TAXONOMY, ids=(("audioset", mid),)
            )
        if mid not in self.names:
            self.unnamed[mid] += 1
        if self.listed and mid not in self.listed:
            self.outside[mid] += 1
        if self.restrictions.get(mid):
            self.restricted[mid] += 1
        return known

    def _name(self, mid: str) -> str:
        name = self.names.get(mid, mid)
        # One name must mean one class.
        return f"{name} ({mid})" if name in self._shared else name

    def notes(self) -> list[str]:
        """Return what a person should know about the labels that were found."""

        def some(counter: Counter[str]) -> str:
            names = ", ".join(f"{self._name(mid)} {n:,}" for mid, n in counter.most_common(5))
            return f"{counter.total():,} labels of {len(counter):,} classes ({names})"

        notes = []
        if self.outside:
            notes.append(f"outside the class list, kept: {some(self.outside)}")
        if self.restricted:
            notes.append(f"abstract or blacklisted in the ontology, kept: {some(self.restricted)}")
        if self.unnamed:
            notes.append(f"without a name, kept by their mid: {some(self.unnamed)}")
        return notes
