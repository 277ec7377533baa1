"""Darwin Core Archives and GBIF downloads: as their `meta.xml` describes them, in bounded memory.

    archive = open_archive(path)                     # .zip, or the folder it was unpacked to
    for row in archive.core.rows():                  # dict of text, or BadRow
        row["id"], row["scientificname"]
    for item in archive.joined("multimedia", keep=is_sound, scratch=out):
        item.core, item.rows                         # an occurrence and its media, or BadRow

Keys of a row are terms without their namespace, as lower-case letters and digits
(`plain_key`): "http://rs.tdwg.org/dwc/terms/recordedBy" -> "recordedby"; "id" is the identifier of
the core row, in the core and in the extensions. Columns that meta.xml does not list come under
their header's name. Rules: Darwin Core text guide, https://dwc.tdwg.org/text/.

python-dwca-reader 0.17 was looked at. It unpacks the whole archive to disk first, keeps the
position of every extension row in a dict (some 100 bytes each: 20 GB for iNaturalist's 195 million
media), replaces undecodable bytes silently and parses XML without protection. polars joins fast,
but holds one side in memory and repairs or drops bad rows without a message. Here the files are
streamed out of the zip, unwanted rows are dropped while reading, and the others wait for their
occurrence in an SQLite file in the scratch folder (`core_media`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from dawnchorus.data_prep.archives.containers import META, Files, FolderFiles, ZipFiles
from dawnchorus.data_prep.archives.core_media import BATCH, MediaStore, media_store
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.dwca_meta import KNOWN_PAIRS, Row, Table, described, undescribed
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.progress import LINE_EVERY_S

_T = TypeVar("_T")
_STORED = 20 * BATCH  # media rows that are stored in one transaction

__all__ = ["Archive", "BadRow", "Joined", "Row", "Table", "is_archive", "open_archive"]


@dataclass(frozen=True)
class Joined:
    """An occurrence with its extension rows; `core` is None for rows that have no occurrence."""

    core: Row | None
    rows: list[Row]


@dataclass(frozen=True)
class Archive:
    """An opened archive: its core table and its extensions by kind, in meta.xml's order."""

    path: Path
    core: Table
    extensions: Mapping[str, tuple[Table, ...]]

    def joined(
        self,
        kind: str,
        *,
        keep: Callable[[Row], bool],
        scratch: Path,
        core_only: Collection[str] = (),
        rows_only: Collection[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Joined | BadRow]:
        """Yield every core row with those rows of the extension that `keep` accepts.

        First the extension is read, then the core; core rows that have none come too. Extension
        rows without a core row come last. In `scratch` a file grows that holds the kept rows (about
        0.5 kB each); it is removed at the end. Memory stays below 100 MB. `say` gets a line every
        ten seconds. Raises PrepError when there is no such extension, a file breaks off, or the
        disk is full.
        """
        tables = self.extensions.get(kind, ())
        if not tables:
            raise PrepError(
                f"{self.path} has no {kind} table, only {', '.join(self.extensions) or 'a core'}. "
                "On gbif.org choose the download 'Darwin Core Archive', not 'Simple'."
            )
        with media_store(scratch, self.path) as store:
            for table in tables:
                yield from _bad_media(store, _told(table, table.rows(rows_only), say), keep)
            core = _told(self.core, self.core.rows(core_only), say)
            while batch := list(islice(core, BATCH)):
                found = store.find({row["id"] for row in batch if not isinstance(row, BadRow)})
                for row in batch:
                    yield row if isinstance(row, BadRow) else Joined(row, found.get(row["id"], []))
            for _, row in store.unmatched():
                yield Joined(None, [row])


def _bad_media(
    store: MediaStore, rows: Iterator[Row | BadRow], keep: Callable[[Row], bool]
) -> Iterator[BadRow]:
    """Store the media rows to keep; yield those that cannot be read."""
    kept: list[tuple[str, Row]] = []
    for row in rows:
        if isinstance(row, BadRow):
            yield row
        elif keep(row):
            kept.append((row["id"], row))
            if len(kept) == _STORED:
                store.add(kept)
                kept = []
    store.add(kept)


def _told(table: Table, rows: Iterator[_T], say: Callable[[str], None]) -> Iterator[_T]:
    """Pass rows on; say every ten seconds how many there were."""
    spoken = time.monotonic()
    for number, row in enumerate(rows, start=1):
        if number % 1024 == 0 and time.monotonic() - spoken >= LINE_EVERY_S:
            spoken = time.monotonic()
            say(f"{', '.join(table.files)}: {number:,} rows read")
        yield row


def open_archive(path: Path) -> Archive:
    """Open a zip file or a folder with a Darwin Core Archive in it. Nothing is unpacked.

    Without a meta.xml, the pairs occurrence.txt + multimedia.txt (GBIF) and observations.csv +
    media.csv (iNaturalist) are read by their headers. The archive may lie in a single folder
    inside the zip. Raises PrepError when it is neither, broken, or names files outside itself.
    """
    files: Files = ZipFiles(path) if path.is_file() else FolderFiles(path)
    text = files.read(META) if META in files.names else None
    if text is not None:
        core, extensions = described(text, files)
    else:
        core, extensions = undescribed(files)
    by_kind: dict[str, tuple[Table, ...]] = {}
    for table in extensions:
        by_kind[table.kind] = (*by_kind.get(table.kind, ()), table)
    return Archive(path, core, by_kind)


def is_archive(path: Path) -> bool:
    """Return whether `path` is such an archive, judged by the names of its files."""
    try:
        files: Files = ZipFiles(path) if path.is_file() else FolderFiles(path)
    except PrepError:
        return False
    return META in files.names or any(pair <= files.names for pair in map(set, KNOWN_PAIRS))
