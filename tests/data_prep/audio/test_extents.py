"""What a file holds against what its header says, both ways, in every container that is written.

Healthy files of odd lengths stay whole, halves are refused, and a count that says a fifth of what
is there is either seen through or refused: it is never believed.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.audio.extents import extent
from dawnchorus.data_prep.audio.stream_counts import mp3_frames
from dawnchorus.data_prep.errors import UnusableAudio
from scripts.fuzz_inputs import sign_ogg

SECONDS = 3.0371


def sound(rate_hz: int, seconds: float = SECONDS) -> np.ndarray:
    time_T = np.arange(round(seconds * rate_hz)) / rate_hz
    noise_T = np.random.default_rng(0).standard_normal(time_T.size)
    return (0.3 * np.sin(2 * np.pi * (500 + 150 * time_T) * time_T) + 0.02 * noise_T).astype("f4")


def sf(kind: str, subtype: str, rate_hz: int = 16000, seconds: float = SECONDS) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(rate_hz, seconds), rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


class Pipe:
    """Cannot seek: what is written to it does not know its length."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def ff(
    kind: str, codec: str, rate_hz: int, seconds: float = SECONDS, *, pipe: bool = False,
    **options: str,
) -> bytes:  # fmt: skip
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (it goes when it is let go)
    out = Pipe() if pipe else file.name  # a name: what moves its head to the front reads it again
    with av.open(out, "w", format=kind, container_options=options) as container:
        stream = container.add_stream(
            codec, rate=rate_hz, layout="mono", options={"strict": "experimental"}
        )
        if codec in ("wmav2", "ac3"):
            stream.bit_rate = 64000
        stream.codec_context.open()
        wav = sound(rate_hz, seconds)[None]
        frame = av.AudioFrame.from_ndarray(wav, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate_hz,
            frame_size=stream.codec_context.frame_size or None,
        )  # fmt: skip
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            for packet in stream.encode(part):
                container.mux(packet)
    return bytes(out.data) if isinstance(out, Pipe) else Path(file.name).read_bytes()


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
# Written with a length in the header; every one is healthy.
WHOLE: dict[str, Callable[[float], bytes]] = {
    "wav": lambda s: sf("WAV", "PCM_16", 16000, s),
    "wav-24": lambda s: sf("WAV", "PCM_24", 44100, s),
    "wav-float": lambda s: sf("WAV", "FLOAT", 16000, s),
    "wav-8": lambda s: sf("WAV", "PCM_U8", 16000, s),
    "wav-ulaw": lambda s: sf("WAV", "ULAW", 16000, s),
    "wav-ima": lambda s: sf("WAV", "IMA_ADPCM", 16000, s),
    "wav-ms": lambda s: sf("WAV", "MS_ADPCM", 16000, s),
    "wav-gsm": lambda s: sf("WAV", "GSM610", 16000, s),
    "wavex": lambda s: sf("WAVEX", "PCM_16", 16000, s),
    "rf64": lambda s: sf("RF64", "PCM_16", 16000, s),
    "w64": lambda s: sf("W64", "PCM_16", 16000, s),
    "w64-ff": lambda s: ff("w64", "pcm_s16le", 16000, s),
    "aiff": lambda s: sf("AIFF", "PCM_16", 44100, s),
    "aifc": lambda s: sf("AIFF", "FLOAT", 16000, s),
    "svx": lambda s: sf("SVX", "PCM_16", 16000, s),
    "au": lambda s: sf("AU", "PCM_16", 16000, s),
    "caf": lambda s: sf("CAF", "PCM_16", 16000, s),
    "caf-alac": lambda s: sf("CAF", "ALAC_16", 16000, s),
    "nist": lambda s: sf("NIST", "PCM_16", 16000, s),
    "voc": lambda s: sf("VOC", "PCM_16", 16000, s),
    "avr": lambda s: sf("AVR", "PCM_16", 16000, s),
    "flac": lambda s: sf("FLAC", "PCM_16", 16000, s),
    "flac-24": lambda s: ff("flac", "flac", 44100, s),
    "vorbis": lambda s: sf("OGG", "VORBIS", 16000, s),
    "vorbis-44": lambda s: sf("OGG", "VORBIS", 44100, s),
    "opus": lambda s: sf("OGG", "OPUS", 48000, s),
    "opus-ff": lambda s: ff("ogg", "libopus", 48000, s),
    "ogg-flac": lambda s: ff("ogg", "flac", 44100, s),
    "mp3": lambda s: sf("MP3", "MPEG_LAYER_III", 44100, s),
    "mp3-16": lambda s: sf("MP3", "MPEG_LAYER_III", 16000, s),
    "mp3-8": lambda s: ff("mp3", "libmp3lame", 8000, s),
    "m4a": lambda s: ff("ipod", "aac", 44100, s),
    "m4a-8": lambda s: ff("ipod", "aac", 8000, s),
    "m4a-front": lambda s: ff("mp4", "aac", 44100, s, movflags="faststart"),
    "alac": lambda s: ff("ipod", "alac", 44100, s),
    "mov-pcm": lambda s: ff("mov", "pcm_s16be", 44100, s),
    "mp4-opus": lambda s: ff("mp4", "libopus", 48000, s),
    "mp4-fragments": lambda s: ff("mp4", "aac", 44100, s, **FRAGMENTS),
    "mka": lambda s: ff("matroska", "flac", 44100, s),
    "mka-aac": lambda s: ff("matroska", "aac", 48000, s),
    "webm": lambda s: ff("webm", "libopus", 48000, s),
    "wma": lambda s: ff("asf", "wmav2", 44100, s),
    "avi": lambda s: ff("avi", "pcm_s16le", 16000, s),
    "wv": lambda s: ff("wv", "wavpack", 44100, s),
    "tta": lambda s: ff("tta", "tta", 44100, s),
}
# A fragment is read as far as it goes.
CUT_IS_NOT_KNOWN = ("mp4-fragments",)
# No length in the header: pipes, live streams, and formats that state none.
UNKNOWN: dict[str, Callable[[float], bytes]] = {
    "wav": lambda s: ff("wav", "pcm_s16le", 16000, s, pipe=True),
    "w64": lambda s: ff("w64", "pcm_s16le", 16000, s, pipe=True),
    "aiff": lambda s: ff("aiff", "pcm_s16be", 44100, s, pipe=True),
    "au": lambda s: ff("au", "pcm_s16be", 16000, s, pipe=True),
    "caf": lambda s: ff("caf", "pcm_s16be", 44100, s, pipe=True),
    "flac": lambda s: ff("flac", "flac", 44100, s, pipe=True),
    "mp3": lambda s: ff("mp3", "libmp3lame", 44100, s, pipe=True),
    "mp3-8": lambda s: ff("mp3", "libmp3lame", 8000, s, pipe=True),
    "ogg": lambda s: ff("ogg", "libopus", 48000, s, pipe=True),
    "m4a": lambda s: ff("ipod", "aac", 44100, s, pipe=True, **FRAGMENTS),
    "mka": lambda s: ff("matroska", "flac", 44100, s, pipe=True),
    "webm": lambda s: ff("webm", "libopus", 48000, s, pipe=True),
    "wma": lambda s: ff("asf", "wmav2", 44100, s, pipe=True),
    "wv": lambda s: ff("wv", "wavpack", 44100, s, pipe=True),
    "avi": lambda s: ff("avi", "mp3", 44100, s, pipe=True),
    "adts": lambda s: ff("adts", "aac", 44100, s),
    "ac3": lambda s: ff("ac3", "ac3", 48000, s),
    "ts": lambda s: ff("mpegts", "mp2", 48000, s),
}


def seconds_of(folder: Path, data: bytes) -> float:
    path = folder / "a.bin"
    path.write_bytes(data)
    pcm, original = decode(path, 16000)
    pcm.close()
    return original.duration_s


def reason_of(folder: Path, data: bytes) -> str:
    with pytest.raises(UnusableAudio) as caught:
        seconds_of(folder, data)
    return caught.value.reason


@pytest.mark.parametrize("seconds", [0.3, 1.70007])
@pytest.mark.parametrize("name", [*WHOLE, *(f"no length: {name}" for name in UNKNOWN)])
def test_healthy_files_are_whole(tmp_path: Path, name: str, seconds: float) -> None:
    make = WHOLE.get(name) or UNKNOWN[name.removeprefix("no length: ")]
    assert seconds_of(tmp_path, make(seconds)) == pytest.approx(seconds, abs=0.25)


@pytest.mark.parametrize("share", [0.6])
@pytest.mark.parametrize("name", [name for name in WHOLE if name not in CUT_IS_NOT_KNOWN])
def test_what_lost_its_end_is_refused(tmp_path: Path, name: str, share: float) -> None:
    data = WHOLE[name](SECONDS)
    # An MP4 whose table of samples stood at its end is no audio any more.
    reasons = {"truncated", "not_audio"} if data[4:8] == b"ftyp" else {"truncated", "corrupt"}
    assert reason_of(tmp_path, data[: int(share * len(data))]) in reasons


@pytest.mark.parametrize("name", ["wav", "flac", "mp3"])
def test_a_tag_in_front_hides_no_cut(tmp_path: Path, name: str) -> None:
    tag = b"ID3\x04\0\0\0\0\x07\x76" + bytes(1014)
    data = WHOLE[name](SECONDS)
    assert seconds_of(tmp_path, tag + data) == pytest.approx(SECONDS, abs=0.1)
    assert reason_of(tmp_path, tag + data[: len(data) // 2]) in ("truncated", "corrupt")


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def fifth(data: bytes, at: int, code: str, *, even: bool = False) -> bytes:
    """Divide the number at a place by five."""
    value = struct.unpack_from(code, data, at)[0]
    value = value / 5 if code[-1] == "d" else value // 5
    return patched(data, at, struct.pack(code, int(value) & ~1 if even else value))


def less_riff(data: bytes) -> list[bytes]:
    at = data.find(b"data") + 4
    one = fifth(data, at, "<I", even=True)
    size = at - 4 + struct.unpack_from("<I", one, at)[0]
    return [one, patched(one, 4, struct.pack("<I", size)), fifth(data, 4, "<I")]


def less_rf64(data: bytes) -> list[bytes]:
    at = data.find(b"ds64")
    return [fifth(data, at + 16, "<Q", even=True)]


def less_aiff(data: bytes) -> list[bytes]:
    common, chunk = data.find(b"COMM") + 10, data.find(b"SSND") + 4
    both = fifth(fifth(data, common, ">I"), chunk, ">I", even=True)
    return [fifth(data, common, ">I"), fifth(data, chunk, ">I", even=True), both]


def less_caf(data: bytes) -> list[bytes]:
    found = [fifth(data, data.find(b"data") + 4, ">q")]
    at = data.find(b"pakt")
    return [*found, fifth(data, at + 20, ">q")] if at > 0 else found


def less_flac(data: bytes) -> list[bytes]:
    packed = int.from_bytes(data[18:26], "big")
    total = packed & (1 << 36) - 1
    return [patched(data, 18, (packed - total + total // 5).to_bytes(8, "big"))]


def less_mp3(data: bytes) -> list[bytes]:
    at = max(data.find(b"Xing"), data.find(b"Info"))
    frames = fifth(data, at + 8, ">I")
    # VBRI (Fraunhofer) stands 36 bytes behind the first frame's begin, its frame count at 14.
    head = (
        data[:4] + bytes(32) + b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 75, 16000, 38, 0, 1, 2, 1)
    )
    vbri = head + bytes(at - 36 + 1000)
    return [frames, fifth(frames, at + 12, ">I"), patched(data, 0, vbri[: at + 100])]


def pages(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        found.append(at)
        at += 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
    return found


def less_ogg(data: bytes) -> list[bytes]:
    last, every = bytearray(data), bytearray(data)
    for body, places in ((last, pages(data)[-1:]), (every, pages(data))):
        for at in places:
            position = int.from_bytes(body[at + 6 : at + 14], "little")
            body[at + 6 : at + 14] = (position // 5).to_bytes(8, "little")
        sign_ogg(body)
    return [bytes(last), bytes(every)]


def less_mp4(data: bytes) -> list[bytes]:
    found = [fifth(data, data.find(b"mdhd") + 20, ">I"), fifth(data, data.find(b"mvhd") + 20, ">I")]
    at = data.find(b"elst")
    count = struct.unpack_from(">I", data, at + 8)[0]
    found.append(fifth(data, at + 12 + 12 * (count - 1), ">I"))
    table = fifth(data, data.find(b"stts") + 12, ">I")
    return [
        *found,
        fifth(table, data.find(b"stsz") + 12, ">I"),
        fifth(data, data.find(b"mdat") - 4, ">I"),
    ]


def less_mka(data: bytes) -> list[bytes]:
    segment = data.find(b"\x18\x53\x80\x67") + 4
    size = int.from_bytes(data[segment + 1 : segment + 8], "big")
    short = patched(data, segment + 1, (size // 5).to_bytes(7, "big"))
    return [fifth(data, data.find(b"\x44\x89\x88") + 3, ">d"), short]


LESS: dict[str, Callable[[bytes], list[bytes]]] = {
    "wav": less_riff, "wav-24": less_riff, "wav-ulaw": less_riff, "wav-ima": less_riff,
    "rf64": less_rf64, "aiff": less_aiff, "aifc": less_aiff, "caf": less_caf,
    "caf-alac": less_caf, "flac": less_flac, "flac-24": less_flac, "mp3": less_mp3,
    "mp3-16": less_mp3, "vorbis": less_ogg, "vorbis-44": less_ogg, "opus": less_ogg,
    "m4a": less_mp4, "m4a-front": less_mp4, "mka": less_mka, "webm": less_mka,
    "w64": lambda data: [fifth(data, data.find(b"data\xf3\xac") + 16, "<Q")],
    "au": lambda data: [fifth(data, 8, ">I")],
    "wv": lambda data: [fifth(data, 12, "<I")],
    "svx": lambda data: [fifth(data, data.find(b"BODY") + 4, ">I")],
}  # fmt: skip


@pytest.mark.parametrize("name", LESS)
def test_a_header_that_says_less_is_never_believed(tmp_path: Path, name: str) -> None:
    for data in LESS[name](WHOLE[name](SECONDS)):
        try:
            assert seconds_of(tmp_path, data) == pytest.approx(SECONDS, abs=0.2)
        except UnusableAudio as err:
            # Tables and packets that contradict each other may be no audio at all any more.
            contradicts = data[4:8] == b"ftyp" and err.reason in ("not_audio", "corrupt")
            assert contradicts or err.reason in ("understated", "truncated"), err


def test_what_is_meant_is_kept(tmp_path: Path) -> None:
    """Streams whose own frames go on are read to their end, whatever their header counts."""
    for name in ("flac", "mp3", "vorbis-44"):
        for data in LESS[name](WHOLE[name](SECONDS))[:1]:
            assert seconds_of(tmp_path, data) == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_without_a_last_flag_is_whole(tmp_path: Path, subtype: str) -> None:
    data = bytearray(sf("OGG", subtype, 48000))
    found = pages(bytes(data))
    data[found[-1] + 5] &= ~4
    sign_ogg(data)
    assert seconds_of(tmp_path, bytes(data)) == pytest.approx(SECONDS, abs=0.01)
    (tmp_path / "b.ogg").write_bytes(data[:-10])
    assert extent(tmp_path / "b.ogg").cut == "its last page runs past the end of the file"
    assert reason_of(tmp_path, bytes(data[:-10])) == "truncated"
    assert reason_of(tmp_path, bytes(data[: found[-1] + 12])) == "truncated"


BEHIND = {
    "a list": b"LIST" + struct.pack("<I", 9000) + b"INFO" + bytes(8996),
    "an odd chunk": b"odd " + struct.pack("<I", 9001) + b"x" * 9001 + b"\0" + b"JUNK\4\0\0\0abcd",
    "an ID3v1 tag": b"TAG" + b"x" * 125,
    "an ID3 tag": b"ID3\x04\0\0\0\0\x47\x76" + b"x" * 9206,
    "an APE tag": b"APETAGEX" + b"x" * 9000,
    "zeros": bytes(20_000),
}


@pytest.mark.parametrize("what", BEHIND)
def test_tags_behind_the_sound_are_no_sound(tmp_path: Path, what: str) -> None:
    for kind in ("WAV", "RF64", "FLAC", "MP3"):
        if kind in ("FLAC", "MP3") and what in ("an odd chunk", "a list"):
            continue
        data = sf(kind, "MPEG_LAYER_III" if kind == "MP3" else "PCM_16", 44100)
        assert seconds_of(tmp_path, data + BEHIND[what]) == pytest.approx(SECONDS, abs=0.1)


def test_a_size_of_32_bits_that_wrapped(tmp_path: Path) -> None:
    """A day of sound is more than 4 GiB: sparse files, which take no room."""
    for name, kind in (("a.wav", "WAV"), ("a.aiff", "AIFF"), ("a.au", "AU")):
        path = tmp_path / name
        data = sf(kind, "PCM_16")
        path.write_bytes(data)
        os.truncate(path, len(data) + (1 << 32))
        with path.open("r+b") as file:
            file.seek(-len(data), os.SEEK_END)
            file.write(data[-100_000:])
        with pytest.raises(UnusableAudio) as caught:
            decode(path, 16000)
        assert caught.value.reason == "understated" and "wrapped" in caught.value.detail


def test_what_looks_like_a_frame_in_a_picture_is_none(tmp_path: Path) -> None:
    """Random bytes hold the two bytes of a frame's begin every few kilobytes."""
    data = sf("MP3", "MPEG_LAYER_III", 44100)
    (tmp_path / "a.mp3").write_bytes(data)
    frames = mp3_frames(tmp_path / "a.mp3")
    junk = b"\0" + np.random.default_rng(1).bytes(300_000)
    for behind in (junk, b"ID3\x04\0\0\0\x10\0\0" + junk):
        (tmp_path / "b.mp3").write_bytes(data + behind)
        assert mp3_frames(tmp_path / "b.mp3") == frames
