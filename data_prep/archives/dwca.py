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
media), replaces undecodable bytes silently and parses XML without protection. polars joins fast
but holds one side in memory and repairs or drops bad rows unsaid. Here the files are streamed out
of the zip, rows that are not wanted fall away while reading, and the others wait for their
occurrence in an SQLite file in the scratch folder.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from dawnchorus.data_prep.archives.containers import META, Files, FolderFiles, ZipFiles
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.dwca_meta import KNOWN_PAIRS, Row, Table, described, undescribed
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.progress import LINE_EVERY_S

_T = TypeVar("_T")
_JOIN_FILE = ".join.sqlite"
_BATCH = 500

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

        First the extension is read, then the core; core rows without any come too, with none.
        Rows without a core row come last, by their id. In `scratch` a file grows that holds the
        kept rows (about 0.5 kB each); it is removed at the end. Memory stays below 100 MB. `say`
        gets a line every ten seconds.
        Raises PrepError when there is no such extension, a file breaks off, or the disk is full.
        """
        tables = self.extensions.get(kind, ())
        if not tables:
            raise PrepError(
                f"{self.path} has no {kind} table, only {', '.join(self.extensions) or 'a core'}. "
                "On gbif.org choose the download 'Darwin Core Archive', not 'Simple'."
            )
        scratch.mkdir(parents=True, exist_ok=True)
        file = scratch / _JOIN_FILE
        file.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(file, isolation_level=None)) as base:
                store = _Store(base, say)
                for table in tables:
                    yield from store.load(table, keep, rows_only)
                yield from store.join(self.core, core_only)
        except (sqlite3.Error, OSError) as err:
            raise PrepError(
                f"Joining {self.path} in {file} failed: {err}. Make room there, then run it again."
            ) from err
        finally:
            file.unlink(missing_ok=True)


class _Store:
    """Extension rows on disk, found by the id of their core row."""

    def __init__(self, base: sqlite3.Connection, say: Callable[[str], None]) -> None:
        self.base, self.say = base, say
        # Nothing of it is needed after a crash.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            base.execute(f"PRAGMA {pragma}")
        base.execute("CREATE TABLE media (core TEXT, row TEXT)")
        # Made before the rows come: archives are sorted by id or nearly so, and an index made
        # afterwards would be sorted in a temporary file elsewhere.
        base.execute("CREATE INDEX by_core ON media (core)")
        base.execute("CREATE TABLE met (core TEXT PRIMARY KEY) WITHOUT ROWID")

    def load(
        self, table: Table, keep: Callable[[Row], bool], only: Collection[str]
    ) -> Iterator[BadRow]:
        """Store the rows to keep; yield those that cannot be read."""
        kept: list[tuple[str, str]] = []
        self.base.execute("BEGIN")
        for row in self._told(table, table.rows(only)):
            if isinstance(row, BadRow):
                yield row
            elif keep(row):
                kept.append((row["id"], json.dumps(row, ensure_ascii=False)))
                if len(kept) == _BATCH:
                    self.base.executemany("INSERT INTO media VALUES (?, ?)", kept)
                    kept = []
        self.base.executemany("INSERT INTO media VALUES (?, ?)", kept)
        self.base.execute("COMMIT")

    def join(self, core: Table, only: Collection[str]) -> Iterator[Joined | BadRow]:
        """Yield every core row with what is stored for it, then what no core row asked for."""
        self.base.execute("BEGIN")
        rows = self._told(core, core.rows(only))
        while batch := list(islice(rows, _BATCH)):
            ids = {row["id"] for row in batch if not isinstance(row, BadRow)}
            found = self._find(ids)
            self.base.executemany("INSERT OR IGNORE INTO met VALUES (?)", ((i,) for i in found))
            for row in batch:
                yield row if isinstance(row, BadRow) else Joined(row, found.get(row["id"], []))
        lonely = "SELECT row FROM media WHERE core NOT IN (SELECT core FROM met) ORDER BY rowid"
        for (text,) in self.base.execute(lonely):
            yield Joined(None, [json.loads(text)])

    def _told(self, table: Table, rows: Iterator[_T]) -> Iterator[_T]:
        """Pass rows on; say every ten seconds how many there were."""
        spoken = time.monotonic()
        for number, row in enumerate(rows, start=1):
            if number % 1024 == 0 and time.monotonic() - spoken >= LINE_EVERY_S:
                spoken = time.monotonic()
                self.say(f"{', '.join(table.files)}: {number:,} rows read")
            yield row

    def _find(self, ids: Collection[str]) -> dict[str, list[Row]]:
        """Return {id: its rows in file order} of the ids that have any."""
        marks = ",".join("?" * len(ids))
        found: dict[str, list[Row]] = {}
        query = f"SELECT core, row FROM media WHERE core IN ({marks}) ORDER BY rowid"
        for core, text in self.base.execute(query, tuple(ids)):
            found.setdefault(core, []).append(json.loads(text))
        return found


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
    """Return whether `path` looks like one: by its content, without reading its tables."""
    try:
        files: Files = ZipFiles(path) if path.is_file() else FolderFiles(path)
    except PrepError:
        return False
    return META in files.names or any(pair <= files.names for pair in map(set, KNOWN_PAIRS))
