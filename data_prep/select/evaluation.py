"""What must not be trained on: the evaluation sets as ids, samples and sounds, and held-out
species.

A set is a recording table, a dataset of shards, or a folder of audio files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.select.identity import NOT_UNIQUE, archive_keys, event_keys, youtube_key
from dawnchorus.data_prep.select.selection_recipe import Evaluation, Held
from dawnchorus.data_prep.select.selection_rows import read_rows
from dawnchorus.data_prep.select.sound import Audio
from dawnchorus.data_prep.table.recording import tidy_name
from dawnchorus.data_prep.table.recording_table import RECORDINGS

if TYPE_CHECKING:
    import polars as pl

_NAMES = "wav flac ogg oga opus mp3 mpga m4a aac mp4 aif aiff aifc wma w64 caf au webm mka amr wv"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())


@dataclass(frozen=True, slots=True)
class Sound:
    """One sound of an evaluation set; a recording of a dataset has one for each stored piece."""

    set: str
    id: str
    audio: Audio


@dataclass
class Known:
    """Everything known about the evaluation sets; each key leads to (set, id)."""

    keys: dict[str, tuple[str, str]]
    events: dict[str, tuple[str, str]]
    samples: dict[str, tuple[str, str]]
    sounds: list[Sound]
    recordings: dict[str, int]


def read_sets(held: Held) -> Known:
    """Read every evaluation set. Raises PrepError where one is not there or empty."""
    known = Known({}, {}, {}, [], {})
    for name, choice in held.sets.items():
        if not choice.path.exists():
            raise PrepError(f"evaluation.sets.{name}.path: there is no {choice.path}.")
        is_table = choice.path.is_file() or (choice.path / RECORDINGS).is_file()
        count = _read_table(name, choice, known) if is_table else _read_folder(name, choice, known)
        if not count:
            raise PrepError(
                f"evaluation.sets.{name}: {choice.path} has neither {RECORDINGS} nor audio files."
            )
        known.recordings[name] = count
    return known


def held_species(held: Held) -> set[str]:
    """Return the names that must not occur, in lower case."""
    names = list(held.species)
    if held.species_file is not None:
        try:
            lines = held.species_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise PrepError(f"evaluation.species_file {held.species_file}: {err}") from err
        names += [line for line in lines if line.strip() and not line.startswith("#")]
    return {tidy_name(name).casefold() for name in names}


def is_held(name: str, species: set[str]) -> bool:
    """Return whether a label is one of these names, or a subspecies of one."""
    words = name.casefold().split()
    return " ".join(words) in species or (len(words) == 3 and " ".join(words[:2]) in species)


def row_keys(row: dict[str, str]) -> set[str]:
    """Return the archive numbers of a row that stand for one sound."""
    keys = archive_keys(row["id"], row["source"], row["source_id"], row["url"], row["path"])
    return {key for key in keys if key.partition(":")[0] not in NOT_UNIQUE}


def _read_table(name: str, choice: Evaluation, known: Known) -> int:
    frame = read_rows({name: (choice.path, choice.audio)}).frame
    columns = ["id", "source", "source_id", "url", "path"]
    for row in frame.select(*columns, "names", "datetime", "recordist").iter_rows(named=True):
        here = (name, row["id"])
        if choice.same_id:
            for key in row_keys(row) | ({youtube_key(row["id"])} - {""}):
                known.keys.setdefault(key, here)
        if choice.same_event:
            for key in event_keys(row["names"], row["datetime"], row["recordist"]):
                known.events.setdefault(key, here)
    folder = choice.path if choice.path.is_dir() else choice.path.parent
    index = folder / "index.parquet"
    if choice.same_samples:
        _stored_samples(name, folder, known)
    if choice.near or choice.same_samples:
        if index.is_file():
            known.sounds += _pieces(name, folder, index)
        else:
            known.sounds += [
                Sound(name, i, Audio(path))
                for i, path in frame.select("id", "audio").iter_rows()
                if path and Path(path).is_file()
            ]
    return frame.height


def _stored_samples(name: str, folder: Path, known: Known) -> None:
    """Take the digests that a dataset's table has; they compare only when made at 16 kHz."""
    import json

    import polars as pl

    table = folder / RECORDINGS
    if not table.is_file() or "pcm_sha1" not in pl.scan_parquet(table).collect_schema().names():
        return
    try:
        stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if stats.get("sample_rate_hz") == 16000:
        digests: pl.DataFrame = pl.read_parquet(table, columns=["id", "pcm_sha1"])
        for i, digest in digests.drop_nulls().iter_rows():
            known.samples.setdefault(digest, (name, i))


def _pieces(name: str, folder: Path, index: Path) -> Iterator[Sound]:
    import polars as pl

    columns = ["recording_id", "shard", "offset", "size"]
    for i, shard, offset, size in pl.read_parquet(index, columns=columns).iter_rows():
        yield Sound(name, i, Audio(str(folder / shard), offset, size))


def _read_folder(name: str, choice: Evaluation, known: Known) -> int:
    paths = (p for p in sorted(choice.path.rglob("*")) if p.suffix.lower() in SUFFIXES)
    count = 0
    for path in paths:
        if not path.is_file():
            continue
        count += 1
        i = str(path.relative_to(choice.path))
        if choice.same_id:
            for key in row_keys({"id": "", "source": "folder", "source_id": "", "url": "",
                                 "path": i}):  # fmt: skip
                known.keys.setdefault(key, (name, i))
        if choice.near or choice.same_samples:
            known.sounds.append(Sound(name, i, Audio(str(path.resolve()))))
    return count
