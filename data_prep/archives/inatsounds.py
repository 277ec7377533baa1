"""iNatSounds 2024: recordings of iNaturalist, cut from their observations, with a fixed split.

The metadata are COCO-like JSON, one file per split (also inside .json.tar.gz), with NaN where a
position's uncertainty is not known. Format and terms: the 2024 README of visipedia/inat_sounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dawnchorus.data_prep.archives.checked import checked, date_of, group_of, number_of, text_of
from dawnchorus.data_prep.archives.inaturalist import RANK_KEYS, TAXONOMY
from dawnchorus.data_prep.archives.json_files import Document, items
from dawnchorus.data_prep.archives.times import NOT_SUPPORTED, label_times, time_columns
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence

TERMS = (
    "iNatSounds 2024: its terms allow non-commercial research and education only, and no "
    "redistribution of the recordings: do not publish shards made of them."
)
_SPLIT = re.compile(r"(?:^|[^a-z])(train|val|test)(?:[^a-z]|$)")
_MAX_CATEGORIES, _MAX_ANNOTATIONS = 1_000_000, 10_000_000
_MAX_ITEM_BYTES = 1 << 30  # at most one other list lies between two items of a list


@dataclass(frozen=True)
class _Tables:
    """The lists that a row of `audio` refers to."""

    labels: dict[str, Label]
    folders: dict[str, str]
    category_of: dict[str, list[str]]
    licences: dict[str, str]


def read_inatsounds(document: Document, audio: Path) -> Iterator[Recording | Rejected]:
    """Yield the recordings of one split. `audio` is the folder that holds train/, val/, test/.

    The split of the release is kept: `val` and `test` are for evaluation. Rejected: files that are
    not below `audio`, rows without a category. Raises PrepError when the file is not such JSON.
    """
    if not audio.is_dir():
        raise PrepError(f"The folder of the audio, {audio}, is not there (--audio).")
    tables = _read_tables(document)
    by_name = _SPLIT.findall(document.name.rpartition(":")[2].rpartition("/")[2].lower())
    split = by_name[-1] if by_name else ""
    yield from checked(
        _row(row if isinstance(row, dict) else {}, tables, split, audio)
        for row in items(document, "audio.item", _MAX_ITEM_BYTES)
    )


def _read_tables(document: Document) -> _Tables:
    """Read the small lists: 5,569 categories, 232,000 annotations, a handful of licences."""
    labels: dict[str, Label] = {}
    folders: dict[str, str] = {}
    for row in _rows(document, "categories.item", _MAX_CATEGORIES):
        key, name = text_of(row.get("id")), text_of(row.get("name"))
        if key and name:
            labels[key] = _label(name, row)
            folders[key] = text_of(row.get("audio_dir_name"))
    category_of: dict[str, list[str]] = {}
    for row in _rows(document, "annotations.item", _MAX_ANNOTATIONS):
        if (times := time_columns(row)) and (span := label_times(row, times)):
            raise PrepError(
                f"{document.name}: annotations hold for parts of recordings ({span}). "
                f"{NOT_SUPPORTED}."
            )
        category_of.setdefault(text_of(row.get("audio_id")), []).append(
            text_of(row.get("category_id"))
        )
    licences = {}
    for row in _rows(document, "licenses.item", 1000):
        text = text_of(row.get("url")) or text_of(row.get("name"))
        licences[text_of(row.get("id"))] = read_licence(text).url
    if not labels:
        raise PrepError(f"{document.name} lists no categories: is it the metadata of iNatSounds?")
    return _Tables(labels, folders, category_of, licences)


def _rows(document: Document, prefix: str, limit: int) -> Iterator[Mapping[str, Any]]:
    for number, row in enumerate(items(document, prefix, _MAX_ITEM_BYTES)):
        if number == limit:
            raise PrepError(f"{document.name} has more than {limit:,} {prefix.partition('.')[0]}.")
        if isinstance(row, dict):
            yield row


def _label(name: str, row: Mapping[str, Any]) -> Label:
    words = name.split()
    rank = {1: "genus", 2: "species", 3: "subspecies"}.get(len(words), "")
    if "×" in words or "x" in words:
        rank = "hybrid"
    ids = {key: text_of(row.get(key)) for key in RANK_KEYS}
    # The numbers of the categories are the release's own, not those of iNaturalist's taxa.
    return Label(name, rank, taxonomy=TAXONOMY, ids=tuple((k, v) for k, v in ids.items() if v))


def _row(row: Mapping[str, Any], tables: _Tables, split: str, audio: Path) -> Recording | Rejected:
    number = text_of(row.get("id"))
    file_name = text_of(row.get("file_name")).replace("\\", "/")
    split = split or (_SPLIT.findall(file_name.partition("/")[0].lower()) or ["train"])[0]
    # Numbers start anew in each split.
    source_id = f"{split}/{number}" if number else ""
    identity = f"inatsounds:{source_id}"
    categories = list(dict.fromkeys(tables.category_of.get(number, ())))
    labels = tuple(tables.labels[key] for key in categories if key in tables.labels)
    if not labels:
        return Rejected(recording_id=identity, reason="unidentified", path=file_name)
    path = _find(audio, split, tables.folders[categories[0]], file_name)
    if not path:
        return Rejected(
            recording_id=identity,
            reason="missing_file",
            detail=f"not below {audio}",
            path=file_name,
        )
    holder = text_of(row.get("rights_holder"))
    lat, lon = number_of(row.get("latitude"), 90.0), number_of(row.get("longitude"), 180.0)
    date = date_of(text_of(row.get("date")))
    return Recording(
        id=identity,
        source="inatsounds",
        source_id=source_id,
        path=path,
        licence_url=tables.licences.get(text_of(row.get("license")), ""),
        attribution=f"{holder or 'unknown recordist'}, iNaturalist, iNatSounds 2024 {source_id}",
        recordist=holder,
        labels=labels,
        datetime=date,
        lat=lat,
        lon=lon,
        duration_s=number_of(row.get("duration"), 1e7) or 0.0,
        group_id=group_of(holder, lat, lon, date, identity),
        split=split,
    )


def _find(audio: Path, split: str, folder: str, file_name: str) -> str:
    """Return where the file lies below `audio`: train/<audio_dir_name>/<file>.wav, or shorter."""
    name = PurePosixPath(file_name).name
    if not name or ".." in PurePosixPath(file_name).parts or "\0" in file_name:
        return ""
    for spelling in (file_name, f"{split}/{file_name}", f"{split}/{folder}/{name}",
                     f"{folder}/{name}"):  # fmt: skip
        if not spelling.startswith("/") and (audio / spelling).is_file():
            return spelling
    return ""
