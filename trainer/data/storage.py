"""Datasets that lie in an object store (`s3://bucket/datasets/xc`, or any other URL of fsspec).

How each part is read:

* The tables (`index.parquet`, `labels.json`, ...) are copied to the node's cache, once for all
  processes of the node and once per version, and read there like local files.
* Clips are fetched by ranged requests. A member of up to 4 MiB (a minute of FLAC has 1 MiB, of WAV
  2 MiB) takes one request; a larger one is fetched in blocks of 1 MiB. A request takes 20 to 100 ms
  whatever its size, and its bytes stay in the `BlockCache` for the next window of the clip.
* The clips of a batch are fetched at the same time, by threads (`RemoteReader.prepare`).

The version of each tar is fixed when the dataset is opened: its length and its ETag (or the value
by which the store tells versions apart). S3 is asked for exactly that version (`If-Match`); with
other stores the version is checked again every half minute. A tar that changed ends the run.

Nothing here may outlive a fork: each process makes the file systems and threads that it uses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from dawnchorus.trainer.data.cache import BlockCache, default_cache_folder
from dawnchorus.trainer.data.config import SECRETIVE, RemoteConfig
from dawnchorus.trainer.data.remote import (
    Changed,
    Version,
    connect,
    patiently,
    read_range,
    version_of,
)
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.private_folder import private_folder

TABLES = ("index.parquet", "labels.json", "licences.parquet", "stats.json")
_WHOLE, _BLOCK = 4 << 20, 1 << 20
_THREADS = 16
_LOOK_AGAIN_S = 30.0
_UNUSED_S = 30 * 86400.0


def is_remote(path: str | Path) -> bool:
    """Whether a dataset path is a URL rather than a folder."""
    return "://" in str(path)


def cache_folder(config: RemoteConfig) -> Path:
    """The node's cache folder."""
    return Path(config.cache).expanduser() if config.cache else default_cache_folder()


# --------------------------------------------------------------------------- opening a dataset


@dataclass(frozen=True)
class DatasetFolder:
    """The places of a dataset's parts."""

    location: str
    """Folder or URL, as the recipe names it; the paths of tars are relative to it."""
    root: Path
    """A local folder with the tables."""
    versions: dict[str, Version] | None = None
    """Version of each file by its name within the dataset; None for a local dataset."""

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: the dataset has no file of this name.
        """
        if self.versions is None:
            return (self.root / name).stat().st_size
        if name not in self.versions:
            raise FileNotFoundError(name)
        return self.versions[name].size

    def version(self, name: str) -> Version | None:
        """The version to demand from an object store; None for a local file."""
        return None if self.versions is None else self.versions[name]


def open_folder(path: str | Path, config: RemoteConfig) -> DatasetFolder:
    """Find a dataset; if it is remote, list its files and copy its tables.

    Raises:
        DataError: the object store does not answer, refuses, or has nothing there; or a package
            for it is not installed.
    """
    if not is_remote(path):
        return DatasetFolder(str(Path(path)), Path(path))
    location = str(path).rstrip("/")
    if SECRETIVE.search(location):
        raise DataError("a dataset's URL may not hold a password or a query: use the environment")
    versions = patiently(location, config.patience_s, lambda: _listing(location))
    if not versions:
        raise DataError(f"there is nothing at {location}: check the path, and the endpoint")
    present = {name: versions[name] for name in TABLES if name in versions}
    try:
        root = _copy_tables(location, present, config)
    except OSError as error:
        raise DataError(
            f"the tables of {location} cannot be copied to this machine ({error}): name a folder "
            "of your own, with room in it, in data.remote.cache"
        ) from None
    return DatasetFolder(location, root, versions)


def _listing(location: str) -> dict[str, Version]:
    filesystem, root = connect(location, os.getpid())
    filesystem.invalidate_cache()
    root = root.rstrip("/")
    found: dict[str, Any] = filesystem.find(root, detail=True)
    return {
        name[len(root) + 1 :]: version_of(info)
        for name, info in found.items()
        if name.startswith(root + "/")
    }


def _copy_tables(location: str, versions: dict[str, Version], config: RemoteConfig) -> Path:
    """Copy a dataset's tables, unless another process has copied them. Returns their folder."""
    state = "\n".join([location, *(f"{name} {version}" for name, version in versions.items())])
    digest = hashlib.blake2b(state.encode(), digest_size=16).hexdigest()
    tables = private_folder(cache_folder(config)) / "tables"
    tables.mkdir(parents=True, exist_ok=True, mode=0o700)
    done = tables / digest
    with FileLock(tables / "lock"):
        if _intact(done, versions):
            os.utime(done)
            return done
        _tidy(tables)
        shutil.rmtree(done, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=digest, suffix=".partial", dir=tables))
        try:
            for name, version in versions.items():
                url = f"{location}/{name}"
                data = fetch(url, version, 0, version.size, config.patience_s)
                (partial / name).write_bytes(data)
            partial.replace(done)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return done


def _intact(folder: Path, versions: dict[str, Version]) -> bool:
    try:
        return all((folder / n).stat().st_size == v.size for n, v in versions.items())
    except FileNotFoundError:
        return False


def _tidy(tables: Path) -> None:
    """Remove tables that no run has opened for a month, and files of killed processes."""
    for folder in tables.iterdir():
        old = folder.stat().st_mtime < time.time() - _UNUSED_S
        if folder.is_dir() and (old or folder.suffix == ".partial"):
            shutil.rmtree(folder, ignore_errors=True)


def fetch(url: str, version: Version, first: int, end: int, patience_s: float) -> bytes:
    """Read bytes [first, end) of one version of a remote file.

    Raises:
        DataError: the file stayed out of reach, or is another version by now; names the URL.
    """
    try:
        return patiently(url, patience_s, lambda: read_range(url, version, first, end))
    except Changed as error:
        raise _changed(url, error) from None


def _changed(url: str, how: object) -> DataError:
    return DataError(
        f"{url} was changed on the server after this run had opened it ({how}). The index no "
        "longer fits its clips: put the old file back, or train on the new dataset in a run "
        "of its own"
    )


# --------------------------------------------------------------------------- reading clips


class Place(NamedTuple):
    """A clip's bytes in a remote tar."""

    url: str
    version: Version
    offset: int
    size: int


class _Block(NamedTuple):
    """Bytes [first, end) of a tar, fetched by one request and kept as one entry."""

    url: str
    version: Version
    first: int
    end: int

    @property
    def key(self) -> str:
        return f"{self.url}\n{self.version}\n{self.first}-{self.end}"


class RemoteReader:
    """Reads parts of remote tars through the node's cache. Each process makes its own connections.

    Args:
        config: folder and limit of the cache, and how long to repeat requests.
    """

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self.cache: BlockCache | None = None
        if config.cache_gb:
            with suppress(OSError):  # no private folder can be made: read without a cache
                self.cache = BlockCache(cache_folder(config), int(config.cache_gb * 1e9))
        self._ahead: dict[_Block, bytes] = {}
        self._last: tuple[_Block, bytes] | None = None
        self._looked: dict[str, float] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def __getstate__(self) -> dict[str, object]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]

    def prepare(self, places: Iterable[Place]) -> None:
        """Fetch the bytes of the next reads at once; they replace those prepared before.

        Members that are read in blocks are left out, because only the decoder knows the blocks.
        """
        blocks = {_block(place, 0) for place in places if place.size <= _WHOLE}
        held = {block: data for block, data in self._ahead.items() if block in blocks}
        cache = self.cache
        missing = [b for b in blocks if b not in held and (cache is None or b.key not in cache)]
        if len(missing) > 1:
            if self._pool is None or self._pid != os.getpid():
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="remote")
                self._pid = os.getpid()
            connect(missing[0].url, os.getpid())  # here, so that all threads share it
            held |= zip(missing, self._pool.map(self._fetch, missing), strict=True)
        self._ahead = held

    def pread(self, place: Place, count: int, offset: int) -> bytes:
        """At most `count` bytes from byte `offset` of the tar, within the clip.

        Raises:
            DataError: see `fetch`.
        """
        parts = []
        end = min(offset + count, place.offset + place.size)
        while offset < end:
            block = _block(place, offset - place.offset)
            data = self._get(block)
            part = data[offset - block.first : end - block.first]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _get(self, block: _Block) -> bytes:
        if block in self._ahead:
            return self._ahead[block]
        if self._last is not None and self._last[0] == block:
            return self._last[1]
        data = self.cache.get(block.key) if self.cache is not None else None
        if data is None or len(data) != block.end - block.first:
            data = self._fetch(block)
        self._last = (block, data)
        return data

    def _fetch(self, block: _Block) -> bytes:
        data = fetch(*block, self.config.patience_s)
        self._look_again(block)
        if self.cache is not None:
            self.cache.put(block.key, data)
        return data

    def _look_again(self, block: _Block) -> None:
        """Compare the version, for a store that cannot be asked for a certain one."""
        if block.version.etag or time.monotonic() < self._looked.get(block.url, 0.0):
            return
        filesystem, path = connect(block.url, os.getpid())
        now = patiently(
            block.url, self.config.patience_s, lambda: version_of(filesystem.info(path))
        )
        if now != block.version:
            raise _changed(block.url, f"{block.version} became {now}")
        self._looked[block.url] = time.monotonic() + _LOOK_AGAIN_S


def _block(place: Place, inside: int) -> _Block:
    """The block that holds byte `inside` of a clip."""
    step = place.size if place.size <= _WHOLE else _BLOCK
    first = inside // step * step
    end = min(first + step, place.size)
    return _Block(place.url, place.version, place.offset + first, place.offset + end)
