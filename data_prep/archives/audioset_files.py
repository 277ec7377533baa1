"""Where AudioSet's clips lie: in folders of any layout, in tars, in parquet.

Nobody publishes the audio, so every copy has its own layout. Files are found by the YouTube id in
their names; clips in tars (`audio/bal_train/<id>.flac`) or parquet (`video_id`, `audio{bytes,
path}`) are written to files once, each whole or not at all.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.files import whole_file

YTID = re.compile(r"[A-Za-z0-9_-]{11}")
_TIMES = re.compile(r"(?:_(\d+(?:\.\d+)?))?(?:_(\d+(?:\.\d+)?))?")
_PREFIXES = ("", "Y", "id_")
_LENGTH = 11
MAX_CLIP_BYTES = 256 << 20  # a clip lasts ten seconds; 1 MB is usual
_COPY = 1 << 20
_ROWS = 16  # rows of a parquet file in memory: about 20 MB
LEDGER = "unpacked.jsonl"
UNREADABLE = "unreadable_file"


@lru_cache(64)  # an index asks for the keys of a name, then `find` for its times
def parse_name(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the (id, times) that a file name can mean, the most likely first.

    "Y<id>.wav", "<id>_<start>_<end>.flac", "<id>_<start ms>.wav", "id_<id>.wav" and what other
    tools write: the last eleven characters ("<title> [<id>].m4a"). Ids hold "_" and "-", so a name
    may have two readings; the list of segments decides which one is meant.
    """
    stem = os.path.splitext(name)[0]  # noqa: PTH122 (two million times)
    found: list[tuple[str, tuple[str, ...]]] = []
    if len(stem) < _LENGTH:
        return found
    for prefix in _PREFIXES:
        if not stem.startswith(prefix):
            continue
        ytid = stem[len(prefix) : len(prefix) + _LENGTH]
        rest = _TIMES.fullmatch(stem, len(prefix) + _LENGTH)
        if rest and YTID.fullmatch(ytid):
            found.append((ytid, tuple(time for time in rest.groups() if time)))
    if not found:
        ytid = stem.rstrip("])")[-_LENGTH:]
        if YTID.fullmatch(ytid):
            found.append((ytid, ()))
    return found


def ids_in_name(name: str) -> list[str]:
    """Return the ids a file name can mean, as keys of a `FileIndex`. Case is kept."""
    return [ytid for ytid, _ in parse_name(name)]


class ClipFiles:
    """All folders with clips; `find` looks a clip up by its id and times."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read each folder once. Raises PrepError for one that is not there."""
        missing = [str(folder) for folder in folders if not folder.is_dir()]
        if missing:
            raise PrepError(f"There is no folder of audio at {', '.join(missing)}.")
        self.indexes = [FileIndex(folder, ids_in_name) for folder in folders]

    @property
    def count(self) -> int:
        """Number of files, whatever their names are."""
        return sum(index.count for index in self.indexes)

    def find(self, ytid: str, start_ms: int, end_ms: int) -> tuple[str, str]:
        """Return (absolute path, '') of the clip, or ('', what was found instead).

        A name that states the clip's times comes before one without times; a name with other
        times is another cut of the video and is not taken.
        """
        plain, other = "", ""
        for index in self.indexes:
            for path in index.find_all(ytid):
                for found, times in parse_name(path.name):
                    if found != ytid:
                        continue
                    if not times:
                        plain = plain or str(path)
                    elif _same(times, start_ms, end_ms):
                        return str(path), ""
                    else:
                        other = other or str(path)
        return (plain, "") if plain else ("", other and f"only another cut: {other}")


def _same(times: tuple[str, ...], start_ms: int, end_ms: int) -> bool:
    """Return whether the numbers in a name are the clip's times, in seconds or milliseconds."""
    wanted = (start_ms, end_ms)[: len(times)]
    return any(
        all(abs(float(time) * unit - ms) <= 1 for time, ms in zip(times, wanted, strict=True))
        for unit in (1000, 1)
    )


def packed_files(folders: Sequence[Path]) -> list[Path]:
    """Return the tars and parquet files below the folders, in order, each once."""
    found: dict[Path, None] = {}
    for folder in folders:
        for here, below, names in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                if name.lower().endswith((".tar", ".tar.gz", ".tgz", ".parquet")):
                    found[Path(here, name).absolute()] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class _Packed:
    """A clip in a packed file: the meanings of its name, and its bytes. Or a problem; then `name`
    is the id or the file that has it.
    """

    name: str
    readings: Sequence[tuple[str, tuple[str, ...]]] = ()
    size: int = 0
    stream: IO[bytes] | None = None
    problem: tuple[str, str] | None = None


class Unpacker:
    """Writes clips out of tars and parquet files into `folder`, each once.

    A clip appears under its name when it is complete; a ledger lists the packed files whose clips
    are all written. So the same command continues after any interruption.
    """

    def __init__(self, folder: Path, wanted: Callable[[str], bool], key: str) -> None:
        """`wanted` tells whether an id is to be written; `key` identifies that choice in the
        ledger.
        """
        self.folder, self.wanted, self.key = folder, wanted, key
        self.written = self.there = 0
        self._ledger = folder / LEDGER

    def unpack(self, paths: Sequence[Path], say: Callable[[str], None]) -> Iterator[Rejected]:
        """Write the clips of all files; yield what could not be read. Raises PrepError when the
        disk refuses.
        """
        done = self._done()
        for number, path in enumerate(paths, start=1):
            status = path.stat()
            mark = json.dumps([str(path), status.st_size, status.st_mtime_ns, self.key])
            if mark in done:
                continue
            whole = True
            for packed in _clips(path):
                problem = packed.problem
                if problem is None:
                    problem = self._write(packed)
                if problem:
                    # A truncated file is tried again next time: its download may have gone on.
                    whole = whole and problem[0] != UNREADABLE
                    yield Rejected(
                        recording_id=f"audioset:{packed.name}", reason=problem[0],
                        detail=problem[1], path=str(path),
                    )  # fmt: skip
                    if not whole:
                        break
            if whole:
                self._note(mark)
            say(f"{number:,} of {len(paths):,} packed files: {self.written:,} clips written")

    def _done(self) -> set[str]:
        try:
            return set(self._ledger.read_text().splitlines())
        except FileNotFoundError:
            return set()
        except (OSError, UnicodeDecodeError) as err:
            raise PrepError(f"{self._ledger} cannot be read: {err}. Remove it.") from err

    def _note(self, mark: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.sync()  # before the ledger names them; syncing each file would take days
            with self._ledger.open("a") as file:
                file.write(mark + "\n")
        except OSError as err:
            raise PrepError(f"Writing {self._ledger} failed: {err}.") from err

    def _write(self, packed: _Packed) -> tuple[str, str] | None:
        """Write one clip if it is wanted; return the problem when its bytes cannot be read.

        Ids that differ only by case lie in different folders, since there are file systems that
        take them for one.
        """
        meant = next((x for x in packed.readings if self.wanted(x[0])), None)
        if meant is None or packed.stream is None:
            return None
        ytid, times = meant
        folder = self.folder / f"{sum(c.isupper() << i for i, c in enumerate(ytid)):03x}"
        try:
            head = packed.stream.read(_COPY)
            path = folder / ("_".join((ytid, *times)) + _suffix(head))
            if _size(path) == packed.size:
                self.there += 1
                return None
            try:
                with whole_file(path, durable=False) as file:
                    while head:
                        file.write(head)
                        head = packed.stream.read(_COPY)
            except OSError as err:
                raise PrepError(
                    f"Writing {path} failed: {err.strerror or err}. Make room, then run it again."
                ) from err
        except _Broken as err:
            return UNREADABLE, f"{err}: download it again"
        self.written += 1
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


class _Broken(Exception):
    """A packed file is truncated or damaged here. An OSError would mean the disk that is written
    to.
    """


_BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)


class _Guarded(io.RawIOBase):
    """A member of a tar; its errors differ from those of the disk that is written to."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        try:
            return self.stream.read(size)
        except _BROKEN as err:
            raise _Broken(str(err) or type(err).__name__) from err


def _clips(path: Path) -> Iterator[_Packed]:
    return _parquet_clips(path) if path.suffix.lower() == ".parquet" else _tar_clips(path)


def _tar_clips(path: Path) -> Iterator[_Packed]:
    """Yield a tar's clips. Members are never unpacked by their paths: of a name only the id and
    the times are used.
    """
    try:
        # Not "r|*": after a member that claims a terabyte, that mode reads at the end of the file
        # for ever.
        with tarfile.open(path, "r:*") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
                name = member.name.replace("\\", "/").rsplit("/", 1)[-1]
                readings = parse_name(name) if member.isreg() else []
                if not readings:
                    continue
                if member.size > MAX_CLIP_BYTES:
                    text = f"{member.size:,} bytes in {path.name}"
                    yield _Packed(readings[0][0], problem=("too_large", text))
                    continue
                stream = tar.extractfile(member)
                if stream is not None:
                    guarded = cast("IO[bytes]", _Guarded(stream))
                    yield _Packed(readings[0][0], readings, member.size, guarded)
    except _BROKEN as err:
        yield _Packed(path.name, problem=(UNREADABLE, f"{err}: download it again"))


def _parquet_clips(path: Path) -> Iterator[_Packed]:
    """Yield the rows of a parquet file with embedded audio, a few in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_COPY) as file:
            names = set(file.schema_arrow.names)
            if not {"video_id", "audio"} <= names:
                text = f"columns {', '.join(sorted(names))[:200]} instead of video_id and audio"
                yield _Packed(path.name, problem=("not_audioset", text))
                return
            columns = ["video_id", "audio"]
            for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    ytid, audio = str(row["video_id"]), row["audio"]
                    data = audio.get("bytes") if isinstance(audio, dict) else audio
                    if not isinstance(data, bytes) or not data:
                        text = f"{path.name} embeds no audio for it"
                        yield _Packed(ytid, problem=("no_audio", text))
                    elif YTID.fullmatch(ytid):
                        yield _Packed(ytid, [(ytid, ())], len(data), io.BytesIO(data))
    except (OSError, pa.ArrowException) as err:
        brief = " ".join(str(err).split())[:200]
        yield _Packed(path.name, problem=(UNREADABLE, f"{brief}: download it again"))


def _suffix(head: bytes) -> str:
    """Return the extension by which a person recognises the file; decoders look at the content."""
    for magic, suffix in (
        (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"RIFF", ".wav"), (b"ID3", ".mp3"),
        (b"\xff\xfb", ".mp3"), (b"\xff\xf3", ".mp3"),
    ):  # fmt: skip
        if head.startswith(magic):
            return suffix
    return ".m4a" if head[4:8] == b"ftyp" else ".audio"
