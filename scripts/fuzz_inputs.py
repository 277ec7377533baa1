"""Inputs of the audio fuzzer: small valid files of every readable format, and ways to break them.

Mutations know what the containers have in common: four-letter tags with a size before or after
them (RIFF, AIFF, CAF, MP4), pages with checksums (Ogg), a few header fields at fixed places
(FLAC's STREAMINFO, WAV's `fmt `). Checksums are computed again; otherwise most damage would stop
at the checksum and never reach a decoder.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np

SECONDS = 0.3
MAX_BYTES = 1 << 16  # an input's size: the decoders' parsers matter here, not their stamina
# The ends of every integer type, and what is one beside them.
_EDGES = (
    0, 1, 2, 3, 7, 8, 16, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
    0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 36) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
_TAG = re.compile(rb"[A-Za-z][A-Za-z0-9 ]{2}[A-Za-z0-9 .]")

Mutation = Callable[[bytearray, random.Random], bytearray]

# Container, codec, bit rate (0: the encoder's own) of the seeds that FFmpeg writes.
_FFMPEG = (
    ("mp4", "aac", 0), ("ipod", "alac", 0), ("adts", "aac", 0), ("asf", "wmav2", 64000),
    ("webm", "libopus", 0), ("matroska", "flac", 0), ("wv", "wavpack", 0), ("tta", "tta", 0),
    ("ac3", "ac3", 64000), ("eac3", "eac3", 64000), ("avi", "pcm_s16le", 0), ("mpegts", "mp2", 0),
    ("mov", "pcm_s16be", 0), ("ogg", "flac", 0), ("mp4", "mp3", 0), ("avi", "adpcm_ms", 0),
    ("mpegts", "aac", 0), ("mp4", "flac", 0), ("mp4", "libopus", 0), ("matroska", "pcm_s24le", 0),
)  # fmt: skip


# Formats that libsndfile lists but cannot write, and formats that it writes with one channel only.
_UNWRITTEN = frozenset(
    (("AIFF", "DWVW_12"), ("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"),
     ("WAV", "MPEG_LAYER_III"))
)  # fmt: skip
_MONO_KINDS = ("HTK", "SVX", "SDS", "WVE", "XI")
_MONO_CODECS = ("GSM610", "DWVW", "G721", "G723", "NMS_ADPCM")
FFMPEG_SHARE = 0.7  # of the inputs: begin with a file that only FFmpeg reads


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Return (name, bytes) of one small valid file per format and codec, the same every time.

    The encoders' own errors come through: a seed that is missing leaves a decoder untested.
    """
    import soundfile

    wav_T = _sound(16000)
    found: list[tuple[str, bytes]] = []
    for kind in soundfile.available_formats():
        if kind in ("RAW", "SD2"):  # no header; a header in a second file, "._" in this folder
            continue
        for subtype in soundfile.available_subtypes(kind):
            if (kind, subtype) in _UNWRITTEN:
                continue
            mono = kind in _MONO_KINDS or subtype.startswith(_MONO_CODECS)
            stereo_hz = 24000 if subtype == "OPUS" else 22050
            for channels, rate_hz in ((1, 16000), (2, stereo_hz))[: 1 if mono else 2]:
                wav_TC = np.stack([wav_T] * channels, axis=1)
                buffer = io.BytesIO()
                soundfile.write(buffer, wav_TC, rate_hz, format=kind, subtype=subtype)
                found.append((f"{kind}-{subtype}-{channels}".lower(), buffer.getvalue()))
    found += [(f"{kind}-{codec}", _with_ffmpeg(kind, codec, rate)) for kind, codec, rate in _FFMPEG]
    # Neighbours of audio in the wild: tags in front, a page instead of a file, archives.
    mp3 = dict(found)["mp3-mpeg_layer_iii-1"]
    found.append(("mp3-id3", b"ID3\x04\x00\x00\x00\x00\x07\x76" + b"TIT2" + b"\0" * 1010 + mp3))
    found.append(("html", b"<!DOCTYPE html><html><body>404 not found</body></html>\n" * 20))
    found.append(("empty-zip", b"PK\x05\x06" + b"\0" * 18))
    return tuple(found)


@cache
def ffmpeg_seeds() -> tuple[tuple[str, bytes], ...]:
    """Return the seeds that FFmpeg wrote."""
    names = {f"{kind}-{codec}" for kind, codec, _ in _FFMPEG}
    return tuple(seed for seed in seeds() if seed[0] in names)


def _sound(rate_hz: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    time_T = np.arange(int(SECONDS * rate_hz)) / rate_hz
    wave_T = 0.3 * np.sin(2 * np.pi * (700 + 900 * time_T) * time_T)
    return (wave_T + 0.02 * rng.standard_normal(time_T.size)).astype(np.float32)


def _with_ffmpeg(kind: str, codec: str, bit_rate: int) -> bytes:
    """Return the seed of a container and codec that only FFmpeg writes.

    Raises what FFmpeg raises: a seed that cannot be made would leave its decoder untested.
    """
    import av

    rate_hz = 48000 if "opus" in codec or kind == "eac3" else 16000
    if codec in ("ac3", "wmav2"):
        rate_hz = 32000
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        # FLAC and Opus in MP4 are experimental in some builds.
        stream = container.add_stream(
            codec, rate=rate_hz, layout="mono", options={"strict": "experimental"}
        )
        if bit_rate:
            stream.bit_rate = bit_rate
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(_sound(rate_hz)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate_hz,
            frame_size=stream.codec_context.frame_size or None,
        )  # fmt: skip
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            for packet in stream.encode(part):
                container.mux(packet)
    return buffer.getvalue()


def make_input(seed: int, index: int) -> tuple[str, bytes]:
    """Return (what was done, bytes) of input `index`: a pure function of the two numbers."""
    rng = random.Random(f"{seed}:{index}")
    name, data = rng.choice(ffmpeg_seeds() if rng.random() < FFMPEG_SHARE else seeds())
    done = [name]
    body = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        mutation = rng.choices(MUTATIONS, WEIGHTS)[0]
        body = mutation(body, rng)[:MAX_BYTES]
        done.append(mutation.__name__.strip("_"))
    if body[:4] == b"OggS" and rng.random() < 0.8:
        sign_ogg(body)
    return "+".join(done), bytes(body)


def _place(body: bytearray, rng: random.Random, width: int = 1) -> int:
    """Return an offset: in the header twice as often as anywhere."""
    end = max(1, len(body) - width + 1)
    return rng.randrange(min(end, rng.choice((48, 256, end))))


def _flip_bits(body: bytearray, rng: random.Random) -> bytearray:
    for _ in range(1 << rng.randrange(7)):
        if body:
            body[_place(body, rng)] ^= 1 << rng.randrange(8)
    return body


def _set_edge(body: bytearray, rng: random.Random) -> bytearray:
    """Write the end of an integer's range somewhere."""
    width = rng.choice((1, 2, 3, 4, 8))
    _write(body, _place(body, rng, width), width, rng)
    return body


def _set_size(body: bytearray, rng: random.Random) -> bytearray:
    """Change one of the numbers around a four-letter tag: chunk and box sizes, header fields."""
    tags = [match.start() for match in _TAG.finditer(bytes(body[:8192]))]
    if not tags:
        return _set_edge(body, rng)
    at, width = rng.choice(tags), rng.choice((2, 4, 4, 8))
    _write(body, at + rng.choice((-4, 4, 4, 8, 10, 12, 16, 18, 20, 24, 28)), width, rng)
    return body


def _write(body: bytearray, at: int, width: int, rng: random.Random) -> None:
    if not 0 <= at <= len(body) - width:
        return
    order = rng.choice(("little", "big"))
    old = int.from_bytes(body[at : at + width], order)  # type: ignore[arg-type]
    value = rng.choice((*_EDGES, len(body), len(body) - at, old + 1, old - 1, 2 * old, old // 2))
    body[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]


def _truncate(body: bytearray, rng: random.Random) -> bytearray:
    return body[: rng.randrange(len(body) + 1)]


def _remove(body: bytearray, rng: random.Random) -> bytearray:
    at = _place(body, rng)
    return body[:at] + body[at + rng.choice((1, 2, 4, 8, 64, 512)) :]


def _repeat(body: bytearray, rng: random.Random) -> bytearray:
    """Insert a copy of a stretch somewhere, perhaps many times."""
    start = _place(body, rng)
    part = body[start : start + rng.choice((1, 4, 8, 64, 512, 4096))]
    at = _place(body, rng)
    return body[:at] + part * rng.choice((1, 1, 2, 16)) + body[at:]


def _noise(body: bytearray, rng: random.Random) -> bytearray:
    at = _place(body, rng)
    fill = rng.choice((b"\0", b"\xff", rng.randbytes(1), rng.randbytes(64)))
    count = rng.choice((1, 4, 16, 256, 2048))
    body[at : at + count] = (fill * count)[: min(count, max(0, len(body) - at))]
    return body


def _splice(body: bytearray, rng: random.Random) -> bytearray:
    """Join the head of this file to the tail of another, or lay a foreign header over it."""
    _, other = rng.choice(seeds())
    if rng.random() < 0.3:
        count = rng.choice((4, 12, 44, 128))
        return bytearray(other[:count]) + body[count:]
    at = _place(body, rng) if rng.random() < 0.5 else rng.randrange(len(body) + 1)
    return body[:at] + bytearray(other[rng.randrange(len(other)) :])


def _chain(body: bytearray, rng: random.Random) -> bytearray:
    """Another whole file behind this one."""
    return body + bytearray(rng.choice(seeds())[1])


def _move_chunks(body: bytearray, rng: random.Random) -> bytearray:
    """Cut at the tags, then drop, double or exchange a piece."""
    cuts = [match.start() for match in _TAG.finditer(bytes(body[:8192]))][:64]
    cuts = [0, *cuts, len(body)]
    parts = [body[a:b] for a, b in pairwise(cuts)]
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(3):
        case 0:
            del parts[i]
        case 1:
            parts.insert(j, parts[i])
        case _:
            parts[i], parts[j] = parts[j], parts[i]
    return bytearray(b"".join(parts))


def _flac_header(body: bytearray, rng: random.Random) -> bytearray:
    """Set fields of STREAMINFO (RFC 9639 §8.2): block sizes, rate, channels, bits, samples."""
    at = body.find(b"fLaC")
    if at < 0 or len(body) < at + 42:
        return _set_size(body, rng)
    info = at + 8
    match rng.randrange(4):
        case 0:
            _write(body, info + 2 * rng.randrange(2), 2, rng)
        case 1:
            packed = int.from_bytes(body[info + 10 : info + 18], "big")
            samples = rng.choice((0, 1, (1 << 36) - 1, 1 << 35, 16000 * 3600 * 25))
            packed = packed >> 36 << 36 | samples
            body[info + 10 : info + 18] = packed.to_bytes(8, "big")
        case 2:
            body[info + 10 + rng.randrange(4)] = rng.randrange(256)
        case _:
            body[at + 4 + rng.randrange(4)] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return body


def _wav_header(body: bytearray, rng: random.Random) -> bytearray:
    """Set fields of `fmt `: format, channels, rate, byte rate, block size, bits."""
    at = body.find(b"fmt ")
    if at < 0 or len(body) < at + 24:
        return _set_size(body, rng)
    offset, width = rng.choice(((8, 2), (10, 2), (12, 4), (16, 4), (20, 2), (22, 2), (24, 2)))
    if offset == 8 and rng.random() < 0.7:
        tags = (1, 2, 3, 6, 7, 0x11, 0x31, 0x40, 0x50, 0x55, 0x64, 0xFF, 0x161, 0x2000, 0xFFFE)
        body[at + 8 : at + 10] = rng.choice(tags).to_bytes(2, "little")
    else:
        _write(body, at + offset, width, rng)
    return body


def _ogg_header(body: bytearray, rng: random.Random) -> bytearray:
    """Set flags, position, serial or sequence number, or a packet's length of an Ogg page."""
    pages = [match.start() for match in re.finditer(b"OggS", bytes(body))]
    if not pages or len(body) < pages[-1] + 28:
        return _set_size(body, rng)
    page = rng.choice(pages)
    match rng.randrange(4):
        case 0:
            position = rng.choice((-1, -5, 0, 1, 5000, 1 << 20, 1 << 47, (1 << 63) - 1))
            body[page + 6 : page + 14] = (position % (1 << 64)).to_bytes(8, "little")
        case 1:
            body[page + 5] = rng.randrange(8)
        case 2:
            body[page + 14 + rng.randrange(8)] ^= 1 << rng.randrange(8)
        case _:
            body[page + 26 + rng.randrange(2)] = rng.choice((0, 1, 254, 255, rng.randrange(256)))
    return body


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _set_edge, _set_size, _truncate, _remove, _repeat, _noise, _splice, _chain,
    _move_chunks, _flac_header, _wav_header, _ogg_header,
)  # fmt: skip
WEIGHTS = (6, 4, 6, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2)


def sign_ogg(body: bytearray) -> None:
    """Compute the checksums of all Ogg pages again (RFC 3533 §6: CRC-32, 0x04C11DB7), in place."""
    at = body.find(b"OggS")
    while 0 <= at <= len(body) - 27:
        segments = body[at + 26]
        size = 27 + segments + sum(body[at + 27 : at + 27 + segments])
        page = body[at : at + size]
        page[22:26] = bytes(4)
        crc = 0
        for byte in page:
            crc = crc << 8 & 0xFFFFFFFF ^ _CRC[crc >> 24 ^ byte]
        body[at + 22 : at + 26] = crc.to_bytes(4, "little")
        at = body.find(b"OggS", at + 4)


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()
