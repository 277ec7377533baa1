"""A size-limited folder of byte ranges that were fetched from an object store.

All ranks and workers of a node share it. It survives the run, and a lost entry costs only another
request. An entry is a file named by a digest of its URL, version and range:

    blocks/ab/cd...   entry: checksum, length, bytes; its modification time is its last use
    usage             bytes of all entries, counted under usage.lock

Entries are renamed into place and their checksum is compared at every reading, so an entry that a
killed process or a full disk has damaged is fetched again. When a new entry would exceed the limit,
the least recently used entries are removed, down to nine tenths of the limit.

Why not a library: `diskcache` has had no release since 2023 (CVE-2025-69872 stands open: it
unpickles what it finds) and its SQLite file breaks on network file systems (its issue 345);
fsspec's own `filecache` and `blockcache` fetch whole tars or sparse copies of them and have no
size limit.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from dawnchorus.trainer.private_folder import NotPrivate, private_folder

_HEAD = struct.Struct("<4sIQ")
_MAGIC = b"dcb1"
_KEEP = 0.9
_PARTIAL, _PARTIAL_S = ".partial", 3600.0
_log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """Make the default folder of the cache: in $TMPDIR, $XDG_CACHE_HOME or ~/.cache, mode 0700.

    Clusters set TMPDIR to the node's scratch; home folders there are small and far away. Users
    share the scratch: if another user owns a folder of that name, a warning says so and the next
    place is tried.

    Raises:
        OSError: no folder can be made, or none belongs to this user alone.
    """
    scratch = os.environ.get("TMPDIR")
    if scratch:
        try:
            return private_folder(Path(scratch) / f"dawnchorus-{os.getuid()}")
        except NotPrivate as error:
            _warn_once(f"{error}: not used as a cache, because others could have written into it")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return private_folder(home / "dawnchorus")


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


class _Entry(NamedTuple):
    used: float
    size: int
    path: str


class BlockCache:
    """Keeps byte ranges by key on disk, at most `limit` bytes in total.

    It never makes a run fail. If the folder cannot be written, belongs to another user, or can be
    written by others, nothing is read or kept there, and a warning says so once per process.

    Args:
        root: the folder; shared by all processes of a node.
        limit: most bytes of all entries together.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit
        self._warned = False
        self._private: bool | None = None

    def path(self, key: str) -> Path:
        """Path of an entry."""
        digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self.root / "blocks" / digest[:2] / digest[2:]

    def __contains__(self, key: str) -> bool:
        return self._usable() and self.path(key).is_file()

    def get(self, key: str) -> bytes | None:
        """The bytes that are kept under a key; None if there are none, or they are damaged."""
        if not self._usable():
            return None
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        data = content[_HEAD.size :]
        if content[: _HEAD.size] != _head(data):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # another process has removed it, or the folder is read-only
            os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes under a key, if there is room for them at all."""
        path, size = self.path(key), _HEAD.size + len(data)
        if size > self.limit or not self._usable():
            return
        partial = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = self._reserve(size, path.parent)
            if partial is None:
                return
            with partial.open("r+b") as file:
                file.write(_head(data))
                file.write(data)
            partial.replace(path)
        except OSError as error:
            self._warn(error)
            if partial is not None:
                with suppress(OSError):
                    partial.unlink()

    def entries(self) -> Iterator[_Entry]:
        """All files of the cache, including unfinished ones."""
        with suppress(FileNotFoundError), os.scandir(self.root / "blocks") as folders:
            for folder in folders:
                with suppress(FileNotFoundError), os.scandir(folder.path) as files:
                    for file in files:
                        with suppress(FileNotFoundError):
                            state = file.stat()
                            yield _Entry(state.st_mtime, state.st_size, file.path)

    def _reserve(self, size: int, folder: Path) -> Path | None:
        """Make room for an entry and return an unfinished file of its size; None without room.

        The file exists before the lock is released, so that a sweep of another process counts it.
        Two processes that fetch the same range count it twice, and a killed process leaves its
        unfinished entry counted. So the count is never too low, and a sweep corrects it.
        """
        count = self.root / "usage"
        with FileLock(f"{count}.lock"):
            try:
                used = int(count.read_text())
            except (FileNotFoundError, ValueError):
                used = sum(entry.size for entry in self.entries())
            if used + size > self.limit:
                used = self._sweep(min(int(_KEEP * self.limit), self.limit - size))
            if used + size > self.limit:  # entries that others are writing take the room
                count.write_text(str(used))
                return None
            handle, partial = tempfile.mkstemp(suffix=_PARTIAL, dir=folder)
            os.truncate(handle, size)
            os.close(handle)
            count.write_text(str(used + size))
            return Path(partial)

    def _sweep(self, target: int) -> int:
        """Remove the least recently used entries until `target` bytes are left.

        Returns the bytes that are left, including those of unfinished entries.
        """
        now, entries, used = time.time(), [], 0
        for entry in self.entries():
            unfinished = entry.path.endswith(_PARTIAL)
            if unfinished and entry.used < now - _PARTIAL_S:  # left by a killed process
                Path(entry.path).unlink(missing_ok=True)
                continue
            used += entry.size
            if not unfinished:
                entries.append(entry)
        for entry in sorted(entries):
            if used <= target:
                break
            Path(entry.path).unlink(missing_ok=True)
            used -= entry.size
        return used

    def _usable(self) -> bool:
        """Whether the folder belongs to this user alone; checked once per process."""
        if self._private is None:
            try:
                private_folder(self.root)
                self._private = True
            except OSError as error:
                self._private = False
                self._warn(error)
        return self._private

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "the cache %s cannot be used (%s); reading on without it", self.root, error
            )


def _head(data: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, zlib.crc32(data), len(data))
