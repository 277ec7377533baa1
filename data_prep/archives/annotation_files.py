"""Annotations that lie beside the recordings: selection tables of Raven, labels of Audacity,
results of BirdNET, and any table with start and end.

Which recording a table is about is said by a column (Begin File, file, filename, ...), or by the
table's own name: `a.Table.1.selections.txt` and `a.BirdNET.results.csv` are about `a.wav`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dawnchorus.data_prep.archives.annotations import EventColumns, Events, Found, Row
from dawnchorus.data_prep.archives.cells import number_in
from dawnchorus.data_prep.archives.columns import FIELDS, plain_name
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.table_rows import RowTable, open_table
from dawnchorus.data_prep.archives.times import time_columns, times_in_cells
from dawnchorus.data_prep.dataset.work_folder import WORK
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label

ENDINGS = (".txt", ".csv", ".tsv", ".parquet", ".jsonl")
_PATH = ("begin_file", "begin_path", "file", "audio_file", "recording", "sound_file", "soundfile",
         "path", *FIELDS[0].usual)  # fmt: skip
_LABEL = (
    "scientific_name", "scientificname", "species", "label", "labels", "annotation", "annotations",
    "class", "class_name", "call_type", "call", "ebird_code", "species_code", "common_name",
    "primary_label", "category", "tag", "tags", "sound_type", "type",
)  # fmt: skip
_SUFFIX = re.compile(
    r"(?:\.table\.?\d*|\.birdnet|\.selections?|\.selection\.table|\.results?|\.labels?|\.raven)$",
    re.IGNORECASE,
)
_BAND = "\\"  # begins a line of Audacity with the frequencies of the label before
Read = Callable[[Any, str], tuple[Label, ...]]
"""Turns a cell with labels, and its place, into labels."""


def annotation_files(source: Path, but: Path) -> list[Path]:
    """Return the tables of a file or folder; `but` is not one. Raises PrepError for none."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise PrepError(f"There are no annotations at {source}.")
    found = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
        and path.resolve() != but.resolve() and not _is_dataset(path.parent)
        and not path.name.lower().startswith(("readme", "license", "licence"))
    )  # fmt: skip
    if not found:
        raise PrepError(
            f"{source} holds no annotations: no file that ends in {', '.join(ENDINGS)}."
        )
    return found


def _is_dataset(folder: Path) -> bool:
    """Whether a folder lies in a dataset, finished or not, which may be made beside the sound."""
    return any(
        (above / "index.parquet").exists() or (above / WORK).exists()
        for above in (folder, *folder.parents)
    )


class AnnotationReader:
    """Reads tables of events into `events`.

    Args:
        events: gets the events.
        find: the recording's path of a file name in a table; '' for a file that is no recording.
        paths: of all recordings.
        read: turns cells into labels.
        label_column: as the user gave it, or ''.
        path_column: as the user gave it, or ''.
    """

    def __init__(
        self,
        events: Events,
        find: Callable[[str], str],
        paths: Sequence[str],
        read: Read,
        *,
        label_column: str = "",
        path_column: str = "",
    ) -> None:
        self.events, self.find, self.read = events, find, read
        self.label_column, self.path_column = label_column, path_column
        self.by_name: dict[str, list[str]] = {}
        for path in paths:
            name = PurePosixPath(path).name.casefold()
            for key in {name, PurePosixPath(name).stem}:
                self.by_name.setdefault(key, []).append(path)
        self.elsewhere: dict[str, str] = {}
        """Names of files that are no recordings, with the place of their first row."""

    def read_file(self, file: Path) -> None:
        """Add the events of one file. Raises PrepError for one that cannot be understood."""
        if _is_empty(file):
            self.events.listened_to(self._by_own_name(file))
        elif _is_audacity(file):
            self._audacity(file)
        else:
            self._table(file)

    def _by_own_name(self, file: Path) -> str:
        """The recording that a table is about by its name."""
        name = file.name[: -len(file.suffix)].casefold()
        while True:
            found = self.by_name.get(name, [])
            if len(found) == 1:
                return found[0]
            if found:
                raise PrepError(
                    f"{file} may be about {found[0]} or {found[1]}: give it a column with the "
                    "recording's path."
                )
            shorter = _SUFFIX.sub("", name)
            if shorter == name:
                raise PrepError(
                    f"{file} is about no recording: there is no sound of the name {name!r}, and no "
                    "column names one (--path-column)."
                )
            name = shorter

    def _audacity(self, file: Path) -> None:
        """Read "start TAB end TAB label"; a backslash begins the band of the line before."""
        path = self._by_own_name(file)
        waiting: Found | None = None
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            where = f"{file}, line {number}"
            cells = [cell.strip() for cell in line.split("\t")]
            if not line.strip():
                continue
            numbers = [number_in(cell) for cell in cells[-2:] if cells[0] == _BAND]
            if len(numbers) == 2 and waiting is not None:
                low_hz, high_hz = (None if n is None or n < 0 else n for n in numbers)
                waiting = waiting._replace(low_hz=low_hz, high_hz=high_hz)
                continue
            if waiting is not None:
                self.events.add(path, waiting, file.name)
            times = [number_in(cell) for cell in cells[:2]]
            if len(times) < 2 or times[0] is None or times[1] is None:
                raise PrepError(f"{where}: {line[:60]!r} is no label of Audacity.")
            labels = self._labels(cells[2] if len(cells) > 2 else "", where)
            waiting = Found(times[0], times[1], None, None, labels, where)
        if waiting is not None:
            self.events.add(path, waiting, file.name)

    def _labels(self, cell: Any, where: str) -> tuple[Label, ...]:
        return self.read(self.events.options.event_label or cell, where)

    def _table(self, file: Path) -> None:
        table = open_table(file, encoding=self.events.options.encoding, guess=True)
        header = list(table.columns)
        if self._lists(table):
            return
        columns = EventColumns.of(header, time_columns(header))
        if not columns.are_enough:
            raise PrepError(
                f"{file} has no columns with begin and end of its events (columns: "
                f"{', '.join(header[:12])}). Name them start and end."
            )
        label = self._column(file, header, self.label_column, _LABEL)
        if not label and not self.events.options.event_label:
            raise PrepError(
                f"{file}: no column holds the labels of its events (columns: "
                f"{', '.join(header)}). --label-column names it; --event-label NAME gives all the "
                "same label."
            )
        named = self._column(file, header, self.path_column, _PATH)
        rows = [(number, row) for number, row in table.numbered() if not isinstance(row, BadRow)]
        self._refuse_sequence(file, rows, columns, named)
        if not named or not rows:
            self.events.listened_to(own := self._by_own_name(file))
        for number, row in rows:
            where = f"{file}, row {number}"
            path = own if not named else self._file_of(row, named, where)
            if path:
                labels = self._labels(row.get(label, ""), where)
                self.events.add_row(path, row, columns, labels, where, file.name)

    def _lists(self, table: RowTable) -> bool:
        """Read rows that are recordings with a list of events, as BEANS has them."""
        first = next((row for _, row in table.numbered() if not isinstance(row, BadRow)), None)
        lists = times_in_cells(first or {})
        if not lists and table.kind == "jsonl" and first is not None:
            lists = next((name for name, cell in first.items() if cell == []), "")
        if not lists:
            return False
        named = self._column(table.path, list(table.columns), self.path_column, _PATH)
        for number, row in table.numbered():
            if isinstance(row, BadRow):
                continue
            where = f"{table.path}, row {number}"
            path = self._file_of(row, named, where) if named else self._by_own_name(table.path)
            if path:
                add_listed(self.events, path, row.get(lists), self._labels, where, table.path.name)
        return True

    def _file_of(self, row: Row, column: str, where: str) -> str:
        name = str(row.get(column) or "").strip()
        if not name:
            raise PrepError(f"{where}: the column {column!r} names no file.")
        path = self.find(name)
        if not path:
            self.elsewhere.setdefault(name, where)
        return path

    def _column(self, file: Path, header: Sequence[str], given: str, usual: Sequence[str]) -> str:
        if given and given in header:
            return given
        plain = {plain_name(name): name for name in reversed(header)}
        return next((plain[name] for name in usual if name in plain), "")

    def _refuse_sequence(
        self, file: Path, rows: Sequence[tuple[int, Row]], columns: EventColumns, named: str
    ) -> None:
        """Raise PrepError where Raven's times count from the first of several files."""
        if columns.offset or plain_name(named) not in ("begin_file", "begin_path"):
            return
        files = {str(row.get(named)) for _, row in rows}
        if len(files) > 1:
            raise PrepError(
                f"{file} is about {len(files)} files, and its times count from the first of them. "
                "Add the column 'File Offset (s)' in Raven (Measurements), and save it again."
            )

    def notes(self) -> list[str]:
        """Return what a person should know."""
        if not self.elsewhere:
            return []
        name, where = next(iter(self.elsewhere.items()))
        return [
            f"events of {len(self.elsewhere)} files that are no recordings here are not used, such "
            f"as {name!r} ({where})"
        ]


def add_listed(
    events: Events, path: str, cell: Any, read: Read, where: str, source: str = ""
) -> None:
    """Add the events that one cell lists: `[{"st": 0.1, "ed": 0.2, "label": "x"}, ...]`.

    Raises PrepError where the cell is no such list.
    """
    events.listened_to(path)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell or "[]")
        except ValueError:
            raise PrepError(f"{where}: the list of events is no JSON: {cell[:60]!r}.") from None
    for number, item in enumerate(cell or [], start=1):
        if not isinstance(item, Mapping):
            raise PrepError(f"{where}: event {number} is no object with start and end.")
        columns = EventColumns.of(list(item), time_columns(item))
        plain = {plain_name(str(name)): name for name in item}
        label = next((plain[name] for name in _LABEL if name in plain), "")
        if not columns.are_enough:
            raise PrepError(f"{where}: event {number} has no start and end: {dict(item)!r}.")
        labels = read(item.get(label, ""), where)
        events.add_row(path, item, columns, labels, f"{where}, event {number}", source)


def _lines(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        for line in stream.read(4096).decode("utf-8-sig", "replace").splitlines():
            if line.strip():
                yield line


def _is_empty(file: Path) -> bool:
    return file.suffix.lower() != ".parquet" and not next(_lines(file), "")


def _is_audacity(file: Path) -> bool:
    """Whether the first line is one of numbers, with tabs."""
    if file.suffix.lower() == ".parquet":
        return False
    cells = next(_lines(file), "").split("\t")
    return len(cells) in (2, 3) and all(number_in(cell) is not None for cell in cells[:2])
