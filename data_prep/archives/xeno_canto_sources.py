"""The forms in which Xeno-canto's recordings come (dumps, tables, archives, folders), judged by
content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dawnchorus.data_prep.archives.containers import ZipFiles
from dawnchorus.data_prep.archives.dwca import is_archive, open_archive
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.gbif import XC, Asked, read_gbif
from dawnchorus.data_prep.archives.xeno_canto import read_dump
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.progress import LINE_EVERY_S

_NAMES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".zip", ".dwca")


def read_sources(
    sources: Sequence[Path],
    *,
    scratch: Path,
    audio: FileIndex | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Recording | Rejected]:
    """Yield the recordings of all sources, in order.

    A source is a file (JSON of API v2 or v3, CSV of the same fields, both also .gz; GBIF download
    or publisher's archive), an unpacked archive, or a folder of such files. Raises PrepError for
    any other file, where possible before anything is read.
    """
    found = [(path, is_archive(path)) for source in sources for path in _expanded(source)]
    spoken = time.monotonic()
    for number, row in enumerate(_rows(found, scratch, audio, say), start=1):
        if number % 1024 == 0 and time.monotonic() - spoken >= LINE_EVERY_S:
            spoken = time.monotonic()
            say(f"{number:,} recordings")
        yield row


def _rows(
    found: Sequence[tuple[Path, bool]],
    scratch: Path,
    audio: FileIndex | None,
    say: Callable[[str], None],
) -> Iterator[Recording | Rejected]:
    for path, packed in found:
        if packed:
            yield from read_gbif(path, scratch=scratch, asked=Asked(XC, audio, say))
        else:
            _checked_zip(path)
            yield from read_dump(path, audio)


def _checked_zip(path: Path) -> None:
    """Raise what is wrong with a zip that is neither an archive nor holds JSON."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    names = ZipFiles(path).names
    if not any(name.lower().endswith((".json", ".jsonl", ".ndjson")) for name in names):
        open_archive(path)


def _expanded(source: Path) -> list[Path]:
    """Return the source, or the files of a folder that is no archive itself."""
    if source.is_file() or (source.is_dir() and is_archive(source)):
        return [source]
    if not source.is_dir():
        raise PrepError(f"There is nothing at {source}.")
    found = sorted(
        path
        for path in source.rglob("*")
        if not path.name.startswith(".")
        and path.name.lower().removesuffix(".gz").endswith(_NAMES)
        and path.is_file()
    )
    if not found:
        raise PrepError(f"{source} holds no dump of Xeno-canto: no {', '.join(_NAMES)}.")
    return found
