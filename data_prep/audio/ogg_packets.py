"""How long the packets of an Ogg stream (Vorbis or Opus) are, by the packets themselves.

The last page of a stream says where it ends, and decoders stop there. Each packet tells its own
length in its first byte, so all of them can be added up without decoding one.

Sources: RFC 3533 §6 (lacing), RFC 6716 §3.1 (Opus' first byte), RFC 7845 §5.1 (pre-skip), Vorbis I
§4.2.4 (modes), §4.3.1, §4.3.8 (what a packet adds).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_MODE_BITS = 41  # flag, window, transform, mapping: 1 + 16 + 16 + 8
_MOST_MODES = 64


def packet_samples(path: Path) -> int:
    """Return the samples that all packets of a single Vorbis or Opus stream add up to.

    At 48 kHz for Opus, at the stream's rate for Vorbis; what is cut off at its end by the last
    page's position is counted. 0: another codec, or a header that cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _samples(_packets(data))


def _samples(packets: Iterator[bytes]) -> int:
    head = next(packets, b"")
    if head[:8] == b"OpusHead" and len(head) >= 12:
        skip = int.from_bytes(head[10:12], "little")
        next(packets, b"")  # tags
        return max(0, sum(map(_opus_samples, packets)) - skip)
    if head[:7] == b"\x01vorbis" and len(head) >= 29:
        short, long = 1 << (head[28] & 15), 1 << (head[28] >> 4)
        next(packets, b"")
        flags = _mode_flags(next(packets, b""))
        return _vorbis_samples(packets, flags, (short, long)) if flags else 0
    return 0


def _packets(data: mmap.mmap) -> Iterator[bytes]:
    """Yield the first three packets whole, of the others the first two bytes."""
    at, count = 0, 0
    begun = b""
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        body = at + 27 + data[at + 26]
        for length in data[at + 27 : body]:
            if count < 3 or not begun:
                begun += data[body : body + (length if count < 3 else min(length, 2))]
            body += length
            if length < 255:
                if begun:
                    yield begun
                    count += 1
                begun = b""
        at = body


def _opus_samples(packet: bytes) -> int:
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    count = (1, 2, 2, packet[1] & 0x3F if len(packet) > 1 else 0)[code]
    return frame * count


def _vorbis_samples(packets: Iterator[bytes], flags: list[int], sizes: tuple[int, int]) -> int:
    """Add up the overlapping blocks: a packet adds a quarter of its block and of the last one."""
    mask = (1 << (len(flags) - 1).bit_length()) - 1
    total = before = 0
    for packet in packets:
        mode = packet[0] >> 1 & mask
        if packet[0] & 1 or mode >= len(flags):  # no packet of sound
            continue
        size = sizes[flags[mode]]
        total += (before + size) // 4 if before else 0
        before = size
    return total


def _mode_flags(setup: bytes) -> list[int]:
    """Return for each mode whether its blocks are long; [] where the header is none.

    The modes stand at the end of the setup header, before a last bit that is set; the fields before
    them need not be parsed, since the number of modes stands in front of them.
    """
    if setup[:7] != b"\x05vorbis":
        return []
    bits = int.from_bytes(setup, "little")
    at = bits.bit_length() - 1
    flags: list[int] = []
    found: list[int] = []
    while len(flags) < _MOST_MODES and at > _MODE_BITS + 6:
        at -= _MODE_BITS
        mode = bits >> at
        if mode >> 1 & 0xFFFFFFFF or (mode >> 33 & 0xFF) >= _MOST_MODES:
            break
        flags.insert(0, mode & 1)
        if bits >> at - 6 & 0x3F == len(flags) - 1:
            found = list(flags)
    return found
