"""The labels of a folder's table: how cells become labels with ranks, and which cells hold
something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dawnchorus.data_prep.archives.cells import UnreadableList, is_nothing, values_of
from dawnchorus.data_prep.archives.columns import Mapped, plain_name
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, RANKS, Label, tidy_name
from dawnchorus.data_prep.taxonomy.names import parse_name

# Columns whose name says what rank their labels have.
SPECIES_COLUMNS = ("species", "scientific_name", "scientificname")
SEPARATOR = ";"
_OTHER_SEPARATORS = (",", "|", "/")


class LabelReader:
    """Turns the label cells of one table into labels, and collects doubts and notes about them."""

    def __init__(self, mapped: Mapped, options: FolderOptions) -> None:
        self.options = options
        given = options.label_separator
        self.asks = given is None
        self.separator = SEPARATOR if given is None else given
        self.rank = options.rank
        if not self.rank and plain_name(mapped.columns.get("label", "")) in SPECIES_COLUMNS:
            self.rank = "species"
        self.nothing: Counter[str] = Counter()
        self.seen: dict[str, str] = {}
        """Every name, with the place of its first row."""

    def read(self, names: Any, ranks: Any, background: Any, where: str) -> tuple[Label, ...]:
        """Return foreground labels with their ranks, then background labels not among them.

        Raises PrepError, with `where`, for a list that cannot be read and for labels and ranks of
        different numbers.
        """
        name_list = self._values(names, where)
        rank_list = self._values(ranks, where, names=False)
        if len(rank_list) == 1:
            rank_list *= len(name_list)
        if rank_list and len(rank_list) != len(name_list):
            raise PrepError(
                f"{where}: {len(name_list)} labels ({names!r}) but {len(rank_list)} ranks "
                f"({ranks!r}); they must go in parallel, divided by {self.separator!r}."
            )
        taxonomy = self.options.taxonomy
        found: dict[str, Label] = {}
        for i, text in enumerate(name_list):
            rank, name = _ranked(text, rank_list[i].lower() if rank_list else self.rank)
            found.setdefault(name, Label(name, rank, FOREGROUND, taxonomy))
        for text in self._values(background, where):
            rank, name = _ranked(text, self.rank)
            found.setdefault(name, Label(name, rank, BACKGROUND, taxonomy))
        for name in found:
            self.seen.setdefault(name, where)
        return tuple(found.values())

    def _values(self, cell: Any, where: str, *, names: bool = True) -> list[str]:
        if isinstance(cell, bool):  # as the same table says it in a CSV
            cell = str(cell)
        if _has_fields(cell):
            shown = repr(cell)
            raise PrepError(
                f"{where}: a cell of labels holds named fields "
                f"({shown if len(shown) <= 60 else shown[:57] + '...'}), and which of them is the "
                "label is not known. Write a column with the names alone, as texts or lists."
            )
        try:
            found = values_of(cell, self.separator)
        except UnreadableList as err:
            raise PrepError(f"{where}: {err}.") from err
        if names and isinstance(cell, str) and cell.strip() and is_nothing(cell):
            self.nothing[cell.strip()] += 1
        if isinstance(cell, str) and "\n" in cell.strip() and cell.strip()[-1] not in "])}":
            raise PrepError(f"{where}: a label with a line break in it; is a quote not closed?")
        return found

    def check(self) -> None:
        """Raise PrepError where names look like several labels that another separator divides.

        Not done where the user gave the separator.
        """
        if not self.asks:
            return
        for separator in _OTHER_SEPARATORS:
            joined = _several(self.seen, separator)
            if joined:
                first = joined[0]
                count = "It looks" if len(joined) == 1 else f"It and {len(joined) - 1} more look"
                raise PrepError(
                    f"{self.seen[first]}: is {first!r} one label or several? {count} like several "
                    f"with {separator!r} between them. --label-separator '{separator}' divides "
                    f"them; --label-separator '{SEPARATOR}' takes each as one name."
                )

    def notes(self) -> list[str]:
        """Return what a person should know about the cells."""
        if not self.nothing:
            return []
        shown = ", ".join(f"{text!r} {count}" for text, count in self.nothing.most_common(5))
        return [
            f"label cells without a label: {shown} (where it is a name, write "
            "it with its rank, such as sound:NA)"
        ]


def _has_fields(cell: Any) -> bool:
    """Return whether a cell is a struct or a map of Parquet or JSON, or a list of such."""
    if isinstance(cell, list):  # Arrow gives a map as a list of pairs
        return any(isinstance(item, (dict, tuple)) for item in cell)
    return isinstance(cell, dict) and bool(cell)


def _ranked(text: str, default: str) -> tuple[str, str]:
    """Split "genus:Parus" into rank and name; other text has the default rank."""
    rank, colon, name = text.partition(":")
    if colon and rank.strip().lower() in RANKS and name.strip():
        return rank.strip().lower(), tidy_name(name)
    return default, text


def _several(names: Iterable[str], separator: str) -> list[str]:
    """Return the names that look like several: each part is a name elsewhere in the table, or all
    are scientific names, or all are single words of one case.
    """
    names = list(names)
    divided = {name: parts for name in names if len(parts := _parts(name, separator)) > 1}
    if not divided:
        return []
    where: dict[str, set[str]] = {}
    for name in names:
        for part in divided.get(name, [name]):
            where.setdefault(part, set()).add(name)
    return [
        name
        for name, parts in divided.items()
        if all(len(where[part]) > 1 for part in parts)
        or all(_is_scientific(part) for part in parts)
        or (separator != "/" and _are_words(parts))
    ]


def _parts(name: str, separator: str) -> list[str]:
    parts = [part.strip() for part in name.split(separator)]
    return parts if all(parts) else [name]


def _is_scientific(part: str) -> bool:
    name = parse_name(part)
    return name.words >= 2 and not name.doubt and name.canonical == part


def _are_words(parts: list[str]) -> bool:
    """Return whether all parts are one word each, written alike: "dog, cat", "A, B".

    "Pigeon, dove" and "Beluga, White Whale" are not: names of that kind go on in small letters
    or in several words.
    """
    if not all(part.replace("_", "").replace("-", "").isalnum() and "_" not in part[:1]
               for part in parts):  # fmt: skip
        return False
    return len({(part[0].isupper(), part.isupper() and len(part) > 1) for part in parts}) == 1
