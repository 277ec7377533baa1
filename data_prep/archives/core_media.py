"""The join of occurrences (the core of an archive) with their media rows, in bounded memory.

Archives list an occurrence in one file and its sounds in another, in any order. The media rows that
are wanted wait in an SQLite file for their occurrence, about 0.5 kB each.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

from dawnchorus.data_prep.errors import PrepError

JOIN_FILE = ".join.sqlite"
BATCH = 500
"""Rows that are put in, and ids that are asked for, at a time."""
Row = dict[str, str]


@contextmanager
def media_store(scratch: Path, archive: Path) -> Iterator[MediaStore]:
    """Open an empty store in the folder `scratch`; its file is removed at the end.

    Raises PrepError, which names `archive`, when the disk refuses.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / JOIN_FILE
    file.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as base:
            yield MediaStore(base)
    except (sqlite3.Error, OSError) as err:
        raise PrepError(
            f"Joining {archive} in {file} failed: {err}. Make room there, then run it again."
        ) from err
    finally:
        file.unlink(missing_ok=True)


class MediaStore:
    """Media rows on disk, found by the id of their core row. Memory stays below 100 MB."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base
        # Nothing of it is needed after a crash; what SQLite sorts stays in this file's folder.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            base.execute(f"PRAGMA {pragma}")
        base.execute("CREATE TABLE media (core TEXT, row TEXT)")
        # Made before the rows come: archives are sorted by id or nearly so, and an index made
        # afterwards would be sorted in a temporary file elsewhere.
        base.execute("CREATE INDEX by_core ON media (core)")
        base.execute("CREATE TABLE met (core TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Store rows, each with the id of its core row."""
        texts = ((core, json.dumps(row, ensure_ascii=False)) for core, row in rows)
        self._base.execute("BEGIN")
        while batch := list(islice(texts, BATCH)):
            self._base.executemany("INSERT INTO media VALUES (?, ?)", batch)
        self._base.execute("COMMIT")

    def ids(self) -> Iterator[str]:
        """Yield the ids of the core rows that are waited for, each once."""
        for (core,) in self._base.execute("SELECT DISTINCT core FROM media"):
            yield core

    def find(self, ids: Collection[str]) -> dict[str, list[Row]]:
        """Return {id: its rows in file order} of the ids that have any; at most `BATCH` of them."""
        marks = ",".join("?" * len(ids))
        found: dict[str, list[Row]] = {}
        query = f"SELECT core, row FROM media WHERE core IN ({marks}) ORDER BY rowid"
        for core, text in self._base.execute(query, tuple(ids)):
            found.setdefault(core, []).append(json.loads(text))
        self._base.executemany("INSERT OR IGNORE INTO met VALUES (?)", ((i,) for i in found))
        return found

    def unmatched(self) -> Iterator[tuple[str, Row]]:
        """Yield (id, row) of the media rows whose core row nobody asked for, in file order."""
        unmet = "core NOT IN (SELECT core FROM met)"
        query = f"SELECT core, row FROM media WHERE {unmet} ORDER BY rowid"
        for core, text in self._base.execute(query):
            yield core, json.loads(text)
