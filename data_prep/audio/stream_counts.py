"""How much sound compressed streams hold, by their own frames, packets and pages.

A count in a header (FLAC's total samples, an MP3's Xing frames, the last position of an Ogg stream)
is a claim. libsndfile reads no further than it states, so the frames themselves are counted here:
at the end of a FLAC, along an MP3, page by page in an Ogg file. Nothing is decoded.

Sources: RFC 9639 §9 (FLAC frames), ISO 11172-3 §2.4.2 and 13818-3 (MPEG audio headers), RFC 3533
§6 (Ogg pages), RFC 6716 §3.1 (Opus packets), Vorbis I §4.2.2.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from dawnchorus.data_prep.errors import CannotRead

_PAGE_SAMPLES = 255 * 8192  # packets of a page, samples of the longest (Vorbis; Opus has 5760)
_LATEST = 1 << 40  # 265 days at 48 kHz
_TAIL = 1 << 18  # bytes: more than two FLAC frames of 64 channels... of the usual sizes
_UNTIDY = 16  # bytes behind the last page that say nothing


def behind_tags(file: IO[bytes], size: int) -> int:
    """Return where the file begins behind ID3v2 tags (also before RIFF, FLAC and others)."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
            break
        footer = 10 if head[5] & 0x10 else 0
        at += 10 + footer + sum(byte << (7 * (3 - i)) for i, byte in enumerate(head[6:10]))
    if at >= size:
        return 0
    # Tags are padded with zeros beyond their stated size by some programs.
    file.seek(at)
    pad = file.read(4096) if at else b""
    return at + len(pad) - len(pad.lstrip(b"\0")) if pad.strip(b"\0") else at


@dataclass(slots=True)
class Ogg:
    """What the pages of an Ogg file tell."""

    links: list[int]
    """The last sample position of each link (a stream from its first page to its last)."""
    cut: str = ""
    """A sentence on how the pages show that the end is missing; '' where it is not."""


def ogg_pages(path: Path) -> Ogg:
    """Go over the pages of an Ogg file; only their headers are read.

    A link begins with a page flagged as the first of its stream (0x02). The flag for the last one
    (0x04) says nothing: Android's recorder never sets it. A file is cut where a page runs past its
    end, or where its last packet goes on to a page that is not there.

    Raises CannotRead for pages out of order: at some of them libsndfile 1.2.2 reads the same page
    for ever (found by fuzzing), and it cannot be stopped, so it must not begin.
    """
    found = Ogg([])
    last: dict[bytes, int] = {}  # position by stream
    open_packet: dict[bytes, bool] = {}
    heads = False
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while head := file.read(27):
            if head[:4] != b"OggS" or len(head) < 27:
                if b"OggS".startswith(head[:4]):
                    found.cut = "its last page is cut"
                    break
                if size - at <= _UNTIDY or _only_padding(head + file.read(4096)):
                    break
                raise CannotRead("an Ogg file with something between its pages")
            lengths = file.read(head[26])
            body = sum(lengths)
            first = bool(head[5] & 0x02)
            if first and not heads:
                found.links.append(0)
            at += 27 + len(lengths) + body
            if len(lengths) < head[26] or at > size:
                found.cut = "its last page runs past the end of the file"
                break
            file.seek(at)
            heads = first
            serial, position = head[14:18], int.from_bytes(head[6:14], "little", signed=True)
            if lengths:
                open_packet[serial] = lengths[-1] == 255
            if position == -1 and set(lengths) <= {255}:  # no packet ends on this page
                continue
            before = 0 if first else last.get(serial, -1)
            # A stream may begin anywhere, cut from a longer one; after that, page after page.
            most = _LATEST if before == 0 else before + _PAGE_SAMPLES
            if not 0 <= before <= position <= most:
                raise CannotRead("an Ogg file whose pages are out of order")
            last[serial] = position
            if found.links:
                found.links[-1] = max(found.links[-1], position)
    if not found.cut and any(open_packet.values()):
        found.cut = "its last packet goes on to a page that is missing"
    return found


def _only_padding(data: bytes) -> bool:
    """Return whether what lies behind the pages is zeros or a tag."""
    return not data.strip(b"\0") or data.startswith((b"TAG", b"APETAGEX", b"ID3"))


def flac_frames(path: Path) -> int:
    """Return the samples that a native FLAC holds, by the number in its last frame; 0: not known.

    RFC 9639 §9.1: a frame's header ends in a CRC-8, so a chance match is improbable; the format
    of the stream must fit, too.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        start = behind_tags(file, size)
        file.seek(start)
        head = file.read(42)
        if head[:4] != b"fLaC" or head[4] & 0x7F:
            return 0
        most_block = int.from_bytes(head[10:12], "big")
        file.seek(max(start + 42, size - _TAIL))
        tail = file.read()
    last = 0
    for match in re.finditer(rb"\xff[\xf8\xf9]", tail):
        last = max(last, _flac_frame(tail[match.start() : match.start() + 16], most_block))
    return last


def flac_cut(path: Path) -> str:
    """Return how a FLAC without a count of samples shows that its end is missing, or ''.

    One that has a count is compared with what could be decoded. RFC 9639 §9.3: a frame ends in a
    CRC-16 of all its bytes, so only a whole last frame gives 0.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        start = behind_tags(file, size)
        file.seek(start)
        head = file.read(42)
        if len(head) < 42 or int.from_bytes(head[18:26], "big") & (1 << 36) - 1:
            return ""
        file.seek(max(start + 42, size - _TAIL))
        tail = file.read()
    most_block = int.from_bytes(head[10:12], "big")
    frames = [
        match.start()
        for match in re.finditer(rb"\xff[\xf8\xf9]", tail)
        if _flac_frame(tail[match.start() : match.start() + 16], most_block)
    ]
    last = tail[frames[-1] :] if frames else b""
    for tag in (b"TAG", b"APETAGEX", b"ID3"):
        last = last[: last.rfind(tag)] if tag in last[-4096:] and _crc16(last) else last
    return "its last frame is cut" if last and _crc16(last) else ""


def _crc16(data: bytes) -> int:
    """RFC 9639 §9.3: polynomial x^16 + x^15 + x^2 + 1."""
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _crc16_row(value: int) -> int:
    value <<= 8
    for _ in range(8):
        value = (value << 1 ^ (0x8005 if value & 0x8000 else 0)) & 0xFFFF
    return value


_CRC16 = tuple(_crc16_row(value) for value in range(256))


def _flac_frame(head: bytes, most_block: int) -> int:
    """Return the number of the sample behind a frame; 0 where these bytes are no frame's header."""
    if len(head) < 16 or head[3] & 1:
        return 0
    code, rate, ones = head[2] >> 4, head[2] & 15, 0
    while ones < 8 and head[4] & (0x80 >> ones):
        ones += 1
    width = max(1, ones)  # bytes of the number, written like UTF-8
    if code == 0 or rate == 15 or ones in (1, 8) or (head[3] >> 4) > 10:
        return 0
    more = head[5 : 4 + width]
    if any(byte >> 6 != 2 for byte in more):
        return 0
    number = head[4] & (0x7F >> ones)
    for byte in more:
        number = number << 6 | byte & 0x3F
    at = 4 + width
    if code in (6, 7):
        block = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        block = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at] or block > most_block:
        return 0
    return (number if head[1] & 1 else number * most_block) + block


def _crc8(data: bytes) -> int:
    """RFC 9639 §9.1.8: polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_row(value: int) -> int:
    for _ in range(8):
        value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


_CRC8 = bytes(_crc8_row(value) for value in range(256))

_KBITS = {  # ISO 11172-3 §2.4.2.3, layers I to III; 13818-3 §2.4.2.3 (lower rates: I, then II, III)
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # fmt: skip


@cache
def _mpeg_sizes() -> tuple[list[int], list[int]]:
    """Return bytes and samples of a frame by the second and third byte of its header; 0: none."""
    size, samples = [0] * 65536, [0] * 65536
    for second in range(0xE0, 0x100):
        version, layer = {0: 25, 2: 2, 3: 1}.get(second >> 3 & 3, 0), 4 - (second >> 1 & 3)
        if not version or layer == 4:
            continue
        rates = {1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 25: (11025, 12000, 8000)}
        count = 384 if layer == 1 else 576 if layer == 3 and version != 1 else 1152
        kbits = _KBITS[1 if version == 1 else 2, layer if version == 1 else min(layer, 2)]
        for third in range(256):
            rate, pad = third >> 2 & 3, third >> 1 & 1
            if rate == 3 or third >> 4 in (0, 15):
                continue
            unit = 4 if layer == 1 else 1
            bits = kbits[third >> 4] * 1000
            place = second << 8 | third
            size[place] = (count // 8 // unit * bits // rates[version][rate] + pad) * unit
            samples[place] = count
    return size, samples


def mp3_frames(path: Path) -> int:
    """Return the samples of all frames of an MP3, 0 where frames do not follow one another.

    The first frame, where it holds a count (Xing, Info, VBRI) and no sound, is not counted.
    """
    size_of, samples_of = _mpeg_sizes()
    with path.open("rb") as file:
        start = behind_tags(file, path.stat().st_size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = len(data) - 4
            sync = data[start : start + 2]
            at, total, lost, sure = start, 0, 0, True
            while at < end:
                place = data[at + 1] << 8 | data[at + 2]
                size = size_of[place] if data[at] == 0xFF else 0
                # A header found by chance, in a picture or in damage, is not followed by a frame of
                # its kind.
                if size and (sure or data[at + size : at + size + 2] == sync):
                    total += samples_of[place]
                    at, sure = at + size, True
                    continue
                if data[at : at + 3] in _TAGS or lost > 1000:
                    break
                lost, sure = lost + 1, False
                at = data.find(sync, at + 1)
                if at < 0:
                    break
            if total and _counts(data[start : start + 200]):
                total -= samples_of[data[start + 1] << 8 | data[start + 2]]
    return total


_TAGS = (b"TAG", b"APE", b"LYR", b"ID3", b"3DI")  # behind the sound


def _counts(frame: bytes) -> bool:
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def counts_frames(path: Path) -> bool:
    """Return whether an MP3 carries a frame count that libsndfile reads (Xing or Info).

    Without one libsndfile estimates the length from size and bit rate, tags and cover included.
    """
    with path.open("rb") as file:
        file.seek(behind_tags(file, path.stat().st_size))
        frame = file.read(2048)
    return b"Xing" in frame or b"Info" in frame
