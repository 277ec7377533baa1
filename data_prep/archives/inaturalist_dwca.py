"""iNaturalist's research-grade archive: 195 million media rows, of which one in 150 is a sound.

`observations.csv` (48 columns, quoted) and `media.csv` lie in a zip or a folder. The media are
streamed once and their sounds are kept in an SQLite file (`core_media`); then the observations are
streamed once and joined with their sounds by `media.id == observations.id`. One block of rows and 8
bytes per observation with a sound are in memory.

pyarrow's CSV reader does the parsing, at over a million rows per second; `data_prep.archives.dwca`
reads any archive as its meta.xml says, but row by row in Python. Cells stay bytes until a row is
wanted: a wrong byte in the remark of one photo does not end the reading.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from dawnchorus.data_prep.archives.core_media import BATCH, MediaStore, media_store
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.inaturalist import (
    RANK_KEYS,
    TAXONOMY,
    bare_url,
    credit,
    sound_number,
)
from dawnchorus.data_prep.archives.inaturalist_csv import CsvFile
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

OBSERVATIONS, MEDIA = "observations.csv", "media.csv"
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
    with media_store(scratch, path) as store:
        yield from _load(store, media)
        yield from checked(_join(store, observations, local))


def _files(path: Path) -> Files:
    return FolderFiles(path) if path.is_dir() else ZipFiles(path)


def _load(store: MediaStore, media: CsvFile) -> Iterator[Rejected]:
    """Keep all sounds of media.csv; yield the rows that cannot be read."""
    import pyarrow.compute as pc

    for batch in media.batches():
        yield from _other_types(batch)
        sounds = batch.filter(pc.equal(batch.column("type"), _SOUND))
        kept = []
        for cells in sounds.to_pylist():
            row = _decoded(cells)
            if isinstance(row, Rejected) or not _is_id(row["id"]):
                yield _bad(row, MEDIA)
                continue
            kept.append((str(int(row["id"])), row))
        store.add(kept)
        media.note(len(kept))
        yield from media.take_bad()


def _join(
    store: MediaStore, observations: CsvFile, local: FileIndex | None
) -> Iterator[Recording | Rejected]:
    """Yield the sounds with their observations, then those that have none."""
    wanted = np.sort(np.fromiter(map(int, store.ids()), np.int64))
    for batch in observations.batches():
        numbers = _numbers(batch.column("id"))
        hits = np.zeros(0, np.int64)
        if wanted.size:
            place = np.minimum(np.searchsorted(wanted, numbers), wanted.size - 1)
            (hits,) = np.nonzero(wanted[place] == numbers)
        for start in range(0, len(hits), BATCH):
            some = hits[start : start + BATCH]
            found = store.find(set(map(str, numbers[some].tolist())))
            for cells, number in zip(batch.take(some).to_pylist(), numbers[some], strict=True):
                row = _decoded(cells)
                for sound in found[str(number)]:
                    if isinstance(row, Rejected):
                        yield _bad(row, OBSERVATIONS)
                    else:
                        yield _recording(row, sound, local)
        observations.note(len(hits))
        yield from observations.take_bad()
    for number, sound in store.unmatched():
        yield Rejected(
            recording_id=f"inat:{sound_number(sound['identifier'])}",
            reason="no_observation",
            detail=f"observation {number} is not in {OBSERVATIONS}",
            path=sound["identifier"],
        )


def _other_types(batch: pa.RecordBatch) -> Iterator[Rejected]:
    """Yield the rows of an unknown type, because such a row may be a sound."""
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
    # Blurred coordinates differ between the observations of one place.
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
