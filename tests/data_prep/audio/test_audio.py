"""Decoding: equal to soundfile + soxr, by content, in bounded memory; what is refused, and why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from dawnchorus.data_prep.audio import decoders
from dawnchorus.data_prep.audio import pcm as pcm_module
from dawnchorus.data_prep.audio.decode import decode, probe_duration_s
from dawnchorus.data_prep.errors import UnusableAudio

REPO = Path(__file__).resolve().parents[3]


def reference(path: Path, rate_hz: int = 16000) -> np.ndarray:
    """What two libraries give for the whole file at once."""
    wav_TC, original_hz = soundfile.read(path, dtype="float32", always_2d=True)
    wav_T = wav_TC.mean(axis=1)
    if original_hz != rate_hz:
        wav_T = soxr.resample(wav_T, original_hz, rate_hz, quality="HQ")
    return np.clip(np.rint(wav_T * 32768.0), -32768, 32767).astype(np.int16)


def reason_of(path: Path, **options: float) -> UnusableAudio:
    with pytest.raises(UnusableAudio) as caught:
        decode(path, 16000, **options)
    return caught.value


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(16000, 2), (22050, 1), (44100, 2), (48000, 1)])
def test_stored_samples_are_those_of_soundfile_and_soxr(
    tmp_path: Path, make_call: Callable, extension: str, rate_hz: int, channels: int
) -> None:
    wav_T = make_call(3.0, rate_hz)
    wav_TC = np.stack([wav_T, *[0.5 * np.roll(wav_T, 40)] * (channels - 1)], axis=1)
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, wav_TC, rate_hz)
    pcm, original = decode(path, 16000)
    expected_T = reference(path)
    stored_T = pcm.read(0, pcm.samples)
    assert len(stored_T) == len(expected_T)
    assert np.abs(stored_T.astype(int) - expected_T.astype(int)).max() <= 1
    assert (original.sample_rate_hz, original.channels) == (rate_hz, channels)
    assert original.duration_s == pytest.approx(3.0, abs=0.06)


def test_real_recordings_too(real_sound: Path) -> None:
    files = sorted((real_sound / "xc_birds" / "audio").iterdir())[::12]
    files += sorted((real_sound / "esc10" / "audio").iterdir())[::40]
    for path in files:
        pcm, _ = decode(path, 16000)
        expected_T = reference(path)
        assert pcm.samples == len(expected_T), path
        difference_T = pcm.read(0, pcm.samples).astype(int) - expected_T
        assert np.abs(difference_T).max() <= 1, path


def test_blocks_leave_no_seams(
    tmp_path: Path, make_call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, make_call(4.0, 44100), 44100)
    monkeypatch.setattr(decoders, "BLOCK_VALUES", 1000)
    monkeypatch.setattr(pcm_module, "SPOOL_BYTES", 5000)  # so that the samples go through a file
    pcm, _ = decode(path, 16000, spool_dir=tmp_path)
    expected_T = reference(path)
    assert np.abs(pcm.read(0, pcm.samples).astype(int) - expected_T).max() <= 1
    np.testing.assert_array_equal(pcm.read(100, 300), pcm.read(0, pcm.samples)[100:300])


@pytest.mark.parametrize(
    ("content", "name"), [("FLAC", "a.mp3"), ("WAV", "a.flac"), ("MP3", "a.wav"), ("OGG", "a.raw")]
)
def test_content_decides_not_the_name(
    tmp_path: Path, make_call: Callable, content: str, name: str
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        soundfile.write(file, make_call(1.0, 22050), 22050, format=content)
    pcm, original = decode(path, 16000)
    assert pcm.duration_s == pytest.approx(1.0, abs=0.06)
    assert original.codec == {"OGG": "vorbis"}.get(content, content.lower())


def write_aac(path: Path, wav_T: np.ndarray, rate_hz: int) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            wav_T[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def test_ffmpeg_reads_what_libsndfile_cannot(tmp_path: Path, make_call: Callable) -> None:
    path = tmp_path / "a.mp3"  # AAC under a wrong name
    write_aac(path, make_call(2.0, 44100), 44100)
    pcm, original = decode(path, 16000)
    assert original.codec == "aac"
    assert pcm.duration_s == pytest.approx(2.0, abs=0.06)
    spectrum_F = np.abs(np.fft.rfft(pcm.read(4000, 20000)))
    assert abs(int(spectrum_F.argmax()) - 900) <= 2


def test_a_play_list_opens_nothing(tmp_path: Path, make_call: Callable) -> None:
    soundfile.write(tmp_path / "other.wav", make_call(1.0, 16000), 16000)
    path = tmp_path / "a.mp3"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/other.wav\n")
    assert reason_of(path).reason == "not_audio"


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_refused_files_have_their_reason(tmp_path: Path, make_call: Callable) -> None:
    assert reason_of(tmp_path / "nothing.wav").reason == "missing"
    assert reason_of(tmp_path).reason == "missing"
    assert reason_of(write_bytes(tmp_path / "0.wav", b"")).reason == "empty"
    page = b"<!DOCTYPE html><html><body>404 not found</body></html>" * 40
    assert reason_of(write_bytes(tmp_path / "1.mp3", page)).reason == "not_audio"
    random = np.random.default_rng(0).bytes(20000)
    assert reason_of(write_bytes(tmp_path / "2.wav", b"\x00" + random)).reason in (
        "not_audio",
        "corrupt",
    )
    wav_T = make_call(1.0, 16000).astype(np.float32)

    def write(name: str, samples: np.ndarray, **options: str) -> Path:
        soundfile.write(tmp_path / name, samples, 16000, **options)
        return tmp_path / name

    assert reason_of(write("3.wav", wav_T[:0])).reason == "empty"
    assert reason_of(write("5.flac", 0 * wav_T)).reason == "silent"
    constant = reason_of(write("6.wav", 0 * wav_T + 0.25))
    assert constant.reason == "silent" and "the same" in constant.detail
    for value in (np.nan, np.inf, -np.inf):
        broken_T = wav_T.copy()
        broken_T[8000] = value
        error = reason_of(write("7.wav", broken_T, subtype="FLOAT"))
        assert error.reason == "non_finite" and "0.500 s" in error.detail
    counts = reason_of(write("8.wav", wav_T * 20000, subtype="FLOAT"))
    assert counts.reason == "out_of_range"
    assert reason_of(write("9.wav", wav_T), max_hours=0.5 / 3600).reason == "too_long"


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "aiff", "m4a"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(
    tmp_path: Path, make_call: Callable, extension: str, share: float
) -> None:
    path = tmp_path / f"a.{extension}"
    if extension == "m4a":
        write_aac(path, make_call(5.0, 44100), 44100)
    else:
        soundfile.write(path, make_call(5.0, 44100), 44100)
    decode(path, 16000)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    # An m4a that lost its end lost the table of its samples, so it is no audio any more; in a FLAC
    # the frame that was cut is what the decoders stumble over.
    expected = {"m4a": "not_audio", "flac": "corrupt"}.get(extension, "truncated")
    assert reason_of(path).reason in (expected, "truncated")


def test_damage_within_a_file(tmp_path: Path, make_call: Callable) -> None:
    """A few lost frames of an MP3 are got over; a lost stretch is not passed off as whole."""
    rng = np.random.default_rng(0)

    def damaged(extension: str, size: int) -> Path:
        path = tmp_path / f"a.{extension}"
        soundfile.write(path, make_call(30.0, 44100), 44100)
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + size] = rng.bytes(size)
        path.write_bytes(data)
        return path

    pcm, _ = decode(damaged("mp3", 200), 16000)
    assert pcm.duration_s == pytest.approx(30.0, abs=0.3)
    for extension in ("mp3", "flac"):
        assert reason_of(damaged(extension, 100_000)).reason in ("corrupt", "truncated")


def test_an_mp3_without_a_frame_count_is_as_long_as_it_is(
    tmp_path: Path, make_call: Callable
) -> None:
    """libsndfile guesses the length of such files from their size, tags included."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, make_call(5.0, 44100), 44100)
    data = path.read_bytes()
    assert b"Info" in data[:400] or b"Xing" in data[:400]
    frames = data.replace(b"Info", b"\0\0\0\0").replace(b"Xing", b"\0\0\0\0")
    tag = b"ID3\x03\x00\x00" + bytes([0, 1, 0, 0]) + bytes(1 << 14)  # a 16 KiB cover
    path.write_bytes(tag + frames)
    pcm, _ = decode(path, 16000)
    assert pcm.duration_s == pytest.approx(5.0, abs=0.15)


def test_loud_samples_saturate_and_never_wrap(tmp_path: Path) -> None:
    wav_T = 0.5 * np.sin(np.arange(16000) / 10)
    wav_T[100:200] = 1.7
    wav_T[300:400] = -1.7
    soundfile.write(tmp_path / "a.wav", wav_T, 16000, subtype="FLOAT")
    pcm, _ = decode(tmp_path / "a.wav", 16000)
    stored_T = pcm.read(0, pcm.samples)
    assert (stored_T[100:200] == 32767).all() and (stored_T[300:400] == -32768).all()
    assert pcm.saturated == 200


def test_equal_audio_has_equal_digests(tmp_path: Path, make_call: Callable) -> None:
    wav_T = (30000 * make_call(1.0, 22050)).astype(np.int16)
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / name, wav_T, 22050)
    soundfile.write(tmp_path / "c.wav", wav_T // 2, 22050)
    first, second, third = (
        decode(tmp_path / n, 16000)[0].sha1 for n in ("a.wav", "b.flac", "c.wav")
    )
    assert first == second != third


def claim_samples(path: Path, samples: int) -> None:
    """Change the sample count in a FLAC's STREAMINFO (RFC 9639 §8.2: 36 bits from bit 108 on)."""
    data = bytearray(path.read_bytes())
    assert data[:4] == b"fLaC"
    info = int.from_bytes(data[8:26], "big")
    mask = (1 << 36) - 1
    info = info & ~mask | samples
    data[8:26] = info.to_bytes(18, "big")
    path.write_bytes(data)


def peak_mb(path: Path) -> float:
    """Peak memory of a process that decodes `path`, minus that of one that only imports."""
    # ru_maxrss would start at the parent's: it is inherited over fork and exec.
    program = """
import sys
from pathlib import Path
import soundfile, soxr
from dawnchorus.data_prep.audio.decode import decode
def peak_kb():
    with open("/proc/self/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith("VmHWM"))
start = peak_kb()
try:
    decode(Path(sys.argv[1]), 16000)
except Exception as err:
    print(getattr(err, "reason", repr(err)), file=sys.stderr)
print((peak_kb() - start) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=REPO
    )
    return float(done.stdout)


def test_a_header_that_claims_2_to_the_36_samples_costs_nothing(
    tmp_path: Path, make_call: Callable
) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, make_call(1.0, 44100), 44100)
    claim_samples(path, (1 << 36) - 1)
    assert reason_of(path).reason == "truncated"
    assert probe_duration_s(path) < 3600  # a claim is bounded by what the bytes could hold
    assert peak_mb(path) < 60


def test_a_header_of_ten_megabytes_costs_little(tmp_path: Path, make_call: Callable) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, make_call(1.0, 44100), 44100)
    data = path.read_bytes()
    size = 10 << 20
    padding = bytes([1]) + size.to_bytes(3, "big") + bytes(size)  # a PADDING block, RFC 9639 §8.3
    path.write_bytes(data[:42] + padding + data[42:])
    pcm, _ = decode(path, 16000)
    assert pcm.duration_s == pytest.approx(1.0, abs=0.01)
    assert peak_mb(path) < 60


@pytest.mark.slow
def test_three_hours_need_no_more_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    rng = np.random.default_rng(0)
    minute_T = (0.1 * rng.standard_normal(8000 * 60)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as file:
        for _ in range(180):
            file.write(minute_T)
    assert probe_duration_s(path) == pytest.approx(3 * 3600)
    assert peak_mb(path) < 200
