"""Chunks of uncompressed sound: where the sound lies, and whether the file holds what they state.

Sources of the layouts: RIFF/WAVE (Microsoft, Multimedia Programming Interface 1.0), RF64 and BW64
(EBU Tech 3306, ITU-R BS.2088), AIFF-C (Apple 1991), CAF (Apple, Core Audio Format 1.0), W64
(Sonic Foundry), Sun/NeXT .snd, 8SVX (EA IFF 85), NIST SPHERE, Creative Voice, AVR (Audio Visual
Research).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Literal

MISSING_FRACTION = 0.01  # this share of the stated size may be missing or too much
SLACK_BYTES = 4096  # of tags and padding behind the sound that no chunk names
MOST_CHUNKS = 100_000
_MOST_ZEROS = 1 << 24  # padding; more is a size that wrapped in a sparse file
_NEAR = 8192  # SoX writes 2^31 - 4096 for a size that it does not know yet, others 2^31 - 1
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN", b"3DI")
_Order = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Extent:
    """What the structure of a container tells of the sound in a file."""

    cut: str = ""
    """A sentence on how the container shows that its end is missing; '' where it is whole."""
    more: str = ""
    """A sentence on data in the file that the container does not name; '' for none."""
    frames: int = 0
    """Samples of each channel that are in the file, where it is not compressed. 0: not known."""
    payload: int = 0
    """Bytes of sound, whether or not the sample tables name them (MP4). 0: not known."""


@dataclass(slots=True)
class Chunk:
    """A chunk, box or element: its name, and the place of its contents."""

    name: bytes
    at: int
    """Size of its contents in bytes."""
    size: int


@dataclass(slots=True)
class Sound:
    """Where the sound lies, and how many bytes a frame (or block of `per_block` frames) has."""

    at: int
    size: int
    """Bytes of sound as the header states them; -1: to the end of the file."""
    block: int = 0
    per_block: int = 1


def _unknown(size: int) -> bool:
    """Return whether a 32-bit size is one that pipes and recorders write for an unknown one."""
    return size == 0 or abs(size - (1 << 31)) <= _NEAR or size >= (1 << 32) - _NEAR


def judge(
    file: IO[bytes], sound: Sound, size: int, walk: Callable[[int], Iterator[Chunk]] | None,
    align: int = 2,
) -> Extent:  # fmt: skip
    """Compare the stated place of the sound with the file; `walk` goes through the chunks behind
    it.
    """
    there = size - sound.at
    claimed = there if sound.size < 0 else sound.size
    slack = max(SLACK_BYTES, MISSING_FRACTION * claimed)
    frames = min(claimed, there) // sound.block * sound.per_block if sound.block else 0
    if claimed - there > max(16, MISSING_FRACTION * claimed):
        text = f"the header says {claimed:,} bytes of sound, the file has {max(0, there):,}"
        return Extent(cut=text, frames=frames)
    ends = sound.at + claimed
    if size - ends <= slack or (walk and _explained(file, ends, size, walk, align)):
        return Extent(frames=frames)
    if is_tag(file, ends, size):
        return Extent(frames=frames)
    text = f"the header says {claimed:,} bytes of sound, {size - ends:,} more lie behind them"
    if claimed < size - ends and (size - ends) % (1 << 32) <= slack:
        text += " (a size of 32 bits that wrapped)"
    return Extent(more=text, frames=frames)


def _explained(
    file: IO[bytes], ends: int, size: int, walk: Callable[[int], Iterator[Chunk]], align: int
) -> bool:
    """Return whether chunks without sound fill the rest of the file."""
    for begin in {ends + -ends % align, ends}:  # some programs forget to pad
        at = begin
        for chunk in walk(begin):
            sound = chunk.name.lower()[:4] in (b"data", b"riff", b"rf64", b"ssnd", b"form")
            if sound or chunk.at + chunk.size > size + align:
                break
            at = chunk.at + chunk.size + -chunk.size % align
        if size - at <= SLACK_BYTES or (at > begin and is_tag(file, at, size)):
            return True
    return False


def is_tag(file: IO[bytes], at: int, size: int) -> bool:
    """Return whether the rest of the file is a tag, or zeros."""
    file.seek(at)
    head = file.read(16).lstrip(b"\0")
    if head.startswith(_TAGS):
        return True
    if size - at > _MOST_ZEROS:
        return False
    file.seek(at)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
    return True


def _riff_chunks(
    file: IO[bytes], at: int, size: int, order: _Order, *, pad: int = 2
) -> Iterator[Chunk]:
    """Walk chunks of a four-letter name and a size of 32 bits."""
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
            return
        chunk = Chunk(head[:4], at + 8, int.from_bytes(head[4:], order))
        yield chunk
        at = chunk.at + chunk.size + -chunk.size % pad
        if at >= size:
            return


_PLAIN_WAV = (1, 3, 6, 7)  # PCM, float, A-law, mu-law
_BLOCKS_WAV = (2, 0x11, 0x31)  # MS and IMA ADPCM, GSM: frames of a block in the header


def _wave(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start)
    head = file.read(12)
    if head[8:12] != b"WAVE":
        return _other_riff(head, start, size)
    order: _Order = "big" if head[:4] == b"RIFX" else "little"
    block, per_block, wide = 0, 1, -1
    for chunk in _riff_chunks(file, start + 12, size, order):
        file.seek(chunk.at)
        if chunk.name == b"ds64" and head[:4] in (b"RF64", b"BW64"):
            wide = struct.unpack("<Q", file.read(16)[8:16])[0]
        elif chunk.name == b"fmt ":
            block, per_block = _wav_format(file.read(min(chunk.size, 40)), order)
        elif chunk.name == b"data":
            claimed = chunk.size
            if wide >= 0 and claimed == 0xFFFFFFFF:
                claimed = wide if 0 < wide < 1 << 62 else -1
            elif _unknown(claimed):
                claimed = -1
            sound = Sound(chunk.at, claimed, block, per_block)
            return judge(
                file, sound, size, lambda at: _riff_chunks(file, at, size, order)
            )  # fmt: skip
    return Extent()


def _wav_format(data: bytes, order: _Order) -> tuple[int, int]:
    """Return (bytes of a block, frames in it) of a `fmt ` chunk; (0, 1) where it is not certain."""
    tag, channels = (int.from_bytes(data[i : i + 2], order) for i in (0, 2))
    block, bits = (int.from_bytes(data[i : i + 2], order) for i in (12, 14))
    if tag == 0xFFFE and len(data) >= 26:
        tag = int.from_bytes(data[24:26], order)
    if tag in _PLAIN_WAV and block == channels * -(-bits // 8):
        return block, 1
    if tag in _BLOCKS_WAV and len(data) >= 20:
        return block, int.from_bytes(data[18:20], order)
    return 0, 1


def _other_riff(head: bytes, start: int, size: int) -> Extent:
    """AVI and the like: one size, of the first of perhaps several parts."""
    claimed = int.from_bytes(head[4:8], "little")
    if not _unknown(claimed) and start + 8 + claimed - size > max(16, MISSING_FRACTION * claimed):
        return Extent(cut=f"the header says {claimed + 8:,} bytes, the file has {size - start:,}")
    return Extent()


_AIFF_BYTES = {
    b"NONE": 0, b"twos": 0, b"sowt": 0, b"raw ": 1, b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8,
    b"in24": 3, b"in32": 4, b"ulaw": 1, b"alaw": 1, b"ULAW": 1, b"ALAW": 1,
}  # fmt: skip


def _aiff(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start)
    head = file.read(12)
    if head[8:12] in (b"8SVX", b"16SV"):
        return _svx(file, start, size)
    if head[8:12] not in (b"AIFF", b"AIFC"):
        return Extent()
    block = claimed_frames = 0
    found = Extent()
    for chunk in _riff_chunks(file, start + 12, size, "big"):
        file.seek(chunk.at)
        if chunk.name == b"COMM":
            data = file.read(22)
            channels, claimed_frames, bits = struct.unpack(">HIH", data[:8])
            width = _AIFF_BYTES.get(data[18:22] if head[8:12] == b"AIFC" else b"NONE", -1)
            block = 0 if width < 0 else channels * (width or -(-bits // 8))
        elif chunk.name == b"SSND":
            offset = struct.unpack(">I", file.read(4))[0]
            claimed = -1 if _unknown(chunk.size) else max(0, chunk.size - 8 - offset)
            sound = Sound(chunk.at + 8 + offset, claimed, block)
            found = judge(
                file, sound, size, lambda at: _riff_chunks(file, at, size, "big")
            )  # fmt: skip
            break
    if block and not found.cut and not _unknown(claimed_frames):
        return Extent(found.cut, found.more, max(found.frames, claimed_frames))
    return found


def _caf_chunks(file: IO[bytes], at: int, size: int) -> Iterator[Chunk]:
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or not all(32 <= byte < 127 for byte in head[:4]):
            return
        length = struct.unpack(">q", head[4:])[0]
        yield Chunk(head[:4], at + 12, length)
        at += 12 + length
        if length < 0 or at >= size:
            return


def _caf(file: IO[bytes], start: int, size: int) -> Extent:
    block, per_block, counted = 0, 0, 0
    found = Extent()
    for chunk in _caf_chunks(file, start + 8, size):
        file.seek(chunk.at)
        if chunk.name == b"desc":
            block, per_block = struct.unpack(">II", file.read(24)[16:24])
        elif chunk.name == b"pakt":
            packets, valid, before, after = struct.unpack(">qqii", file.read(24))
            # The last packet may be a short one.
            counted = max(valid, (packets - 1) * per_block - before - after)
        elif chunk.name == b"data":
            claimed = -1 if chunk.size < 0 else chunk.size - 4
            sound = Sound(chunk.at + 4, claimed, block, per_block)
            found = judge(
                file, sound, size, lambda at: _caf_chunks(file, at, size), align=1
            )  # fmt: skip
    return Extent(found.cut, found.more, found.frames or max(0, counted))


def _w64_chunks(file: IO[bytes], at: int, size: int) -> Iterator[Chunk]:
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(24)
        if len(head) < 24:
            return
        length = struct.unpack("<Q", head[16:])[0]
        yield Chunk(head[:16], at + 24, length - 24)
        at += length + -length % 8
        if length < 24 or at >= size:
            return


def _w64(file: IO[bytes], start: int, size: int) -> Extent:
    block, per_block = 0, 1
    for chunk in _w64_chunks(file, start + 40, size):
        file.seek(chunk.at)
        if chunk.name[:4] == b"fmt ":
            block, per_block = _wav_format(file.read(max(0, min(chunk.size, 40))), "little")
        elif chunk.name[:4] == b"data":
            claimed = chunk.size if 0 < chunk.size < 1 << 62 else -1
            sound = Sound(chunk.at, claimed, block, per_block)
            return judge(
                file, sound, size, lambda at: _w64_chunks(file, at, size), align=8
            )  # fmt: skip
    return Extent()


_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def _au(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start)
    head = file.read(24)
    order = ">" if head[:4] == b".snd" else "<"
    offset, claimed, encoding, _, channels = struct.unpack(order + "IIIII", head[4:24])
    block = channels * _AU_BYTES.get(encoding, 0)
    sound = Sound(start + offset, -1 if _unknown(claimed) else claimed, block)
    return judge(file, sound, size, None)


def _svx(file: IO[bytes], start: int, size: int) -> Extent:
    for chunk in _riff_chunks(file, start + 12, size, "big"):
        if chunk.name == b"BODY":
            claimed = -1 if _unknown(chunk.size) else chunk.size
            return judge(
                file, Sound(chunk.at, claimed), size,
                lambda at: _riff_chunks(file, at, size, "big"),
            )  # fmt: skip
    return Extent()


def _nist(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start)
    lines = [line.split() for line in file.read(1024).split(b"\n")]
    fields = {line[0]: line[2] for line in lines if len(line) == 3 and line[1] == b"-i"}
    names = (b"sample_count", b"channel_count", b"sample_n_bytes")
    if not all(fields.get(name, b"").isdigit() for name in names):
        return Extent()
    frames, channels, width = (int(fields[name]) for name in names)
    sound = Sound(start + 1024, frames * channels * width)
    return judge(file, sound, size, None)


def _voc(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start + 20)
    at = start + struct.unpack("<H", file.read(2))[0]
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] == 0:  # the end
            break
        length = int.from_bytes(head[1:4], "little")
        at += 4 + length
        if at - size > max(16, MISSING_FRACTION * length):
            return Extent(cut=f"its last block ends {at - size:,} bytes behind the file's end")
    return Extent()


def _avr(file: IO[bytes], start: int, size: int) -> Extent:
    file.seek(start)
    head = file.read(30)
    stereo, bits = struct.unpack(">hH", head[12:16])
    block = (2 if stereo else 1) * -(-bits // 8)
    claimed = struct.unpack(">I", head[26:30])[0] * block
    return judge(file, Sound(start + 128, claimed or -1, block), size, None)


CHUNKED: dict[bytes, Callable[[IO[bytes], int, int], Extent]] = {
    b"RIFF": _wave, b"RIFX": _wave, b"RF64": _wave, b"BW64": _wave, b"FORM": _aiff, b"caff": _caf,
    b"riff\x2e\x91\xcf\x11": _w64, b".snd": _au, b"dns.": _au, b"NIST_1A": _nist, b"2BIT": _avr,
    b"Creative Voice F": _voc,
}  # fmt: skip
"""The functions that inspect containers, by their first bytes. Arguments: the file, where the
container begins, the size of the file.
"""
