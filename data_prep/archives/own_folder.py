"""Reader of the plainest archive: a folder of audio files and a table that describes them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.archives.cells import is_absent, is_nothing, number_in
from dawnchorus.data_prep.archives.checked import text_of
from dawnchorus.data_prep.archives.columns import FIELDS, Mapped, map_columns
from dawnchorus.data_prep.archives.own_folder_events import (
    FILE,
    TimedRows,
    folder_events,
    listing,
    read_annotations,
    without_labels,
)
from dawnchorus.data_prep.archives.own_folder_labels import LabelReader
from dawnchorus.data_prep.archives.own_folder_notes import grouping_column, split_map, warnings
from dawnchorus.data_prep.archives.own_folder_paths import Finder, best_base, relative
from dawnchorus.data_prep.archives.own_folder_table import read_table, refuse_pathless_times
from dawnchorus.data_prep.archives.times import TimesOfLabels, refuse_times
from dawnchorus.data_prep.audio.decode import header_length_s
from dawnchorus.data_prep.dataset.options import BuildOptions, FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Recording, tidy_name
from dawnchorus.trainer.licences import read_licence

Row = dict[str, Any]


@dataclass(frozen=True)
class FolderTable:
    """The recordings of a folder (paths relative to `root` where they lie below it), and how they
    were read.
    """

    root: Path
    metadata: Path
    recordings: list[Recording]
    mapped: Mapped
    notes: list[str]
    grouping: str = ""
    """A column that says what recordings have in common, where no group is named."""


def read_folder(directory: Path, options: FolderOptions) -> FolderTable:
    """Read the table and turn its rows into recordings. No audio is opened, but headers where
    the table gives times.

    Rows that name the same file are one recording with all their labels. Raises PrepError when
    the table is missing or unreadable, a column is not there, such rows contradict each other,
    or labels hold for parts of recordings.
    """
    if not directory.is_dir():
        raise PrepError(f"{directory} is not a folder.")
    metadata = options.metadata or directory / "metadata.csv"
    if options.annotations is not None and options.metadata is None and not metadata.is_file():
        rows, header, notes = listing(directory), [FILE], []
        metadata = directory
    else:
        table, rows = read_table(metadata, directory, options)
        header, notes = list(table.columns), list(table.notes)
    if options.annotations is not None:
        mapped = map_columns(header, without_labels(options.columns, header))
    else:
        if not options.ignore_times:
            refuse_pathless_times(metadata, header, rows, options)
        mapped = map_columns(header, options.columns)
    reader = _Reader(directory, metadata, mapped, options, rows)
    if not options.ignore_times and options.annotations is None:
        reader.find_times(header)
    recordings = reader.recordings()
    if options.annotations is not None:
        recordings, more = reader.annotated(recordings)
        notes += more
    notes += reader.notes()
    if options.make_folds and "fold" not in mapped.columns:
        from dawnchorus.data_prep.archives.folds import make_folds

        recordings = make_folds(recordings, options.make_folds)
        notes.append(f"{options.make_folds} folds were made, of whole groups")
    notes += warnings(recordings, mapped, rows)
    grouping = grouping_column(recordings, mapped, rows)
    return FolderTable(directory, metadata, recordings, mapped, notes, grouping)


class _Reader:
    """Turns the rows of one table into recordings."""

    def __init__(
        self,
        directory: Path,
        metadata: Path,
        mapped: Mapped,
        options: FolderOptions,
        rows: list[tuple[int, Row]],
    ) -> None:
        self.directory, self.metadata = directory, metadata
        self.mapped, self.options, self.rows = mapped, options, rows
        paths = [self._text(row, "path") for _, row in rows]
        self.finder = Finder(directory, best_base(directory, metadata, paths))
        self.labels = LabelReader(mapped, options)
        self.source = options.source_name or tidy_name(directory.resolve().name) or "folder"
        self.splits = split_map(options.split_map)
        self.repeated = 0
        self.odd_numbers: dict[str, list[str]] = {}
        self.found_paths: dict[str, Path] = {}
        self.time_notes: list[str] = []
        self.timed: TimedRows | None = None
        """Gets the events, where the table itself has times."""
        self.outside: list[str] = []
        self._real_directory = directory.resolve()
        self._real_folders: dict[Path, Path] = {}

    def find_times(self, header: list[str]) -> None:
        """Find out whether the table gives times of labels. Raises PrepError for times that cannot
        be read as events.
        """
        taken = {c for f, c in self.mapped.columns.items() if f != "duration"}

        def length_of(name: str) -> float:
            return header_length_s(self._find(name)) if name else 0.0

        try:
            self.time_notes = refuse_times(
                str(self.metadata),
                [name for name in header if name not in taken],
                self.rows,
                lambda row: self._text(row, "path"),
                functools.cache(length_of),
            )
        except TimesOfLabels as err:
            events = folder_events(self.directory, self.options)
            has_labels = bool({"label", "background"} & set(self.mapped.columns))
            self.timed = TimedRows(err, header, self.labels, events, has_labels)

    def annotated(self, recordings: list[Recording]) -> tuple[list[Recording], list[str]]:
        """Return the recordings with the events of the annotations beside them, and notes."""
        events = folder_events(self.directory, self.options)

        def find(name: str) -> str:
            return relative(self._find(name), self.directory)

        notes = read_annotations(self.options, self.metadata, events, recordings, self.labels, find)
        kept = events.attach(recordings)
        return kept, [*notes, *events.notes(len(recordings), len(kept))]

    def recordings(self) -> list[Recording]:
        """Return one recording per file."""
        merged: dict[str, Recording] = {}
        for number, row in self.rows:
            where = f"{self.metadata}, row {number}"
            text = self._text(row, "path")
            if not text:
                raise PrepError(f"{where}: column {self.mapped.columns['path']!r} is empty.")
            if "\n" in text:
                raise PrepError(f"{where}: a line break in the file's name; is a quote not closed?")
            found = self._find(text)
            path = relative(found, self.directory)
            if not self.options.allow_outside and not self._is_inside(found):
                self.outside.append(f"{where}: {text!r}")
                continue
            recording = self._recording(row, path, where)
            if self.timed is not None:
                self.timed.add(path, row, recording.labels, where)
                # What else the row says is about the event.
                recording = dataclasses.replace(
                    recording, labels=(), quality="", sound_type="", duration_s=0.0
                )
            if path in merged:
                self.repeated += self.timed is None
                recording = _merge(merged[path], recording, where, self.mapped)
            merged[path] = recording
        if self.outside:
            raise PrepError(
                f"{self.metadata} names {len(self.outside)} file(s) outside of {self.directory}, "
                "by a path or a link that leads out of it: "
                + "; ".join(self.outside[:5])
                + ". A table of somebody else's could put your private files into the dataset. "
                "Use --allow-outside if you know this table."
            )
        self.labels.check()
        if self.timed is None:
            return list(merged.values())
        self.timed.events.check()
        kept = self.timed.events.attach(merged.values())
        self.time_notes += self.timed.events.notes(len(merged), len(kept))
        return kept

    def _is_inside(self, file: Path) -> bool:
        """Whether a file lies below the folder, whatever its path says and links lead to."""
        folder = file.parent
        if folder not in self._real_folders:
            self._real_folders[folder] = folder.resolve()
        real = self._real_folders[folder] / file.name
        if real.is_symlink():
            real = real.resolve()
        return real.is_relative_to(self._real_directory)

    def _find(self, text: str) -> Path:
        if text not in self.found_paths:
            self.found_paths[text] = self.finder.find(text)
        return self.found_paths[text]

    def _cell(self, row: Mapping[str, Any], name: str) -> Any:
        column = self.mapped.columns.get(name)
        return row.get(column, "") if column is not None else ""

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        """Return a cell as text; '' for what programs write where a value is missing."""
        value = self._cell(row, name)
        if isinstance(value, dict):  # audio as Hugging Face stores it
            value = value.get("path")
        text = value.strip() if isinstance(value, str) else text_of(value)
        return "" if is_absent(text) and name not in ("id", "path") else text

    def _recording(self, row: Row, path: str, where: str) -> Recording:
        """Turn one row into a recording."""

        def get(name: str) -> str:
            return self._text(row, name)

        source_id = tidy_name(get("id")) or _without_place(path)
        identity = f"{self.source}:{source_id}"
        url = get("url")
        split = get("split") or self.options.split
        labels, ranks, also = (self._cell(row, k) for k in ("label", "rank", "background"))
        return Recording(
            id=identity,
            source=self.source,
            source_id=source_id,
            path=path,
            # A column called "source" may hold page addresses or the name of an archive.
            url=url if "://" in url or "url" in self.mapped.given else "",
            licence_url=(
                read_licence(get("licence")).url or read_licence(self.options.licence).url
            ),
            attribution=tidy_name(get("attribution")),
            recordist=tidy_name(get("recordist")),
            labels=self.labels.read(labels, ranks, also, where),
            quality=get("quality"),
            sound_type=get("sound_type"),
            datetime=get("datetime"),
            lat=self._number(get("lat"), "lat", 90.0, where),
            lon=self._number(get("lon"), "lon", 180.0, where),
            duration_s=self._number(get("duration"), "duration", math.inf, where) or 0.0,
            group_id=tidy_name(get("group")) or identity,
            split=self.splits.get(split, split),
            fold=get("fold") or None,
        )

    def _number(self, text: str, name: str, limit: float, where: str) -> float | None:
        """Return the number, or None where there is none or it is impossible."""
        value = number_in(text)
        if value is not None and abs(value) <= limit:
            return value
        if text and not is_nothing(text):
            self.odd_numbers.setdefault(name, []).append(f"{where}: {text!r}")
        return None

    def notes(self) -> list[str]:
        """Return what a person should know about how the rows were read."""
        notes = []
        if self.repeated:
            rows = "1 row names" if self.repeated == 1 else f"{self.repeated} rows name"
            notes.append(f"{rows} a file that an earlier row names: labels merged")
        for name, places in self.odd_numbers.items():
            notes.append(
                f"{len(places)} values of {name} are no such numbers and are left out; the first: "
                f"{places[0]}"
            )
        return [*notes, *self.time_notes, *self.labels.notes(), *self.finder.notes()]


def _without_place(path: str) -> str:
    """Return an id made of a path: the path itself below the folder, else only the file's name."""
    if not path.startswith("/"):
        return path
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{Path(path).stem}-{digest}"


def _merge(first: Recording, second: Recording, where: str, mapped: Mapped) -> Recording:
    """Join two rows of one file: all labels; everything else must be equal."""
    if first.source_id != second.source_id and "id" in mapped.columns:
        raise PrepError(
            f"{where}: {second.path!r} has been described before, with another id "
            f"({first.source_id!r} and {second.source_id!r}). If the column "
            f"{mapped.columns['id']!r} numbers labels, not recordings, --id-column none leaves it "
            "out: then the labels of all rows hold for the whole file."
        )
    labels = {label.name: label for label in first.labels}
    for label in second.labels:
        known = labels.get(label.name)
        # A label that is in the foreground in one row is in the foreground.
        if known is None or (known.role == BACKGROUND and label.role == FOREGROUND):
            labels[label.name] = label
    joined = dataclasses.replace(second, labels=tuple(labels.values()))
    expected = dataclasses.replace(first, labels=joined.labels)
    if joined != expected:
        differing = [
            f"{item.name}: {getattr(expected, item.name)!r} and {getattr(joined, item.name)!r}"
            for item in dataclasses.fields(Recording)
            if getattr(expected, item.name) != getattr(joined, item.name)
        ]
        raise PrepError(
            f"{where}: {second.path!r} has been described before, differently "
            f"({'; '.join(differing)}). Several rows may name one file only to give it several "
            "labels."
        )
    return joined


def prepare_folder(directory: Path | str, out: Path | str, **options: Any) -> dict[str, Any]:
    """Prepare a folder of audio and `metadata.csv` as a dataset of shards; return its stats.

    The Python form of `chorus prep folder DIRECTORY --out OUT`: options have the same names with
    underscores (`label_column="species"`, `codec="wav"`, `jobs=4`, ...). With `jobs` above 1 it
    starts processes, so a script needs the usual `if __name__ == "__main__":` guard. Raises
    PrepError, with nothing that looks finished left in `out`.
    """
    from dawnchorus.data_prep.dataset.build import build_dataset

    report = options.pop("report", None)
    columns = {
        field.name: options.pop(field.parameter) for field in FIELDS if field.parameter in options
    }
    reading = {item.name for item in dataclasses.fields(FolderOptions)} - {"columns"}
    building = {item.name for item in dataclasses.fields(BuildOptions)}
    unknown = sorted(set(options) - reading - building)
    if unknown:
        raise PrepError(f"Unknown options: {', '.join(unknown)}.")
    if options.get("metadata") is not None:
        options["metadata"] = Path(options["metadata"])
    build = BuildOptions(**{k: v for k, v in options.items() if k in building})
    table = read_folder(
        Path(directory),
        FolderOptions(columns=columns, **{k: v for k, v in options.items() if k in reading}),
    )
    if report is not None:
        report(table)
    look_at = "--path-column"
    return build_dataset(table.recordings, table.root, Path(out), build, look_at=look_at)
