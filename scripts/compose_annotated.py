"""Long recordings of which every sound is known: excerpts over noise, with selection tables.

    python -m scripts.compose_annotated SOUNDS OUT

SOUNDS is a folder with `metadata.csv` (columns filename and label), such as ESC-10's. Each
recording of OUT has excerpts of random files at random times over faint noise, and beside it a
Raven selection table that says where they were put. The same seed makes the same sounds and tables.

Shape legend: T samples of a recording, L samples of an excerpt.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

RATE_HZ = 16000
HEAD = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin File\tSpecies"


def excerpt(path: Path, length_s: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return up to `length_s` of a file from a random place, mono at 16 kHz, peak 0.3."""
    wav, rate = soundfile.read(path, always_2d=True)
    mono = soxr.resample(wav.mean(axis=1), rate, RATE_HZ)
    want = min(len(mono), round(length_s * RATE_HZ))
    start = int(rng.integers(0, len(mono) - want + 1))
    part_L = mono[start : start + want]
    return np.asarray(0.3 * part_L / max(1e-9, float(np.abs(part_L).max())))


def compose(sounds: Path, out: Path, *, recordings: int, seconds: float, seed: int) -> int:
    """Write the recordings and their tables; return the number of events."""
    with (sounds / "metadata.csv").open(encoding="utf-8") as file:
        files = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for number in range(recordings):
        wav_T = 0.003 * rng.standard_normal(round(seconds * RATE_HZ))
        lines = [HEAD]
        for event in range(1, int(rng.integers(3, 12)) + 1):
            name, label = files[int(rng.integers(len(files)))]
            part_L = excerpt(sounds / name, float(rng.uniform(0.1, 5.0)), rng)
            start = int(rng.integers(0, len(wav_T) - len(part_L)))
            wav_T[start : start + len(part_L)] += part_L
            begin_s, end_s = start / RATE_HZ, (start + len(part_L)) / RATE_HZ
            file_name = f"composed{number:03d}.flac"
            lines.append(f"{event}\tSpectrogram 1\t1\t{begin_s}\t{end_s}\t{file_name}\t{label}")
        total += len(lines) - 1
        soundfile.write(out / f"composed{number:03d}.flac", np.clip(wav_T, -1, 1), RATE_HZ)
        table = out / f"composed{number:03d}.Table.1.selections.txt"
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return total


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("sounds", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recordings", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = compose(
        args.sounds, args.out, recordings=args.recordings, seconds=args.seconds, seed=args.seed
    )
    print(f"{args.recordings} recordings with {found} events in {args.out}")


if __name__ == "__main__":
    main()
