"""The recordings of a dataset while it is made: scanned once, then kept on disk, a line each.

No step of the preparation holds the recordings in memory. `scan` checks each of them and keeps a
few numbers (about 50 bytes); `write_rows` puts them into the work folder, where the processes that
write shards read them by number.

Shape legend: R recordings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
import unicodedata
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dawnchorus.data_prep.dataset.places import EXACT, published, shown_path
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import (
    Recording,
    canonical_json,
    from_row,
    label_ranks,
    validate,
)
from dawnchorus.trainer.progress import LINE_EVERY_S, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = "rows.jsonl"
OFFSETS = "offsets.npy"
CHECKSUMS = "checksums.npy"
_CHUNK = 1024  # recordings in memory at a time
_KEY_LENGTH = 72  # with piece number and extension below the 100 characters of a plain tar header
_NAMED = 5


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text: of 10 million texts, two agree in one of 370,000 cases."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass
class Scan:
    """What is known of the recordings before any is opened; one entry for each, in the table's
    order.
    """

    digest: str = ""
    """Digest of all rows and file sizes, and of the `start` of `scan`."""
    splits: list[str] = field(default_factory=list)
    """Names that `split` counts."""
    split: array[int] = field(default_factory=lambda: array("i"))
    group: array[int] = field(default_factory=lambda: array("Q"))
    """`hash64` of the group, as the table has it: private, it may tell a place."""
    key: array[int] = field(default_factory=lambda: array("Q"))
    """`hash64` of the plain key in lower case."""
    seconds: array[float] = field(default_factory=lambda: array("d"))
    """Seconds as the table states them, or 0."""
    size: array[int] = field(default_factory=lambda: array("q"))
    """Bytes of the file; -1 where there is none."""
    suffix: array[int] = field(default_factory=lambda: array("I"))
    """Digest of the file name's extension."""
    not_downloaded: int = 0
    """Recordings with an empty path."""
    with_events: int = 0
    """Recordings whose labels have times."""
    some_missing: list[str] = field(default_factory=list)
    """The first few paths without a file."""

    def __len__(self) -> int:
        return len(self.size)


def scan(
    recordings: Iterable[Recording],
    root: Path,
    start: bytes,
    progress: Progress,
    places: str = EXACT,
) -> Scan:
    """Check every recording and keep the numbers that the plan needs. Nothing is written.

    Args:
        recordings: any number; only a thousand are in memory at a time.
        root: the folder that their paths are relative to.
        start: other things that the digest covers (format, options).
        progress: gets a line every ten seconds.
        places: how exactly the dataset tells places and times; the digest, which is published,
            covers them only as exactly.

    Raises:
        PrepError: `table.recording.validate` refuses a recording; a path may be empty here.
    """
    result = Scan()
    ids: array[int] = array("Q")
    digest = hashlib.sha256(start)
    with ThreadPoolExecutor(16) as threads:
        every = _checked(recordings, ids, progress)
        chunks = _noted(every, root, result, digest, threads, places)
        label_ranks(recording for chunk in chunks for recording in chunk)
    _refuse_repeated(recordings, np.frombuffer(ids, np.uint64))
    if places != EXACT:
        digest.update(first_of_group(result).tobytes())
    result.digest = digest.hexdigest()
    return result


def first_of_group(result: Scan) -> NDArray[np.int64]:
    """For each recording, the number of the first one of its group."""
    group_R = np.frombuffer(result.group, np.uint64)
    _, first_G, group_N = np.unique(group_R, return_index=True, return_inverse=True)
    return first_G[group_N].astype(np.int64)


def _refuse_repeated(recordings: Iterable[Recording], id_R: NDArray[np.uint64]) -> None:
    """Raise PrepError where an id occurs twice."""
    wanted = set(id_R[_repeated(id_R)].tolist())
    if not wanted:
        return
    count = Counter(r.id for r in recordings if hash64(r.id) in wanted)
    names = [name for name, found in count.items() if found > 1]
    if names:
        some = ", ".join(repr(name) for name in names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise PrepError(
            f"The recording table is not valid.\n  ids that occur more than once: {some}{more}"
        )


def _checked(
    recordings: Iterable[Recording], ids: array[int], progress: Progress
) -> Iterator[list[Recording]]:
    """Yield the recordings in chunks that are valid in themselves."""
    spoken = time.monotonic()
    for chunk in _chunks(recordings):
        # A table may list recordings that are not downloaded yet: only the path may be missing.
        validate([r if r.path else dataclasses.replace(r, path="?") for r in chunk])
        ids.extend(hash64(recording.id) for recording in chunk)
        if time.monotonic() - spoken >= LINE_EVERY_S:
            spoken = time.monotonic()
            progress.say(f"read {len(ids):,} recordings")
        yield chunk
    if not ids:
        validate([])


def _chunks(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    iterator = iter(recordings)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _noted(
    chunks: Iterable[list[Recording]],
    root: Path,
    result: Scan,
    digest: Any,
    threads: ThreadPoolExecutor,
    places: str,
) -> Iterator[list[Recording]]:
    """Add every chunk to the columns and the digest, and pass it on."""
    numbers: dict[str, int] = {}

    def size(recording: Recording) -> int:
        return file_size(root / recording.path) if recording.path else -1

    for chunk in chunks:
        sizes = list(threads.map(size, chunk))
        start = len(result.size)
        shown = [published(r, places, start + i, 0) for i, r in enumerate(chunk)]
        told = [_told(r, places) for r in shown]
        for recording, public, line, found in zip(
            chunk, shown, canonical_json(told), sizes, strict=True
        ):
            digest.update(line)
            digest.update(f"{found}\n".encode())
            result.split.append(numbers.setdefault(recording.split, len(numbers)))
            result.group.append(hash64(recording.group_id))
            result.key.append(hash64(plain_key(public).lower()))
            result.seconds.append(recording.duration_s)
            result.size.append(found)
            suffix = PurePosixPath(recording.path).suffix.lower()
            result.suffix.append(zlib.crc32(suffix.encode("utf-8", "replace")))
            result.not_downloaded += not recording.path
            result.with_events += recording.events is not None
            if found < 0 and recording.path and len(result.some_missing) < _NAMED:
                result.some_missing.append(recording.path)
        result.splits = list(numbers)
        yield chunk


def _told(recording: Recording, places: str) -> Recording:
    """What of a published recording may be guessed from the digest: nothing that is not told."""
    if places == EXACT:
        return recording
    # The group's number, which stands for its name, is not known yet.
    return dataclasses.replace(recording, path=shown_path(recording, places), group_id="")


def file_size(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _repeated(hash_R: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the places of all values that occur more than once."""
    _, inverse_R, count_U = np.unique(hash_R, return_inverse=True, return_counts=True)
    return np.flatnonzero(count_U[inverse_R] > 1)


def shared_keys(result: Scan) -> NDArray[np.bool_]:
    """Return which recordings share their plain key with another, ignoring case."""
    shared_R = np.zeros(len(result), bool)
    shared_R[_repeated(np.frombuffer(result.key, np.uint64))] = True
    return shared_R


def plain_key(recording: Recording) -> str:
    """Return the archive's id (for folders the file's name) with the characters that a key may
    have.

    Letters, digits, '-' and '_' only: WebDataset takes the name up to its first dot as the key.
    """
    text = recording.source_id
    if text == recording.path:
        text = PurePosixPath(text).with_suffix("").name if PurePosixPath(text).name else text
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_text).strip("_-")[:_KEY_LENGTH] or "recording"


def key_stem(recording: Recording, shared: bool) -> str:
    """Return the recording's key, with a digest of the id where several share the plain key."""
    stem = plain_key(recording)
    if shared:
        stem += f"-{hashlib.sha256(recording.id.encode()).hexdigest()[:10]}"
    return stem


def write_rows(recordings: Iterable[Recording], folder: Path) -> None:
    """Write all recordings to `folder`, to be read by `RowStore`."""
    offsets: array[int] = array("q", [0])
    checksums: array[int] = array("I")
    with (folder / ROWS).open("wb") as file:
        for chunk in _chunks(recordings):
            for line in canonical_json(chunk):
                file.write(line)
                offsets.append(offsets[-1] + len(line))
                checksums.append(zlib.crc32(line))
        file.flush()
        os.fsync(file.fileno())
    for name, column, kind in ((OFFSETS, offsets, np.int64), (CHECKSUMS, checksums, np.uint32)):
        with (folder / name).open("wb") as file:
            np.save(file, np.frombuffer(column, kind))
            file.flush()
            os.fsync(file.fileno())


class RowStore:
    """The recordings that `write_rows` wrote: by number, or one after the other.

    Raises PrepError for a row that was changed since.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offset_R: NDArray[np.int64] = np.load(folder / OFFSETS, mmap_mode="r")
        self._checksum_R: NDArray[np.uint32] | None = None
        if (folder / CHECKSUMS).is_file():  # a plan from before there were any has none
            self._checksum_R = np.load(folder / CHECKSUMS, mmap_mode="r")
        self._file = (folder / ROWS).open("rb")

    def __len__(self) -> int:
        return len(self._offset_R) - 1

    def __getitem__(self, number: int) -> Recording:
        start, stop = int(self._offset_R[number]), int(self._offset_R[number + 1])
        return self._row(number, os.pread(self._file.fileno(), stop - start, start))

    def __iter__(self) -> Iterator[Recording]:
        self._file.seek(0)
        for number, line in enumerate(self._file):
            yield self._row(number, line)

    def _row(self, number: int, line: bytes) -> Recording:
        if self._checksum_R is not None and (
            number >= len(self) or zlib.crc32(line) != self._checksum_R[number]
        ):
            raise PrepError(
                f"Row {number} of the plan in {self._folder} was changed since it was made. Delete "
                "that folder and run the same command again: what is written and fits is kept."
            )
        return from_row(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._file.close()
