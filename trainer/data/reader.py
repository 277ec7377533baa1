"""Decodes one window of one clip from a tar straight into a row of a batch.

Shape legend: T samples of a window, R bytes.

Only the needed bytes are read. The place of a WAV window follows from that of its data chunk. In
FLAC the decoder's own seek finds it, on a file object that fetches each block when it is first
used: a 10 s window costs about a quarter of the bytes of a 60 s piece, and an eighth more decoding
time than a 10 s clip (measured by scripts/bench/data.py).
"""

from __future__ import annotations

import io
import os
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.data.config import RemoteConfig
from dawnchorus.trainer.data.index import Member
from dawnchorus.trainer.data.storage import Place, RemoteReader
from dawnchorus.trainer.errors import DataError

_MAGIC = {"flac": b"fLaC", "wav": b"RIFF"}
_LAZY_BLOCK = 1 << 16
_WAV_HEAD = 64
_PCM, _EXTENSIBLE = 1, 0xFFFE


class BrokenClip(Exception):
    """One clip cannot be decoded, or differs from the index. Other clips may be fine."""


class Bytes(Protocol):
    """A source of the bytes of tars. Its methods raise OSError or DataError."""

    def pread(self, count: int, offset: int) -> bytes:
        """At most `count` bytes from byte `offset` on; fewer only at the end."""
        ...

    def preadv(self, target: memoryview, offset: int) -> int:
        """Fill `target` from byte `offset` on; returns the number of bytes that were read."""
        ...


class LocalBytes:
    """An open tar file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pread(self, count: int, offset: int) -> bytes:
        """See `Bytes`."""
        return os.pread(self.fd, count, offset)

    def preadv(self, target: memoryview, offset: int) -> int:
        """See `Bytes`."""
        return os.preadv(self.fd, [target], offset)


class RemoteBytes:
    """One clip in a remote tar."""

    def __init__(self, remote: RemoteReader, place: Place) -> None:
        self.remote, self.place = remote, place

    def pread(self, count: int, offset: int) -> bytes:
        """See `Bytes`."""
        return self.remote.pread(self.place, count, offset)

    def preadv(self, target: memoryview, offset: int) -> int:
        """See `Bytes`."""
        data = self.pread(len(target), offset)
        target[: len(data)] = data
        return len(data)


class ClipReader:
    """Reads windows of clips; keeps the most recently used tar files open.

    Reading never moves a file position (`pread`), so a reader may be shared with forked workers.

    Args:
        max_open: number of tar files that stay open.
        remote: how clips in an object store are read.
    """

    def __init__(self, max_open: int = 64, remote: RemoteConfig | None = None) -> None:
        self.max_open = max_open
        self._remote = RemoteReader(remote or RemoteConfig())
        self._open: OrderedDict[str, LocalBytes] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {"max_open": self.max_open, "_remote": self._remote, "_open": OrderedDict()}

    def __del__(self) -> None:
        for tar in self._open.values():
            os.close(tar.fd)

    def prepare(self, members: Iterable[Member]) -> None:
        """Fetch the bytes of the next windows from an object store, all at once.

        Raises:
            DataError: the object store cannot be read.
        """
        self._remote.prepare([_place(m) for m in members if m.version is not None])

    def read_window(self, member: Member, start: int, out_T: npt.NDArray[np.int16]) -> int:
        """Decode samples [start, start + T) of a clip; samples past its end become zero.

        Args:
            member: the clip.
            start: first sample.
            out_T: contiguous array that is filled in place.

        Returns:
            The number of samples that belong to the clip; the rest is padding.

        Raises:
            BrokenClip: these bytes are not the clip that the index describes, or are damaged.
            DataError: the tar file cannot be read at all.
        """
        frames = min(len(out_T), member.samples - start)
        if frames <= 0:
            raise BrokenClip(f"sample {start} is asked for; the clip has {member.samples}")
        try:
            source = self._local(member.path) if member.version is None else self._far(member)
            read = _read_wav if member.codec == "wav" else _read_sound
            read(source, member, start, out_T[:frames])
        except OSError as error:
            raise DataError(
                f"cannot read {member.path}: {error}; is the file system there?"
            ) from error
        out_T[frames:] = 0
        return frames

    def _far(self, member: Member) -> Bytes:
        return RemoteBytes(self._remote, _place(member))

    def _local(self, path: str) -> Bytes:
        tar = self._open.get(path)
        if tar is None:
            if len(self._open) >= self.max_open:
                os.close(self._open.popitem(last=False)[1].fd)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            tar = self._open[path] = LocalBytes(fd)
            # Windows lie anywhere in a file. By default the kernel reads 1.2 MB for a window of a
            # 60 s FLAC piece, with this hint 0.26 MB (measured on a local disk, nothing cached).
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        else:
            self._open.move_to_end(path)
        return tar


def _place(member: Member) -> Place:
    if member.version is None:
        raise ValueError(f"{member.path} is a local file")
    return Place(member.path, member.version, member.offset, member.size)


# --------------------------------------------------------------------------- WAV


def _read_wav(source: Bytes, member: Member, start: int, out_T: npt.NDArray[np.int16]) -> None:
    head = source.pread(min(_WAV_HEAD, member.size), member.offset)
    _check_magic(head, member)
    place = _pcm16_mono(head, member)
    if place is None:  # unusual but allowed, e.g. 24 bit, or chunks before the data
        _read_sound(source, member, start, out_T)
        return
    data_offset, data_bytes = place
    available = min(data_bytes, member.size - data_offset)
    if available < 2 * member.samples:
        raise BrokenClip(f"has {available // 2} samples, the index says {member.samples}")
    view = out_T.data.cast("B")
    position, done = member.offset + data_offset + 2 * start, 0
    while done < len(view):
        got = source.preadv(view[done:], position + done)
        if not got:
            raise BrokenClip("the tar file ends in the middle of it")
        done += got
    if sys.byteorder == "big":
        out_T.byteswap(inplace=True)


def _pcm16_mono(head_R: bytes, member: Member) -> tuple[int, int] | None:
    """Offset and length of the data chunk in the member; None if this fast path does not apply."""
    position, plain = 12, False
    while position + 8 <= len(head_R):
        name, length = struct.unpack_from("<4sI", head_R, position)
        position += 8
        if name == b"data":
            return (position, length) if plain else None
        if name == b"fmt " and position + 16 <= len(head_R):
            form, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head_R, position)
            if channels != 1 or rate != member.sample_rate_hz:
                raise BrokenClip(
                    f"has {channels} channels at {rate} Hz, the index says 1 at "
                    f"{member.sample_rate_hz} Hz"
                )
            plain = form in (_PCM, _EXTENSIBLE) and bits == 16
        position += length + length % 2
    return None


# --------------------------------------------------------------------------- FLAC, and the rest


class MemberFile:
    """The bytes of one tar member as a file that fetches a block when it is first used.

    A read error is kept in `error`, because an exception cannot pass through the decoder's C code.
    """

    def __init__(self, source: Bytes, offset: int, size: int, block: int = _LAZY_BLOCK) -> None:
        self.source = source
        self.offset = offset
        self.size = size
        self.block = block
        self.error: OSError | DataError | None = None
        self._position = 0
        self._start = 0
        self._bytes = memoryview(b"")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """As of any file."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """As of any file."""
        left = max(0, self.size - self._position)
        buffer = bytearray(left if count < 0 else min(count, left))
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, target: bytearray | memoryview) -> int:
        """As of any file; 0 at the end and after an error."""
        wanted = min(len(target), self.size - self._position)
        done = 0
        while done < wanted:
            inside = self._position - self._start
            if not 0 <= inside < len(self._bytes):
                if not self._fetch():
                    break
                inside = 0
            piece = self._bytes[inside : inside + wanted - done]
            target[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return done

    def _fetch(self) -> bool:
        count = min(self.block, self.size - self._position)
        try:
            self._bytes = memoryview(self.source.pread(count, self.offset + self._position))
        except (OSError, DataError) as error:
            self.error = error
            return False
        self._start = self._position
        return len(self._bytes) > 0


def _read_sound(source: Bytes, member: Member, start: int, out_T: npt.NDArray[np.int16]) -> None:
    """Decode with libsndfile: read a small member at once, a large one in blocks."""
    import soundfile as sf

    lazy: MemberFile | None = None
    file: io.BytesIO | MemberFile
    # Fetching the whole member takes one request; it pays unless most bytes are not needed.
    if member.size <= 2 * _LAZY_BLOCK or 2 * len(out_T) >= member.samples:
        raw = source.pread(member.size, member.offset)
        _check_magic(raw, member)
        if len(raw) < member.size:
            raise BrokenClip("the tar file ends in the middle of it")
        file = io.BytesIO(raw)
    else:
        file = lazy = MemberFile(source, member.offset, member.size)
        head = lazy.read(4)
        if lazy.error is not None:
            raise lazy.error
        _check_magic(head, member)
        lazy.seek(0)
    try:
        with sf.SoundFile(file) as sound:
            found = (sound.frames, sound.channels, sound.samplerate)
            if found != (member.samples, 1, member.sample_rate_hz):
                raise BrokenClip(
                    f"has (samples, channels, rate) {found}, the index says "
                    f"{(member.samples, 1, member.sample_rate_hz)}"
                )
            if start:
                sound.seek(start)
            got = len(sound.read(dtype="int16", out=out_T))
    except sf.SoundFileError as error:
        if lazy is not None and lazy.error is not None:
            raise lazy.error from None
        raise BrokenClip(f"cannot be decoded ({error})") from None
    if lazy is not None and lazy.error is not None:
        raise lazy.error
    if got < len(out_T):
        raise BrokenClip(f"ends after {got} of the {len(out_T)} samples asked for")


def _check_magic(head: bytes, member: Member) -> None:
    magic = _MAGIC[member.codec]
    if head[: len(magic)] != magic:
        raise BrokenClip(
            f"byte {member.offset} of {member.path} holds {head[:4]!r} instead of {magic!r}: the "
            "index does not fit this tar file"
        )
