"""iNaturalist's research-grade archive: 195 million media rows, of which one in 150 is a sound.

`observations.csv` (48 columns, quoted) and `media.csv` lie in a zip or a folder. The media are
streamed once and their sounds kept in an SQLite file; then the observations are streamed once and
meet their sounds by `media.id == observations.id`. In memory are one block of rows and 9 bytes per
observation that has a sound.

pyarrow's CSV reader does the parsing, at over a million rows per second; `data_prep.archives.dwca`
reads any archive as its meta.xml says, but row by row in Python. Cells stay bytes until a row is
wanted: a wrong byte in the remark of one photo does not end the reading.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from dawnchorus.data_prep.archives.checked import (
    checked,
    date_of,
    group_of,
    number_of,
    text_of,
    uncertainty_of,
)
from dawnchorus.data_prep.archives.containers import Files, FolderFiles, ZipFiles
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.inaturalist import (
    RANK_KEYS,
    TAXONOMY,
    bare_url,
    credit,
    sound_number,
)
from dawnchorus.data_prep.archives.inaturalist_csv import CsvFile
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

OBSERVATIONS, MEDIA = "observations.csv", "media.csv"
JOIN_FILE = ".inaturalist-sounds.sqlite"
"""Rows are parsed in blocks; a longer row ends the reading with an error."""
_MEDIA_COLUMNS = ("id", "type", "identifier", "created", "creator", "license", "rightsHolder")
_MEDIA_NEEDED = ("id", "type", "identifier")
_OBSERVATION_COLUMNS = (
    "id", "occurrenceID", "recordedBy", "inaturalistLogin", "eventDate", "eventTime",
    "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters", "countryCode",
    "informationWithheld", "taxonID", "scientificName", "taxonRank", "rightsHolder", *RANK_KEYS,
)  # fmt: skip
_OBSERVATION_NEEDED = ("id", "scientificName")
_SOUND = b"Sound"
_NO_SOUNDS = (b"StillImage", b"MovingImage")
Row = dict[str, str]


def is_research_grade(path: Path) -> bool:
    """Return whether a folder or zip holds observations.csv and media.csv."""
    return {OBSERVATIONS, MEDIA} <= _files(path).names


def read_research_grade(
    path: Path, local: FileIndex | None, scratch: Path, progress: Progress | None = None
) -> Iterator[Recording | Rejected]:
    """Yield the sounds of the archive, in the order of its observations.

    In the folder `scratch` a file grows to some 0.4 kB per sound; it is removed at the end.
    Rejected: rows with the wrong number of columns or a wrong encoding, sounds without an address
    or without an observation, observations without a taxon. Raises PrepError when columns are
    missing, a file breaks off, more than 5 % of the rows are bad, or the disk is full.
    """
    files = _files(path)
    media = CsvFile(files, path, MEDIA, _MEDIA_COLUMNS, _MEDIA_NEEDED, progress)
    observations = CsvFile(
        files, path, OBSERVATIONS, _OBSERVATION_COLUMNS, _OBSERVATION_NEEDED, progress
    )
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / JOIN_FILE
    file.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as base:
            store = _Sounds(base)
            yield from store.load(media)
            yield from checked(store.join(observations, local))
    except sqlite3.Error as err:
        raise PrepError(
            f"Joining {path} in {file} failed: {err}. Make room there, then run it again."
        ) from err
    finally:
        file.unlink(missing_ok=True)


def _files(path: Path) -> Files:
    return FolderFiles(path) if path.is_dir() else ZipFiles(path)


class _Sounds:
    """The rows of media.csv that are sounds, on disk, found by the id of their observation."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        # Nothing of it is needed after a crash; sorting stays in the same file system.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            base.execute(f"PRAGMA {pragma}")
        columns = ", ".join(f'"{name}" TEXT' for name in _MEDIA_COLUMNS[1:])
        base.execute(f"CREATE TABLE sound (number INTEGER PRIMARY KEY, id INTEGER, {columns})")
        base.execute("CREATE INDEX by_id ON sound (id)")

    def load(self, media: CsvFile) -> Iterator[Rejected]:
        """Keep all sounds; yield the rows that cannot be read."""
        import pyarrow.compute as pc

        marks = ", ".join("?" * len(_MEDIA_COLUMNS))
        names = ", ".join(f'"{name}"' for name in _MEDIA_COLUMNS)
        insert = f"INSERT INTO sound ({names}) VALUES ({marks})"
        for batch in media.batches():
            yield from _other_types(batch)
            sounds = batch.filter(pc.equal(batch.column("type"), _SOUND))
            kept = []
            for cells in sounds.to_pylist():
                row = _decoded(cells)
                if isinstance(row, Rejected) or not _is_id(row["id"]):
                    yield _bad(row, MEDIA)
                    continue
                kept.append((int(row["id"]), *(row[name] for name in _MEDIA_COLUMNS[1:])))
            self.base.execute("BEGIN")
            self.base.executemany(insert, kept)
            self.base.execute("COMMIT")
            media.note(len(kept))
            yield from media.take_bad()

    def join(
        self, observations: CsvFile, local: FileIndex | None
    ) -> Iterator[Recording | Rejected]:
        """Yield the sounds with their observations, then those that have none."""
        found = self.base.execute("SELECT DISTINCT id FROM sound ORDER BY id")
        ids = np.fromiter((row[0] for row in found), np.int64)
        met = np.zeros(ids.size, bool)
        for batch in observations.batches():
            numbers, place = _numbers(batch.column("id")), np.zeros(0, np.int64)
            if ids.size:
                place = np.minimum(np.searchsorted(ids, numbers), ids.size - 1)
                (hits,) = np.nonzero(ids[place] == numbers)
                place = place[hits]
                for cells, number in zip(batch.take(hits).to_pylist(), numbers[hits], strict=True):
                    yield from self._rows(_decoded(cells), int(number), local)
                met[place] = True
            observations.note(place.size)
            yield from observations.take_bad()
        for number in ids[~met]:
            for sound in self._sounds(int(number)):
                yield Rejected(
                    recording_id=f"inat:{sound_number(sound['identifier'])}",
                    reason="no_observation",
                    detail=f"observation {number} is not in {OBSERVATIONS}",
                    path=sound["identifier"],
                )

    def _sounds(self, number: int) -> Iterator[Row]:
        columns = ", ".join(f'"{name}"' for name in _MEDIA_COLUMNS[1:])
        query = f"SELECT {columns} FROM sound WHERE id = ? ORDER BY number"
        for cells in self.base.execute(query, (number,)):
            yield dict(zip(_MEDIA_COLUMNS[1:], cells, strict=True))

    def _rows(
        self, row: Row | Rejected, number: int, local: FileIndex | None
    ) -> Iterator[Recording | Rejected]:
        for sound in self._sounds(number):
            if isinstance(row, Rejected):
                yield _bad(row, OBSERVATIONS)
            else:
                yield _recording(row, sound, local)


def _other_types(batch: pa.RecordBatch) -> Iterator[Rejected]:
    """Yield the rows whose type is none that the archive has: a sound may hide behind it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.is_in(batch.column("type"), value_set=pa.array([_SOUND, *_NO_SOUNDS], pa.binary()))
    for cells in batch.filter(pc.invert(known)).to_pylist():
        kind, number, url = (
            (cells[name] or b"").decode("utf-8", "replace") for name in ("type", "id", "identifier")
        )
        yield Rejected(
            recording_id=f"inat:{sound_number(url) or f'observation/{number}'}",
            reason="unknown_type",
            detail=f"{MEDIA}: type {kind[:60]!r} instead of {_SOUND.decode()!r}",
            path=url,
        )


def _recording(row: Row, sound: Row, local: FileIndex | None) -> Recording | Rejected:
    """Return the recording of a sound and its observation."""
    url, observation = sound["identifier"], row["id"]
    key = sound_number(url)
    if not key:
        return Rejected(recording_id=f"inat:observation/{observation}", reason="no_audio", path=url)
    name = text_of(row["scientificName"])
    if not name or row["taxonRank"] == "stateofmatter":
        return Rejected(recording_id=f"inat:{key}", reason="unidentified", path=url)
    ids = {rank: text_of(row[rank]) for rank in RANK_KEYS}
    ids["inat"] = row["taxonID"].rstrip("/").rpartition("/")[2]
    recordist = text_of(
        sound["rightsHolder"] or sound["creator"] or row["recordedBy"] or row["rightsHolder"]
    )
    lat = number_of(row["decimalLatitude"], 90.0)
    lon = number_of(row["decimalLongitude"], 180.0)
    date = date_of(_event(row["eventDate"], row["eventTime"]))
    # Coordinates that were made uncertain differ from one observation to the next.
    place = (None, None) if "oordinate" in row["informationWithheld"] else (lat, lon)
    observer = text_of(row["inaturalistLogin"] or row["recordedBy"]) or recordist
    return Recording(
        id=f"inat:{key}",
        source="inat",
        source_id=key,
        path=local.find(key) if local else "",
        url=bare_url(url),
        licence_url=read_licence(sound["license"]).url,
        attribution=credit(recordist, key, observation),
        recordist=recordist,
        labels=(
            Label(
                name,
                text_of(row["taxonRank"]).lower(),
                taxonomy=TAXONOMY,
                ids=tuple((k, v) for k, v in sorted(ids.items()) if v),
            ),
        ),
        quality="research",
        datetime=date,
        lat=lat,
        lon=lon,
        uncertainty_m=uncertainty_of(
            row["coordinateUncertaintyInMeters"], row["informationWithheld"]
        ),
        country=text_of(row["countryCode"]),
        group_id=group_of(observer, *place, date, f"inat:observation/{observation}"),
    )


def _event(date: str, time_of_day: str) -> str:
    """Return one text of a date and a time, which may already be in the date."""
    return date if "T" in date or not time_of_day else f"{date}T{time_of_day}"


def _numbers(column: pa.Array) -> np.ndarray:
    """Return the ids as integers, -1 where they are none."""
    import pyarrow as pa

    try:
        return cast(np.ndarray, column.cast(pa.string()).cast(pa.int64()).to_numpy(False))
    except (pa.ArrowInvalid, ValueError):
        return np.array(
            [int(c) if c and c.isdigit() and len(c) < 19 else -1 for c in column.to_pylist()],
            np.int64,
        )


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _decoded(cells: dict[str, bytes | None]) -> Row | Rejected:
    try:
        return {name: (cell or b"").decode().strip() for name, cell in cells.items()}
    except UnicodeDecodeError as err:
        number = (cells["id"] or b"").decode("utf-8", "replace")
        return Rejected(
            recording_id=f"inat:observation/{number}",
            reason="wrong_encoding",
            detail=f"not UTF-8: {err.reason} in {err.object[:60]!r}",
        )


def _bad(row: Row | Rejected, name: str) -> Rejected:
    if isinstance(row, Rejected):
        return Rejected(
            recording_id=row.recording_id, reason=row.reason, detail=row.detail, path=name
        )
    return Rejected(
        recording_id="", reason="bad_row", detail=f"id {row['id'][:40]!r} is no number", path=name
    )
