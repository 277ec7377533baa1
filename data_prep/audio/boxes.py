"""Containers of boxes, elements and blocks: MP4, Matroska, ASF and WavPack.

Sources: MP4 (ISO 14496-12 §4.2), EBML and Matroska (RFC 8794 §4, RFC 9559 §5.1), ASF (Microsoft,
§3.2, §5.1), WavPack 4 and 5 (header of a block).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import IO

from dawnchorus.data_prep.audio.chunks import (
    MISSING_FRACTION,
    MOST_CHUNKS,
    SLACK_BYTES,
    Chunk,
    Extent,
    Sound,
    is_tag,
    judge,
)


def _boxes(file: IO[bytes], at: int, size: int) -> Iterator[Chunk]:
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in head[4:8]):
            return
        length, skip = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, skip = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = size - at
        if length < skip:
            return
        yield Chunk(head[4:8], at + skip, length - skip)
        at += length


def _mp4(file: IO[bytes], start: int, size: int) -> Extent:
    at, sound = start, 0
    for box in _boxes(file, start, size):
        at = box.at + box.size
        if box.name == b"mdat":
            sound += box.size
        missing = at - size
        if missing > max(16, MISSING_FRACTION * box.size):
            name = box.name.decode("latin-1")
            return Extent(cut=f"its box {name!r} ends {missing:,} bytes behind the file's end")
    rest = size - at
    if rest > max(SLACK_BYTES, MISSING_FRACTION * sound) and not is_tag(file, at, size):
        return Extent(more=f"{rest:,} bytes lie behind the last box of the file")
    return Extent(payload=sound)


def _vint(file: IO[bytes]) -> int:
    """Return an EBML size (RFC 8794 §4); -1 for the value that means unknown."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    if length > 8:
        return -1
    value = int.from_bytes(bytes([first & (1 << (8 - length)) - 1]) + file.read(length - 1), "big")
    return -1 if value == (1 << 7 * length) - 1 else value


def _ebml(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start + 4)
    file.seek(max(0, _vint(file)), os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":  # Segment
        return Extent()
    claimed = _vint(file)
    at = file.tell()
    # Live streams have 2^56 - 2 and similar values.
    if claimed <= 0 or claimed >= 1 << 48:
        return Extent()
    return judge(file, Sound(at, claimed), size, None)


def _asf(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start + 16)
    at = start + struct.unpack("<Q", file.read(8))[0]
    file.seek(at)
    head = file.read(24)
    if head[:4] != b"\x36\x26\xb2\x75":  # the data object, 75B22636-668E-11CF-...
        return Extent()
    claimed = struct.unpack("<Q", head[16:])[0]
    if claimed <= 50 or at + claimed - size <= max(16, MISSING_FRACTION * claimed):
        return Extent()
    return Extent(cut=f"the header says {claimed:,} bytes of sound, the file has {size - at:,}")


def _wavpack(file: IO[bytes], start: int, size: int) -> Extent:
    at, frames = start, 0
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(32)
        if len(head) < 32 or head[:4] != b"wvpk":
            break
        length, total, index, count = struct.unpack("<I4xIII", head[4:24])
        at += 8 + length
        if at - size > 16:
            return Extent(cut=f"its last block ends {at - size:,} bytes behind the file's end")
        frames = max(frames, index + count, 0 if total == 0xFFFFFFFF else total)
    return Extent(frames=frames)


BOXED: dict[bytes, Callable[[IO[bytes], int, int], Extent]] = {
    b"\x1a\x45\xdf\xa3": _ebml, bytes.fromhex("3026b2758e66cf11"): _asf, b"wvpk": _wavpack,
}  # fmt: skip
"""The functions that inspect containers, by the first bytes of the file."""
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"moof", b"pnot")


def mp4(head: bytes) -> Callable[[IO[bytes], int, int], Extent] | None:
    """Return the function that inspects an MP4 or QuickTime file, None for other files."""
    return _mp4 if head[4:8] in _FIRST_BOXES else None
