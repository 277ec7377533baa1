"""Recording tables whose audio is made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import write_table

RATE_HZ = 16000
BY = "https://creativecommons.org/licenses/by/4.0/"


def chirps(seed: int, seconds: float = 5.0) -> np.ndarray:
    """A sound of its own for each seed: syllables of random pitch and time over soft noise."""
    rng = np.random.default_rng(seed)
    wav_T = 0.01 * rng.standard_normal(int(seconds * RATE_HZ))
    for _ in range(max(1, int(3 * seconds))):
        size = int(rng.uniform(0.05, 0.3) * RATE_HZ)
        start = int(rng.integers(max(1, wav_T.size - size)))
        size = min(size, wav_T.size - start)
        time_T = np.arange(size) / RATE_HZ
        pitch_hz, slope_hz = rng.uniform(800, 5000), rng.uniform(-3000, 3000)
        tone_T = np.sin(2 * np.pi * (pitch_hz + slope_hz * time_T) * time_T)
        wav_T[start : start + size] += rng.uniform(0.1, 0.4) * np.hanning(size) * tone_T
    return wav_T


def recording(n: int, **fields: object) -> Recording:
    """A recording with plain values for what is not given."""
    given: dict[str, object] = {
        "id": f"xc:{n}",
        "source": "xc",
        "source_id": str(n),
        "path": f"{n}.wav",
        "licence_url": BY,
        "recordist": f"person {n % 7}",
        "labels": (Label(("Parus major", "Turdus merula", "Bubo bubo")[n % 3], "species"),),
        "quality": "ABCDE"[n % 5],
        "duration_s": 5.0,
        "group_id": f"g{n}",
    }
    return Recording(**(given | fields))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def make_recording() -> Callable[..., Recording]:
    """`recording`, as a fixture."""
    return recording


@pytest.fixture(scope="session")
def make_chirps() -> Callable[..., np.ndarray]:
    """`chirps`, as a fixture."""
    return chirps


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Path]:
    """Write a table of recordings into a folder; return the folder."""

    def make(folder: Path, rows: list[Recording]) -> Path:
        write_table(rows, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def write_wav() -> Callable[..., Path]:
    """Write mono float samples; the format follows the name."""

    def write(path: Path, wav_T: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".wav", ".flac"):  # libsndfile scales floats for each in its own way
            wav_T = np.rint(np.clip(wav_T, -1, 0.9999) * 32768).astype(np.int16)
        soundfile.write(path, wav_T, rate_hz)
        return path

    return write
