"""A small folder of real files in several formats, with a table that describes them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `jobs=1` the test's own process decodes: no start, and it can replace parts of it."""
    monkeypatch.setattr("dawnchorus.data_prep.audio.processes.IN_THIS_PROCESS", True)


def call(seconds: float, rate_hz: int, *, pitch_hz: float = 900.0, seed: int = 0) -> np.ndarray:
    """A tone in noise, mono, peak below 0.7."""
    rng = np.random.default_rng(seed)
    time_T = np.arange(int(seconds * rate_hz)) / rate_hz
    return 0.4 * np.sin(2 * np.pi * pitch_hz * time_T) + 0.04 * rng.standard_normal(time_T.size)


def write_folder(
    root: Path, rows: Sequence[dict[str, str]], *, seconds: float = 1.0, delimiter: str = ","
) -> Path:
    """Write one recording per distinct `filename` (format by its extension) and metadata.csv."""
    for i, name in enumerate(dict.fromkeys(row["filename"] for row in rows)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rate_hz = (16000, 22050, 44100)[i % 3]
        wav = call(seconds, rate_hz, pitch_hz=500 + 40 * i, seed=i)
        with path.open("wb") as file:
            soundfile.write(file, wav, rate_hz, format=path.suffix[1:].upper())
    header = list(dict.fromkeys(key for row in rows for key in row))
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, header, delimiter=delimiter, restval="")
        table.writeheader()
        table.writerows(rows)
    return root


def simple_rows(count: int, formats: Sequence[str] = ("wav", "flac", "ogg", "mp3")) -> list[dict]:
    """`count` rows: 3 species, 4 recordists, 2 folds."""
    return [
        {
            "filename": f"audio/rec{i:03d}.{formats[i % len(formats)]}",
            "label": ("Parus major", "Turdus merula", "Bubo bubo")[i % 3],
            "recordist": f"person {i % 4}",
            "licence": ("CC BY 4.0", "CC0")[i % 2],
            "group_id": f"person {i % 4}",
            "fold": str(i % 4 // 2),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """`write_folder`, as a fixture."""
    return write_folder


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[dict]]:
    """`simple_rows`, as a fixture."""
    return simple_rows


@pytest.fixture(scope="session")
def make_call() -> Callable[..., np.ndarray]:
    """`call`, as a fixture."""
    return call


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 recordings of 1 s in four formats."""
    return write_folder(tmp_path_factory.mktemp("archive") / "birds", simple_rows(24))


@pytest.fixture(scope="session")
def dataset(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small archive, prepared."""
    from dawnchorus.data_prep.archives.own_folder import prepare_folder

    out = tmp_path_factory.mktemp("prepared") / "birds"
    prepare_folder(archive, out, jobs=1)
    return out
