"""Events of a folder's recordings: from the table itself, or from annotations beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.archives.annotation_files import (
    AnnotationReader,
    add_listed,
    annotation_files,
)
from dawnchorus.data_prep.archives.annotations import EventColumns, Events, facts_of
from dawnchorus.data_prep.archives.columns import NOT_USED
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.own_folder_labels import LabelReader
from dawnchorus.data_prep.archives.times import TimesOfLabels
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.trainer.sound_folders import is_sound_name

FILE = "filename"  # the column of the table that is made of a folder without one
Row = dict[str, Any]


def folder_events(directory: Path, options: FolderOptions) -> Events:
    """Return an empty collection for the recordings of a folder."""
    return Events(options, functools.cache(lambda path: facts_of(directory / path)))


class TimedRows:
    """The events that the rows of a recording table give.

    Raises TimesOfLabels, as it was found, where the end of an event is not told.
    """

    def __init__(
        self, found: TimesOfLabels, header: Sequence[str], labels: LabelReader, events: Events,
        has_labels: bool,
    ) -> None:  # fmt: skip
        self.cells, self.labels, self.events = found.cells, labels, events
        self.columns = EventColumns.of(header, found.columns)
        if not self.cells and not self.columns.are_enough:
            raise found
        if not self.cells and not has_labels and not events.options.event_label:
            raise PrepError(
                "The table has events, but no column holds their labels. --label-column names it; "
                "--event-label NAME gives all the same label."
            )

    def add(self, path: str, row: Row, labels: tuple[Label, ...], where: str) -> None:
        """Add the events of a row with these labels."""
        if self.cells:
            add_listed(self.events, path, row.get(self.cells), self.read, where)
            return
        if self.events.options.event_label:
            labels = self.read("", where)
        self.events.add_row(path, row, self.columns, labels, where)

    def read(self, cell: Any, where: str) -> tuple[Label, ...]:
        """Turn a cell into labels."""
        return self.labels.read(self.events.options.event_label or cell, "", "", where)


def listing(directory: Path) -> list[tuple[int, Row]]:
    """Return a row for each sound file below a folder. Raises PrepError where there is none."""
    root = directory.absolute()
    files = [
        path.relative_to(root).as_posix()
        for path in sorted(Path(root / name) for name in FileIndex(directory).names())
        if is_sound_name(path.name)
    ]
    if not files:
        raise PrepError(f"There are no sound files in {directory}.")
    return list(enumerate(({FILE: name} for name in files), start=1))


def without_labels(options: Mapping[str, str | None], header: Sequence[str]) -> dict[str, Any]:
    """Return the column options of a recording table beside annotations, which have the labels."""
    given = dict(options) | {"label": NOT_USED, "background": NOT_USED, "rank": NOT_USED}
    if given.get("path") not in header:
        given.pop("path", None)
    return given


def read_annotations(
    options: FolderOptions,
    metadata: Path,
    events: Events,
    recordings: Sequence[Recording],
    labels: LabelReader,
    find: Callable[[str], str],
) -> list[str]:
    """Read all annotations of the recordings into `events`; return notes.

    `find` gives the recording's path of a name. Raises PrepError for files that cannot be
    understood, and where too many events are impossible.
    """
    source = options.annotations
    if source is None:
        return []
    known = {recording.path for recording in recordings}

    def known_path(name: str) -> str:
        path = find(name)
        return path if path in known else ""

    reader = AnnotationReader(
        events, known_path, [recording.path for recording in recordings],
        lambda cell, where: labels.read(cell, "", "", where),
        label_column=options.columns.get("label") or "",
        path_column=options.columns.get("path") or "",
    )  # fmt: skip
    for file in annotation_files(source, metadata):
        reader.read_file(file)
    labels.check()
    events.check()
    return reader.notes()
