"""Long silence: what is cut, what is not, and that the clips still say where they are from."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.audio.trim import sounding

RATE = 16000


@dataclass
class Wave:
    wav_T: np.ndarray
    sample_rate_hz: int = RATE

    @property
    def samples(self) -> int:
        return len(self.wav_T)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.wav_T[start:stop]


def recording(*parts: tuple[float, float], offset: int = 0) -> np.ndarray:
    """Noise in stretches of (seconds, standard deviation)."""
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(round(RATE * s)) * level for s, level in parts]
    return (np.concatenate(noise) + offset).round().astype(np.int16)


def seconds(stretches: list[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(a / RATE, b / RATE) for a, b in stretches]


def test_long_silence_is_cut_with_a_margin_beside_sound() -> None:
    wave = Wave(recording((2, 3000), (10, 0.6), (3, 3000)))
    assert sounding(wave, 0.0, 60.0) == [(0, wave.samples)]
    assert seconds(sounding(wave, 5.0, 60.0)) == [(0, 2.25), (11.75, 15)]
    assert sounding(wave, 10.5, 60.0) == [(0, wave.samples)]  # not long enough


def test_silence_at_the_ends_needs_no_margin_outside() -> None:
    wave = Wave(recording((4, 0), (1, 3000), (4.03, 0)))
    assert seconds(sounding(wave, 3.0, 60.0)) == [(3.75, 5.25)]


def test_quiet_is_not_silence() -> None:
    """What is less than 60 dB below the loudest stays, and an offset is no sound."""
    wave = Wave(recording((1, 3000), (10, 6), (1, 3000)))
    assert sounding(wave, 2.0, 60.0) == [(0, wave.samples)]
    assert len(sounding(wave, 2.0, 50.0)) == 2
    shifted = Wave(recording((1, 3000), (10, 0.6), (1, 3000), offset=900))
    assert len(sounding(shifted, 2.0, 60.0)) == 2


@pytest.mark.parametrize("length", [1, 700, 1600, 1601, 96_000, 1_000_001])
def test_a_recording_without_silence_stays_whole_whatever_its_length(length: int) -> None:
    wave = Wave(np.random.default_rng(0).integers(-9, 9, length).astype(np.int16))
    assert sounding(wave, 1.0, 20.0) == [(0, length)]


@pytest.fixture
def quiet_middle(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with one recording of 2 s sound, 8 s near-silence, 3 s sound, and one of noise."""
    wav_T = recording((2, 3000), (8, 0.6), (3, 3000))
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "x.wav", wav_T, RATE)
    soundfile.write(tmp_path / "a" / "y.wav", recording((4, 1000)), RATE)
    (tmp_path / "a" / "metadata.csv").write_text("filename\nx.wav\ny.wav\n")
    return tmp_path / "a", wav_T


def clips_of(dataset: Path, recording_id: str) -> list[dict[str, Any]]:
    rows = pq.read_table(dataset / "index.parquet").to_pylist()
    chosen = [row for row in rows if row["recording_id"] == recording_id]
    for row in chosen:
        with (dataset / row["shard"]).open("rb") as file:
            data = os.pread(file.fileno(), row["size"], row["offset"])
            row["wav"] = soundfile.read(io.BytesIO(data), dtype="int16")[0]
            after = row["offset"] + -(-row["size"] // 512) * 512 + 512
            text = os.pread(file.fileno(), 8192, after).split(b"\0")[0]
            row["record"] = json.loads(text)
    return sorted(chosen, key=lambda row: row["start_s"])


def test_clips_of_a_trimmed_recording_keep_their_place(
    quiet_middle: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    root, wav_T = quiet_middle
    stats = prepare_folder(root, tmp_path / "out", jobs=1, trim_silence_s=5, max_piece_s=2)
    assert stats["trimmed_hours"] == pytest.approx(7.5 / 3600)
    assert stats["trimmed_recordings"] == 1
    assert stats["hours"] == pytest.approx((13 - 7.5 + 4) / 3600)
    rows = pq.read_table(tmp_path / "out" / "recordings.parquet").to_pylist()
    assert [row["trimmed_s"] for row in rows] == [7.5, 0]
    clips = clips_of(tmp_path / "out", "a:x.wav")
    assert [clip["start_s"] for clip in clips] == [0, 1.125, 9.75, 11.375]
    for number, clip in enumerate(clips):
        start = round(clip["start_s"] * RATE)
        np.testing.assert_array_equal(clip["wav"], wav_T[start : start + clip["samples"]])
        assert clip["record"]["start_s"] == clip["start_s"]
        assert (clip["record"]["piece"], clip["record"]["pieces"]) == (number, 4)


def test_levels_are_touched_only_when_asked(
    quiet_middle: tuple[Path, np.ndarray], tmp_path: Path, make_call: Callable
) -> None:
    root, wav_T = quiet_middle
    prepare_folder(root, tmp_path / "as_is", jobs=1)
    (clip,) = clips_of(tmp_path / "as_is", "a:x.wav")
    np.testing.assert_array_equal(clip["wav"], wav_T)
    prepare_folder(root, tmp_path / "louder", jobs=1, peak_dbfs=-1.0)
    (clip,) = clips_of(tmp_path / "louder", "a:x.wav")
    gain = 32768 * 10 ** (-1 / 20) / np.abs(wav_T.astype(int)).max()
    assert np.abs(clip["wav"] - gain * wav_T).max() <= 1
    rows = pq.read_table(tmp_path / "louder" / "recordings.parquet").to_pylist()
    assert rows[0]["gain_db"] == pytest.approx(20 * np.log10(gain), abs=1e-3)
