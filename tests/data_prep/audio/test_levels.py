"""What conversion does to the level of a sound: measured, told, refused where nothing is left."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import soundfile

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.audio import decoders
from dawnchorus.data_prep.audio import pcm as pcm_module
from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.dataset.verify import verify_dataset
from dawnchorus.data_prep.errors import PrepError

RATE = 16000


def tone(hz: float, rate_hz: int = RATE, seconds: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)


def chord(rate_hz: int = RATE) -> np.ndarray:
    wave_T = 0.6 * tone(1000, rate_hz) + 0.4 * tone(2500, rate_hz)
    return wave_T / np.abs(wave_T).max()


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(2 * RATE)


# name: samples, rate, encoding, reason (None: kept), words of the explanation
CASES: dict[str, tuple[np.ndarray, int, str, str | None, tuple[str, ...]]] = {
    "bat.wav": (
        0.5 * tone(45000, 384000) + 1e-6 * tone(4000, 384000), 384000, "FLOAT", "lost",
        ("around 45 kHz", "--sample-rate-hz 192000"),
    ),
    "antiphase.wav": (
        np.stack([0.4 * chord(), 1e-3 * noise() - 0.4 * chord()], axis=1), RATE, "PCM_16", "lost",
        ("opposite phase", "--channels first"),
    ),
    "exact.wav": (
        np.stack([0.4 * chord(), -0.4 * chord()], axis=1), RATE, "FLOAT", "lost",
        ("--channels first",),
    ),
    "one step.wav": (np.sign(noise()) / 32768, RATE, "PCM_16", "faint", ("-90.3 dBFS",)),
    "on an offset.wav": (
        0.2 + np.sign(noise(1)) / 32768, RATE, "PCM_16", "faint", ("--min-peak-dbfs",)
    ),
    "weak float.wav": (1e-5 * chord(), RATE, "FLOAT", "faint", ("--peak-dbfs -1",)),
    "zeros.wav": (np.zeros(RATE), RATE, "PCM_16", "silent", ("all samples are zero",)),
    "partly.wav": (0.5 * tone(20000, 48000) + 0.02 * tone(2000, 48000), 48000, "PCM_16", None, ()),
    "stereo.wav": (np.stack([0.1 * noise(2), 0.1 * noise(3)], axis=1), RATE, "PCM_16", None, ()),
    "left only.wav": (np.stack([0.1 * noise(4), 0 * noise(4)], axis=1), RATE, "PCM_16", None, ()),
    "offset.wav": (0.4 + 0.1 * chord(), RATE, "PCM_16", None, ()),
}  # fmt: skip


def write(root: Path, sounds: dict[str, tuple[np.ndarray, int, str]]) -> Path:
    root.mkdir()
    for name, (wav, rate_hz, subtype) in sounds.items():
        soundfile.write(root / name, wav, rate_hz, subtype=subtype)
    rows = "".join(f"{name},x\n" for name in sounds)
    (root / "metadata.csv").write_text("filename,label\n" + rows)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("levels") / "in"
    return write(root, {name: case[:3] for name, case in CASES.items()})


def rows_of(dataset: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(dataset / name).to_pylist()}


def test_what_is_lost_is_measured_told_and_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = prepare_folder(folder, tmp_path / "out", allow_broken=True, jobs=1)
    rejected = rows_of(tmp_path / "out", "rejected.parquet")
    assert {name: row["reason"] for name, row in rejected.items()} == {
        name: case[3] for name, case in CASES.items() if case[3]
    }
    for name, case in CASES.items():
        for words in case[4]:
            assert words in rejected[name]["detail"], rejected[name]
    kept = rows_of(tmp_path / "out", "recordings.parquet")
    # 0.5 of 0.5 + 0.02: 20 lg of the ratio of their root mean squares.
    lost_db = 10 * np.log10((0.5**2 + 0.02**2) / 0.02**2)
    assert kept["partly.wav"]["resample_lost_db"] == pytest.approx(lost_db, abs=0.1)
    assert kept["partly.wav"]["level_dbfs"] == pytest.approx(20 * np.log10(0.02 / 2**0.5), abs=0.1)
    assert kept["stereo.wav"]["mix_lost_db"] == pytest.approx(3, abs=0.1)
    assert kept["left only.wav"]["mix_lost_db"] == pytest.approx(3, abs=0.1)
    assert kept["offset.wav"]["peak_dbfs"] == pytest.approx(-20, abs=0.1)
    assert kept["offset.wav"]["mix_lost_db"] == kept["offset.wav"]["resample_lost_db"] == 0
    assert stats["weaker_recordings"] == 1
    said = capsys.readouterr().err
    assert "weaker: partly.wav: at 16,000 Hz it has 28 dB less" in said
    assert "--sample-rate-hz 48000 keeps it" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1\n  kept, 3 left out" in card and "too faint: 3" in card
    assert verify_dataset(tmp_path / "out", jobs=1).count == 0


def test_the_options_that_are_named_keep_it(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    prepare_folder(folder, first, allow_broken=True, jobs=1, channels="first", min_peak_dbfs=-95)
    kept = rows_of(first, "recordings.parquet")
    for name in ("antiphase.wav", "exact.wav"):
        assert abs(kept[name]["mix_lost_db"]) < 0.1
        assert kept[name]["level_dbfs"] == pytest.approx(kept["exact.wav"]["level_dbfs"], abs=0.1)
    assert "one step.wav" in kept
    assert verify_dataset(first, jobs=1).count == 0  # also of what 16 bit hold in two steps
    fast = tmp_path / "fast"
    prepare_folder(folder, fast, allow_broken=True, jobs=1, sample_rate_hz=192000)
    bat = rows_of(fast, "recordings.parquet")["bat.wav"]
    assert bat["resample_lost_db"] < 0.5
    with pytest.raises(PrepError, match="channels must be one of"):
        prepare_folder(folder, tmp_path / "x", channels="second")


QUIET = {
    "m100.wav": (1e-5, "FLOAT"), "m80.flac": (1e-4, "PCM_24"), "m60.wav": (1e-3, "FLOAT"),
    "m20.wav": (0.1, "FLOAT"), "over.wav": (1.05, "FLOAT"),
}  # fmt: skip


def test_a_gain_comes_before_the_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "BLOCK_VALUES", 5000)
    monkeypatch.setattr(pcm_module, "SPOOL_BYTES", 10_000)  # through a file, block by block
    sounds = {name: (peak * chord(), RATE, kind) for name, (peak, kind) in QUIET.items()}
    sounds["coarse.wav"] = (np.sign(noise()) / 32768, RATE, "PCM_16")
    root = write(tmp_path / "in", sounds)
    out = tmp_path / "out"
    prepare_folder(root, out, allow_broken=True, jobs=1, peak_dbfs=-1, trim_silence_s=1)
    assert list(rows_of(out, "rejected.parquet")) == ["coarse.wav"]  # its steps would be amplified
    rows = rows_of(out, "recordings.parquet")
    assert len({row["pcm_sha1"] for row in rows.values()}) == len(rows)
    index = pl.read_parquet(out / "index.parquet")
    for clip in index.iter_rows(named=True):
        with (out / clip["shard"]).open("rb") as tar:
            data = os.pread(tar.fileno(), clip["size"], clip["offset"])
        found_T, _ = soundfile.read(io.BytesIO(data))
        gain = np.dot(found_T, chord()) / np.dot(chord(), chord())
        snr_db = 10 * np.log10(np.var(gain * chord()) / np.var(found_T - gain * chord()))
        assert snr_db > 60, clip["key"]
        assert np.abs(found_T).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    assert verify_dataset(out, jobs=1).count == 0


def test_what_has_its_peak_there_already_stays_as_it_is(tmp_path: Path) -> None:
    wav_T = chord() * 10 ** (-1 / 20)
    root = write(tmp_path / "in", {"a.wav": (wav_T, RATE, "PCM_16")})
    prepare_folder(root, tmp_path / "out", jobs=1, peak_dbfs=-1)
    row = rows_of(tmp_path / "out", "recordings.parquet")["a.wav"]
    assert row["gain_db"] == 0
    assert verify_dataset(tmp_path / "out", jobs=1).count == 0


def test_short_sounds_are_kept_and_too_short_is_no_breakage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = {"5 ms.wav": 0.005, "20 ms.wav": 0.02, "50 ms.wav": 0.05, "1 s.wav": 1.0}
    sounds = {
        name: (0.4 * tone(3000, RATE, seconds), RATE, "PCM_16") for name, seconds in lengths.items()
    }
    root = write(tmp_path / "in", sounds)
    stats = prepare_folder(root, tmp_path / "out", jobs=1, max_broken=0)
    assert stats["rejected_reasons"] == {"too_short": 1} and stats["recordings"] == 3
    assert "1 left out (1 of them too short)" in capsys.readouterr().err
    (reject,) = rows_of(tmp_path / "out", "rejected.parquet").values()
    assert reject["path"] == "5 ms.wav" and "--min-s 0.01" in reject["detail"]
    stats = prepare_folder(root, tmp_path / "all", jobs=1, max_broken=0, min_s=0)
    assert stats["recordings"] == 4 and stats["rejected"] == 0
    (root / "bad.wav").write_bytes(b"no sound")
    with (root / "metadata.csv").open("a") as table:
        table.write("bad.wav,x\n")
    with pytest.raises(PrepError, match=r"1 of 5 recordings are unusable"):
        prepare_folder(root, tmp_path / "broken", jobs=1, max_broken=0)


def test_levels_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_call: Callable
) -> None:
    wav_T = make_call(3.0, 44100)
    soundfile.write(tmp_path / "a.wav", np.stack([wav_T, 0.3 * wav_T + 0.1], axis=1), 44100)
    whole = decode(tmp_path / "a.wav", RATE)[1].levels
    monkeypatch.setattr(decoders, "BLOCK_VALUES", 777)
    parts = decode(tmp_path / "a.wav", RATE)[1].levels
    for name in ("level_dbfs", "peak_dbfs", "mix_lost_db", "resample_lost_db"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=0.01)
    assert parts.middle_hz == pytest.approx(whole.middle_hz, rel=0.02)
