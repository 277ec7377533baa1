"""Sound files that are cut, mistaken or meant to do harm, made in memory."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import av
import numpy as np
import soundfile
from helpers import evil_zip

RATE_HZ = 16000


def wav_T(seconds: float = 1.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    time_T = np.arange(int(seconds * rate_hz)) / rate_hz
    noise_T = np.random.default_rng(0).standard_normal(time_T.size)
    return 0.4 * np.sin(2 * np.pi * 900 * time_T) + 0.04 * noise_T


def encoded(kind: str, subtype: str | None = None, wav: np.ndarray | None = None) -> bytes:
    buffer = io.BytesIO()
    endian = "BIG" if kind == "RIFX" else "FILE"
    kind = "WAV" if kind == "RIFX" else kind
    soundfile.write(
        buffer, wav_T() if wav is None else wav, RATE_HZ, subtype, endian, kind
    )  # fmt: skip
    return buffer.getvalue()


def aac() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        wav = wav_T().astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wav, format="flt", layout="mono")
        frame.sample_rate = RATE_HZ
        for part in (frame, None):
            for packet in stream.encode(part):
                container.mux(packet)
    return buffer.getvalue()


def pcm16(data: bytes) -> bytes:
    """The samples of a plain WAV of `encoded`: what follows its 44 bytes."""
    return data[44:]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def flac_that_claims_2_to_the_36() -> bytes:
    """STREAMINFO's 36 bits of total samples all set (RFC 9639 §8.2)."""
    data = encoded("FLAC")
    packed = int.from_bytes(data[18:26], "big") | ((1 << 36) - 1)
    return patched(data, 18, packed.to_bytes(8, "big"))


def id3(size: int) -> bytes:
    """A tag of zeros: ID3v2 §3.1, size in 7 bits a byte."""
    packed = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + packed + bytes(size)


def riff(fmt: bytes, data: bytes) -> bytes:
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def fmt(tag: int, channels: int, rate_hz: int, block: int, bits: int) -> bytes:
    return struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block, bits)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty.wav": lambda: b"",
    "nul.wav": lambda: bytes(100_000),
    "page.mp3": lambda: b"<!DOCTYPE html><html><title>404</title></html>\n" * 100,
    "json.mp3": lambda: b'{"error": "client_error"}',
    "random.flac": lambda: np.random.default_rng(1).bytes(100_000),
    "claims.flac": flac_that_claims_2_to_the_36,
    "zip.wav": lambda: evil_zip(),
    "head.wav": lambda: encoded("WAV")[:44],
    "half.m4a": lambda: aac()[:2000],
    "playlist.m3u8": lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
    "concat.wav": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp.wav": lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    "no channel.wav": lambda: riff(fmt(1, 0, 16000, 2, 16), bytes(32000)),
    "channels.wav": lambda: riff(fmt(1, 65535, 16000, 65534, 16), bytes(320_000)),
    "65 channels.wav": lambda: riff(fmt(1, 65, 16000, 130, 16), bytes(130 * 16000)),
    "no rate.wav": lambda: riff(fmt(1, 1, 0, 2, 16), bytes(32000)),
    "rate.wav": lambda: riff(fmt(1, 1, 0xFFFFFFFF, 2, 16), bytes(32000)),
    "no codec.wav": lambda: riff(fmt(0x9999, 1, 16000, 2, 16), bytes(range(256)) * 100),
    "no bits.wav": lambda: riff(fmt(1, 1, 16000, 0, 0), bytes(32000)),
    "sample dump.wav": lambda: encoded("SDS", "PCM_16")[:500] + b"\xbe" * 3000,
    "nan.wav": lambda: encoded("WAV", "FLOAT", np.full(16000, np.nan)),
    "counts.wav": lambda: encoded("WAV", "FLOAT", 30000 * wav_T()),
    "silence.wav": lambda: encoded("WAV", "PCM_16", np.zeros(16000)),
    "id3 alone.mp3": lambda: id3(1_000_000),
    "id3 lies.mp3": lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + encoded("MP3")[:100],
    "ebml.mkv": lambda: b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 7 + bytes(1000),
    "moov.m4a": lambda: b"\0\0\0\x18ftypM4A \0\0\0\0" + b"\x7f\xff\xff\xffmoov" + bytes(1000),
}
REASONS = {
    "empty.wav": "empty", "page.mp3": "not_audio", "nul.wav": "not_audio", "zip.wav": "not_audio",
    "claims.flac": "truncated", "nan.wav": "non_finite", "counts.wav": "out_of_range",
    "silence.wav": "silent", "channels.wav": "unsupported", "65 channels.wav": "unsupported",
    "playlist.m3u8": "not_audio", "concat.wav": "not_audio", "sdp.wav": "not_audio",
}  # fmt: skip
