"""The ledger: which files are wanted, which are on disk, which failed and why, and bytes per host.

SQLite, because the questions are a database's ("the next ones for this host", "this id") and its
write-ahead log survives a kill and a power cut at any moment; a log of JSON lines would have to be
read whole to continue with a million rows. `locking_mode=EXCLUSIVE` does two things: a second
download into the same folder is refused, and the log needs no shared memory, which parallel file
systems (Lustre, NFS, GPFS) do not have (sqlite.org/wal.html, section 8).

The number of a recording is a hash of its id. So the ledger is walked in random order, and a block
of recordings that a host refuses (one taxon, one owner) does not look like a host that is down.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.download.addresses import number_of
from dawnchorus.data_prep.errors import PrepError

FILE = "download.sqlite"
TODO, DONE, FAILED, FAILED_FOR_GOOD = range(4)
_FORMAT = 1
_DAY_S = 86400
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hosts (host INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY,  -- of the id, see number_of
    id TEXT NOT NULL, host INTEGER NOT NULL, url TEXT NOT NULL,
    plan INTEGER NOT NULL,       -- the plan it belongs to; older ones are no longer wanted
    state INTEGER NOT NULL DEFAULT 0,
    reason TEXT, detail TEXT,    -- of the last failure
    path TEXT, bytes INTEGER, sha256 BLOB, at REAL,
    validator TEXT, part_bytes INTEGER NOT NULL DEFAULT 0  -- of a half-fetched file
);
CREATE INDEX IF NOT EXISTS queue ON items (host) WHERE state = 0;
CREATE TABLE IF NOT EXISTS traffic (
    host TEXT, minute INTEGER, bytes INTEGER NOT NULL, PRIMARY KEY (host, minute)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Item:
    """A recording that is to be fetched; `validator` and `part_bytes` of a part of it on disk."""

    number: int
    id: str
    url: str
    validator: str = ""
    part_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What the ledger knows of a recording."""

    id: str
    state: int
    host: str
    path: str = ""
    bytes: int = 0
    reason: str = ""
    detail: str = ""


class Ledger:
    """The open ledger of one output folder. What is recorded is on disk after `commit`.

    All methods may be called from any thread. Raises PrepError when another download has it open.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._lock = threading.Lock()
        self._traffic: Counter[tuple[str, int]] = Counter()
        self._traffic_lock = threading.Lock()
        self._waiting: list[tuple[str, tuple[object, ...]]] = []
        try:
            self._db = sqlite3.connect(
                self.file, timeout=0.5, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            # FULL: what a commit says is on disk is there after a power cut, too.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA cache_size = -65536")  # KiB
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")  # takes the lock now, not at the first write
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as err:
            raise self._as_prep_error(err) from err
        if int(self.fact("format", str(_FORMAT))) != _FORMAT:
            raise PrepError(f"{self.file} was written by another version. Use another --out.")
        self.set_fact("format", str(_FORMAT))

    def _as_prep_error(self, err: sqlite3.Error) -> Exception:
        if "locked" in str(err):
            return PrepError(
                f"Another download is at work in {self.file.parent} (it holds {self.file.name}). "
                "Wait for it, or stop it."
            )
        if "full" in str(err) or "disk I/O" in str(err):
            return OSError(28, f"{err} (writing {self.file})")
        return PrepError(
            f"{self.file} cannot be used: {err}. Move it away: files that are complete are "
            "found and kept."
        )

    def close(self) -> None:
        """Commit and close."""
        try:
            self.commit()
        finally:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction: all of it or nothing. Raises OSError when the disk is full."""
        with self._lock:
            try:
                self._db.execute("BEGIN")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as err:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(err, sqlite3.Error):
                    raise self._as_prep_error(err) from err
                raise

    def _ask(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as err:
                raise self._as_prep_error(err) from err

    def fact(self, name: str, default: str = "") -> str:
        """Return a remembered fact."""
        rows = self._ask("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else default

    def set_fact(self, name: str, value: str) -> None:
        """Remember a fact."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # ------------------------------------------------------------------ what is wanted

    @property
    def plan(self) -> int:
        """The number of the current plan; items of older plans are not wanted."""
        return int(self.fact("plan", "0"))

    def add(self, plan: int, wanted: Iterable[tuple[str, str, str]]) -> None:
        """Put (id, host, url) into a plan. Finished recordings stay finished; a new address is
        tried anew.
        """
        rows = list(wanted)
        with self.transaction() as db:
            names = {host for _, host, _ in rows}
            db.executemany(
                "INSERT OR IGNORE INTO hosts (name) VALUES (?)", [(name,) for name in sorted(names)]
            )
            numbers = dict(db.execute("SELECT name, host FROM hosts").fetchall())
            db.executemany(
                "INSERT INTO items (number, id, host, url, plan) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (number) DO UPDATE SET plan = excluded.plan, host = excluded.host, "
                f"state = CASE WHEN state = {DONE} OR url = excluded.url THEN state ELSE {TODO} "
                "END, part_bytes = CASE WHEN url = excluded.url THEN part_bytes ELSE 0 END, "
                "url = excluded.url WHERE plan != excluded.plan",
                # In order of the key: pages are filled one after the other.
                sorted((number_of(i), i, numbers[host], url, plan) for i, host, url in rows),
            )

    def try_again(self, *, also_for_good: bool) -> None:
        """Put failed recordings back into the queue: those that may succeed later, or all."""
        last = FAILED_FOR_GOOD if also_for_good else FAILED
        with self.transaction() as db:
            db.execute(
                "UPDATE items SET state = ? WHERE state BETWEEN ? AND ?", (TODO, FAILED, last)
            )

    def waiting(self) -> dict[str, int]:
        """Return {host: recordings to fetch}, the longest queue first."""
        rows = self._ask(
            "SELECT name, count(*) FROM items JOIN hosts USING (host) "
            f"WHERE state = {TODO} AND plan = ? GROUP BY host ORDER BY 2 DESC",
            (self.plan,),
        )
        return dict(rows)

    def next_items(self, host: str, after: int, count: int) -> list[Item]:
        """Return the next `count` recordings to fetch from a host, after a number."""
        rows = self._ask(
            "SELECT number, id, url, ifnull(validator, ''), part_bytes FROM items INDEXED BY queue "
            f"WHERE state = {TODO} AND host = (SELECT host FROM hosts WHERE name = ?) "
            "AND plan = ? AND number > ? ORDER BY number LIMIT ?",
            (host, self.plan, after, count),
        )
        return [Item(*row) for row in rows]

    def begun(self) -> list[Item]:
        """Return the recordings to fetch of which a part is on disk."""
        rows = self._ask(
            "SELECT number, id, url, ifnull(validator, ''), part_bytes FROM items "
            f"WHERE part_bytes > 0 AND state = {TODO} AND plan = ?",
            (self.plan,),
        )
        return [Item(*row) for row in rows]

    # ------------------------------------------------------------------ what happened

    def done(self, item: Item, path: str, size: int, sha256: bytes) -> None:
        """Record a file that lies under its final name."""
        self._later(
            "UPDATE items SET state = ?, path = ?, bytes = ?, sha256 = ?, at = ?, reason = NULL, "
            "detail = NULL, validator = NULL, part_bytes = 0 WHERE number = ?",
            (DONE, path, size, sha256, time.time(), item.number),
        )

    def failed(self, item: Item, reason: str, detail: str, *, for_good: bool) -> None:
        """Record why a recording was not fetched; `for_good`: the next run need not try."""
        self._later(
            "UPDATE items SET state = ?, reason = ?, detail = ?, at = ? WHERE number = ?",
            (FAILED_FOR_GOOD if for_good else FAILED, reason, detail, time.time(), item.number),
        )

    def part(self, item: Item, validator: str, part_bytes: int) -> None:
        """Record that so many bytes of a file are secured on disk, of this version of it."""
        self._later(
            "UPDATE items SET validator = ?, part_bytes = ? WHERE number = ?",
            (validator, part_bytes, item.number),
        )

    def traffic(self, gate: str, minute: int, size: int) -> None:
        """Record bytes that the hosts behind a gate sent within a minute (of the epoch)."""
        with self._traffic_lock:
            self._traffic[gate, minute] += size

    def _later(self, sql: str, values: tuple[object, ...]) -> None:
        self._waiting.append((sql, values))

    def commit(self) -> None:
        """Put on disk what was recorded; OSError when the disk is full (it is kept for later)."""
        with self._traffic_lock:
            traffic, self._traffic = self._traffic, Counter()
        count = len(self._waiting)
        if not count and not traffic:
            return
        with self.transaction() as db:
            for sql, values in self._waiting[:count]:
                db.execute(sql, values)
            db.executemany(
                "INSERT INTO traffic VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
                "SET bytes = bytes + excluded.bytes",
                [(*key, size) for key, size in traffic.items()],
            )
        del self._waiting[:count]

    def traffic_of_the_day(self, gate: str) -> list[tuple[int, int]]:
        """Return [(minute, bytes)] of the last 24 hours, oldest first; forget what is older."""
        since = int((time.time() - _DAY_S) // 60)
        with self.transaction() as db:
            db.execute("DELETE FROM traffic WHERE minute < ?", (since,))
        return self._ask("SELECT minute, bytes FROM traffic WHERE host = ? ORDER BY 1", (gate,))

    # ------------------------------------------------------------------ what is known

    def forget_missing(self, folder: Path) -> int:
        """Queue recordings whose file is gone; return how many.

        Folders are listed and files not asked for one by one: the order of the ledger goes
        through the folders, so few names are held, and a million files take seconds.
        """
        gone: list[int] = []
        listed: dict[str, set[str]] = {}
        after = -1
        while rows := self._ask(
            f"SELECT number, path FROM items WHERE state = {DONE} AND number > ? "
            "ORDER BY number LIMIT 20000",
            (after,),
        ):
            for number, path in rows:
                if number >> 55 != after >> 55:
                    listed = {}
                after = number
                parent, _, name = path.rpartition("/")
                if parent not in listed:
                    listed[parent] = _names(folder / parent)
                if name not in listed[parent]:
                    gone.append(number)
        with self.transaction() as db:
            missing = [(TODO, number) for number in gone]
            db.executemany("UPDATE items SET state = ? WHERE number = ?", missing)
        return len(gone)

    def results(self, ids: Sequence[str], *, any_plan: bool = False) -> dict[str, Result]:
        """Return what is known of these recordings, in the current plan or in any."""
        plan = self.plan
        numbers = [number_of(i) for i in ids]
        found: dict[str, Result] = {}
        for start in range(0, len(numbers), 500):
            some = numbers[start : start + 500]
            rows = self._ask(
                "SELECT id, state, name, ifnull(path, ''), ifnull(bytes, 0), ifnull(reason, ''), "
                "ifnull(detail, '') FROM items JOIN hosts USING (host) "
                f"WHERE number IN ({','.join('?' * len(some))}) AND (? OR plan = ?)",
                [*some, any_plan, plan],
            )
            found |= {row[0]: Result(*row) for row in rows}
        return found

    def outcome(self) -> list[tuple[str, int, str, int, int]]:
        """Return (host, state, reason, recordings, bytes) of the current plan."""
        return self._ask(
            "SELECT name, state, CASE WHEN state > 1 THEN reason ELSE '' END AS why, count(*), "
            "ifnull(sum(CASE WHEN state = 1 THEN bytes END), 0) FROM items JOIN hosts USING (host) "
            "WHERE plan = ? GROUP BY name, state, why ORDER BY name, state, 4 DESC",
            (self.plan,),
        )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (names alone, a million of them)
    except FileNotFoundError:
        return set()
