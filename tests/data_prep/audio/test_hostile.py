"""Hostile and mistaken input: a clear rejection or the right samples, in bounded memory.

What readers of metadata do with theirs is tested beside them; here it is the audio opener, the
preparation as a whole; `test_garbage` has every archive command.
"""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hostile_files import (
    HOSTILE,
    RATE_HZ,
    REASONS,
    aac,
    encoded,
    id3,
    patched,
    wav_T,
)

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.audio import decode as audio
from dawnchorus.data_prep.audio import decoders
from dawnchorus.data_prep.audio import pcm as pcm_module
from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.download.sniff import audio_ending
from dawnchorus.data_prep.errors import UnusableAudio
from scripts import fuzz_inputs

REPO = Path(__file__).resolve().parents[3]


def opened(tmp_path: Path, name: str, data: bytes) -> np.ndarray:
    path = tmp_path / name
    path.write_bytes(data)
    pcm, _ = decode(path, RATE_HZ)
    with pcm:
        return pcm.read(0, pcm.samples)


def refused(tmp_path: Path, name: str, data: bytes) -> str:
    with pytest.raises(UnusableAudio) as caught:
        opened(tmp_path, name, data)
    return caught.value.reason


EXACT = np.rint(wav_T() * 32767).astype(np.int16)  # as libsndfile writes floats into 16 bit


@pytest.mark.parametrize(
    ("name", "kind", "subtype", "tolerance"),
    [
        ("flac.wav", "FLAC", "PCM_16", 1),
        ("wav.mp3", "WAV", "PCM_16", 1),
        ("rifx.wav", "RIFX", "PCM_16", 1),
        ("rf64.wav", "RF64", "PCM_16", 1),
        ("w64.wav", "W64", "PCM_16", 1),
        ("24 bit.wav", "WAV", "PCM_24", 1),
        ("32 bit.wav", "WAVEX", "PCM_32", 1),
        ("float.wav", "WAV", "FLOAT", 1),
        ("double.wav", "WAV", "DOUBLE", 1),
        ("8 bit.wav", "WAV", "PCM_U8", 300),
        ("a-law.wav", "WAV", "ALAW", 700),
        ("mu-law.wav", "WAV", "ULAW", 700),
        ("adpcm.wav", "WAV", "IMA_ADPCM", 13000),
        ("aiff.flac", "AIFF", "PCM_16", 1),
        ("caf.ogg", "CAF", "PCM_16", 1),
        ("au", "AU", "PCM_16", 1),
    ],
)
def test_the_content_decides(
    tmp_path: Path, name: str, kind: str, subtype: str, tolerance: int
) -> None:
    found = opened(tmp_path, name, encoded(kind, subtype))
    assert abs(len(found) - len(EXACT)) <= (1100 if "ADPCM" in subtype else 0)
    worst = np.abs(found[: len(EXACT)].astype(int) - EXACT[: len(found)]).max()
    assert worst <= tolerance


@pytest.mark.parametrize("name", ["mp3.wav", "ogg.flac", "opus.wav", "m4a.mp3", "id3.wav"])
def test_lossy_content_under_any_name(tmp_path: Path, name: str) -> None:
    mp3 = encoded("MP3")
    data = {
        "mp3.wav": mp3, "id3.wav": id3(20_000_000) + mp3, "m4a.mp3": aac(),
        "ogg.flac": encoded("OGG", "VORBIS"), "opus.wav": encoded("OGG", "OPUS"),
    }[name]  # fmt: skip
    found = opened(tmp_path, name, data)
    assert abs(len(found) - RATE_HZ) < 0.2 * RATE_HZ
    # Delayed by the encoder, but the same sound: the tone stands out at 900 Hz.
    spectrum = np.abs(np.fft.rfft(found[2000:14000].astype(float)))
    assert abs(int(spectrum.argmax()) * RATE_HZ / 12000 - 900) < 3
    if name == "id3.wav":
        np.testing.assert_array_equal(found, opened(tmp_path, "plain.mp3", mp3))


def test_wav_headers_that_do_not_know_the_length(tmp_path: Path) -> None:
    """What pipes and recorders leave behind that were cut off: the samples are all there."""
    plain = encoded("WAV", "PCM_16")
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000):
        claims = struct.pack("<I", size)
        data = patched(patched(plain, 4, claims), 40, claims)
        np.testing.assert_allclose(opened(tmp_path, f"{size:x}.wav", data), EXACT, atol=1)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_whole_or_refused(tmp_path: Path, subtype: str) -> None:
    """libsndfile reads the first link and says nothing of the others."""
    one = encoded("OGG", subtype)
    found = opened(tmp_path, "chained.ogg", one + resigned(one, 14, b"\x01\x02\x03\x04"))
    assert abs(len(found) - 2 * RATE_HZ) < 0.05 * RATE_HZ
    # Two files laid end to end share a serial number, which no stream may.
    try:
        assert len(opened(tmp_path, "cat.ogg", one + one)) > 1.9 * RATE_HZ
    except UnusableAudio as err:
        assert err.reason == "truncated"


def resigned(data: bytes, at: int, serial: bytes) -> bytes:
    """Give every page of an Ogg file a serial number, and a checksum that fits."""
    from scripts.fuzz_inputs import sign_ogg

    body = bytearray(data)
    page = 0
    while page >= 0:
        body[page + at : page + at + 4] = serial
        page = body.find(b"OggS", page + 4)
    sign_ogg(body)
    return bytes(body)


def test_ogg_pages_out_of_order_are_never_libsndfiles(tmp_path: Path) -> None:
    """It reads such a page for ever: hence a process of its own (found by fuzzing)."""
    from scripts.fuzz_inputs import sign_ogg

    folder = tmp_path / "files"
    folder.mkdir()
    data = encoded("OGG", "OPUS", np.tile(wav_T(), 3))
    page = data.find(b"OggS", data.find(b"OggS", 50) + 4)
    for position in (-1, -5, -(1 << 62), (1 << 63) - 1):
        body = bytearray(data)
        body[page + 6 : page + 14] = (position % (1 << 64)).to_bytes(8, "little")
        sign_ogg(body)
        (folder / f"{position}.ogg").write_bytes(body)
    (folder / "between.ogg").write_bytes(data[:page] + b"#" + data[page:])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], env=os.environ | {"PYTHONPATH": str(REPO)},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = refused(tmp_path, name, HOSTILE[name]())
    assert reason == REASONS.get(name, reason)
    assert capfd.readouterr().out == ""  # results go there, nothing else
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    for name in ("pipe.wav", "folder.wav", "loop.wav", "absent.wav"):
        with pytest.raises(UnusableAudio) as caught:
            decode(tmp_path / name, RATE_HZ)
        assert caught.value.reason == "missing"


@pytest.mark.parametrize("channels", [6, 8, 16, 64])
def test_many_channels_through_ffmpeg(tmp_path: Path, channels: int) -> None:
    """Eight planes and more crashed the process: hence one of its own (found by fuzzing)."""
    wav_TC = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wav_TC, RATE_HZ, "FLOAT")
    np.save(tmp_path / "a.npy", wav_TC)
    code = """
import numpy as np, sys
from contextlib import ExitStack
from pathlib import Path
from dawnchorus.data_prep.audio.decoders import open_ffmpeg
with ExitStack() as stack:
    found_TC = np.concatenate(list(open_ffmpeg(Path("a.wav"), stack).blocks))
np.testing.assert_array_equal(found_TC, np.load("a.npy"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_slow_rates_do_not_swell_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 Hz to 16 kHz is 160 samples for one; no block may grow with it."""
    monkeypatch.setattr(audio, "BLOCK_VALUES", 1 << 14)
    monkeypatch.setattr(decoders, "BLOCK_VALUES", 1 << 14)
    slow_T = 0.4 * np.sin(np.arange(20_000))
    soundfile.write(tmp_path / "slow.wav", slow_T, 100)
    sizes: list[int] = []
    append = pcm_module.Pcm.append

    def count(self: pcm_module.Pcm, block_T: np.ndarray) -> None:
        sizes.append(len(block_T))
        append(self, block_T)

    monkeypatch.setattr(pcm_module.Pcm, "append", count)
    pcm, _ = decode(tmp_path / "slow.wav", RATE_HZ)
    with pcm:
        assert pcm.samples == sum(sizes) == 200 * RATE_HZ
    assert max(sizes) < 1 << 18  # 160 << 14 if the block went through in one piece


MEASURE = """
import sys
from pathlib import Path
from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.download.sniff import audio_ending
from dawnchorus.data_prep.errors import UnusableAudio

def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

files = sorted(Path(sys.argv[1]).iterdir())
def run(path):
    try:
        decode(path, 16000)[0].close()
    except UnusableAudio:
        pass
for path in files[:2]:
    run(path)
before = peak_mb()
for path in files:
    run(path)
print(peak_mb() - before)
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """All of them and some large ones in one child, whose peak is measured."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "0 good.wav").write_bytes(encoded("WAV"))
    (folder / "0 good.m4a").write_bytes(aac())
    for name, make in HOSTILE.items():
        (folder / name).write_bytes(make())
    (folder / "text.mp3").write_bytes(b"a" * 100_000_000)
    (folder / "tag.mp3").write_bytes(id3(100_000_000) + encoded("MP3"))
    (folder / "chunk.wav").write_bytes(
        encoded("WAV")[:36] + b"LIST" + struct.pack("<I", 100_000_000) + bytes(100_000_000)
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], env=os.environ | {"PYTHONPATH": str(REPO)},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    # FFmpeg's MP3 demuxer takes 195 MB for the text alone: it keeps all that is no frame.
    assert float(done.stdout) < 220
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_a_folder_of_hostile_files_becomes_a_dataset(tmp_path: Path) -> None:
    """Each is named with its reason, the good ones are in, and nothing lies anywhere else."""
    root = tmp_path / "in"
    (root / "audio").mkdir(parents=True)
    good = {f"good {i}.wav": encoded("WAV", wav=wav_T(0.5 + i / 10)) for i in range(3)}
    for name, data in (good | {name: make() for name, make in HOSTILE.items()}).items():
        (root / "audio" / name).write_bytes(data)
    with (root / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "label"])
        table.writerows([f"audio/{name}", "Parus major"] for name in good | HOSTILE)
    before = set(tmp_path.rglob("*"))
    stats = prepare_folder(root, tmp_path / "out", allow_broken=True, jobs=1)
    assert stats["recordings"] == len(good) and stats["rejected"] == len(HOSTILE)
    new = {path for path in tmp_path.rglob("*") if path not in before}
    assert new and all(path.is_relative_to(tmp_path / "out") for path in new)
    assert not Path("/tmp/outside_too.txt").exists()


RAISED = (
    OverflowError("Python int too large to convert to C long"), MemoryError(), RecursionError("x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ValueError("x"), TypeError(),
    ZeroDivisionError("Fraction(1, 0)"), av.error.PatchWelcomeError(1, "x"),
    av.error.BugError(1, "x"), av.error.EOFError(1, "x"), av.error.LookupError(1, "x"),
)  # fmt: skip


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["open", "resample"])
def test_whatever_a_decoder_raises_rejects_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def raises(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "a.m4a").write_bytes(aac())
    adts = dict(fuzz_inputs.seeds())["adts-aac"]  # no signature: a download must open it
    (tmp_path / "b.aac").write_bytes(adts)
    if where == "open":
        monkeypatch.setattr(av, "open", raises)
    else:
        monkeypatch.setattr(av, "AudioResampler", raises)
    with pytest.raises(UnusableAudio) as caught:
        decode(tmp_path / "a.m4a", RATE_HZ)
    assert caught.value.reason == ("not_audio" if where == "open" else "corrupt")
    assert audio_ending(tmp_path / "b.aac")[0] == ("" if where == "open" else "aac")


def test_a_folder_goes_on_without_what_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards, fingerprints and the check of a dataset: the file's name, and no trace."""
    from dawnchorus.data_prep.dataset.verify import verify_dataset
    from dawnchorus.data_prep.select.sound import Audio, take_prints
    from dawnchorus.trainer.progress import Progress

    def raises(*_: object, **__: object) -> None:
        raise OverflowError("too large")

    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / "in" / f"{k}.wav").write_bytes(encoded("WAV", wav=wav_T(0.5 + k / 10)))
    (tmp_path / "in" / "bad.m4a").write_bytes(aac())
    (tmp_path / "in" / "metadata.csv").write_text(
        "filename,label\n0.wav,x\n1.wav,x\n2.wav,y\nbad.m4a,y\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(av, "open", raises)
        stats = prepare_folder(tmp_path / "in", tmp_path / "out", allow_broken=True, jobs=1)
        assert stats["recordings"] == 3
        audios = [Audio(str(path)) for path in sorted((tmp_path / "in").glob("*.[mw]*"))]
        prints = take_prints(audios, tmp_path / "cache", max_s=60, jobs=1, progress=Progress())
        assert prints.reason_R == ["", "", "", "not_audio"]
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["path"] for row in rejected] == ["bad.m4a"]
    assert "OverflowError: too large" in rejected[0]["detail"]
    monkeypatch.setattr(soundfile, "SoundFile", raises)
    problems = verify_dataset(tmp_path / "out", jobs=1).problems
    assert len(problems) == 3 and all("OverflowError: too large" in p.what for p in problems)


def test_a_full_disk_is_no_fault_of_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("WAV"))
    monkeypatch.setattr(pcm_module, "SPOOL_BYTES", 10)
    full = Path("/dev/full").open("wb", 0)  # noqa: SIM115 (closed by `decode`)
    monkeypatch.setattr(pcm_module.tempfile, "SpooledTemporaryFile", lambda **_: full)
    with pytest.raises(OSError, match="No space left"):
        decode(tmp_path / "a.wav", RATE_HZ)
