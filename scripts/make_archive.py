"""Synthesise a small sound archive: a dozen "species", several recordists, metadata.csv.

    python -m scripts.make_archive OUT --seed 0

Species of a genus have the same notes in the same band and differ in their order in time alone:
what rises in one falls in the other. Individuals vary in pitch, tempo and level, recordists in
microphone, place and file format, and folds are made of whole recordists. So level, tone and place
say nothing of the species, and spectra averaged over time tell the genus at most.

Shape suffixes: T samples, C channels, F frequency bins. Levels are relative to full scale.
"""

from __future__ import annotations

import argparse
import csv
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from scripts.synthetic_calls import SPECIES, FloatArray, Voice, Wave, band_noise, shape

FOLDS = 5
RECORDISTS_PER_FOLD = 3
PER_SPECIES = 22
SHORTEST_S, LONGEST_S = 3.0, 90.0
RATES_HZ = (16000, 22050, 32000, 44100, 48000)
FORMATS = ("wav", "flac", "mp3", "ogg")
LICENCES = (
    "https://creativecommons.org/licenses/by/4.0/",
    "https://creativecommons.org/licenses/by-nc/4.0/",
    "https://creativecommons.org/licenses/by-sa/4.0/",
    "https://creativecommons.org/publicdomain/zero/1.0/",
)
NAMES = (
    "Ada Moreau", "Bo Lindqvist", "Chiara Conti", "Dmitri Orlov", "Eluned Pryce", "Femi Adeyemi",
    "Greta Holm", "Hana Suzuki", "Ivo Novák", "José Marín", "Keira Walsh", "Lars Østby",
    "Mei Tanaka", "Nuno Serra", "Olga Petrova",
)  # fmt: skip


@dataclass(frozen=True)
class Recordist:
    """A recordist with a place and equipment, which make their recordings sound alike."""

    name: str
    fold: int
    rate_hz: int
    format: str
    licence: str
    background: str
    gain_db: float
    tilt_db: float
    low_cut_hz: float
    peak_hz: float
    peak_db: float
    noise_db: float
    favourites: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One recording to make; without a species it has only the sound of the place."""

    number: int
    species: str
    background: str
    recordist: Recordist
    duration_s: float
    stereo: bool
    when: str

    @property
    def filename(self) -> str:
        """Path within the archive."""
        folder = "audio" if self.species else "noise/audio"
        return f"{folder}/{self.number:04d}.{self.recordist.format}"


# --- places ------------------------------------------------------------------------------------


def slow(samples: int, seconds: float, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Random level in [0, 1] that takes about `seconds` to change."""
    knots = max(int(samples / rate_hz / seconds) + 2, 2)
    at_T = np.linspace(0, knots - 1, samples)
    return np.interp(at_T, np.arange(knots), rng.random(knots)).astype(np.float32)


def background(kind: str, samples: int, rng: np.random.Generator, rate_hz: int) -> Wave:
    """One of the five places, standard deviation 1."""
    time_T = np.arange(samples) / rate_hz
    if kind == "wind":
        wav_T = band_noise(samples, 30, 350, rng, rate_hz) * (
            0.3 + slow(samples, 1.5, rng, rate_hz) ** 2
        )
    elif kind == "rain":
        wav_T = 0.5 * band_noise(samples, 1500, 7000, rng, rate_hz)
        drops = rng.integers(0, samples, int(40 * samples / rate_hz))
        wav_T[drops] += rng.exponential(4.0, len(drops)).astype(np.float32)
    elif kind == "hum":
        wav_T = band_noise(samples, 100, 6000, rng, rate_hz) * np.float32(0.4)
        for k in (1, 2, 3, 5, 7):
            wav_T += (np.sin(2 * np.pi * 50 * k * time_T + k) / k).astype(np.float32)
    elif kind == "stream":
        wav_T = band_noise(samples, 400, 3000, rng, rate_hz)
        bubbles_T = band_noise(samples, 900, 1600, rng, rate_hz)
        wav_T += bubbles_T * slow(samples, 0.08, rng, rate_hz) ** 3
    else:  # distant traffic
        wav_T = band_noise(samples, 60, 700, rng, rate_hz) * (
            0.2 + slow(samples, 6.0, rng, rate_hz)
        )
    wav_T += 0.08 * rng.standard_normal(samples, dtype=np.float32)
    wav_T /= np.float32(wav_T.std())
    return wav_T


PLACES = ("wind", "rain", "hum", "stream", "traffic")


def sing(
    species: str, samples: int, rng: np.random.Generator, rate_hz: int, *, rest_s: float
) -> Wave:
    """One individual that sings through the recording with rests of about `rest_s`."""
    voice = Voice(
        pitch=float(np.exp(rng.normal(0, 0.08))),
        tempo=float(np.exp(rng.normal(0, 0.10))),
        tilt=float(rng.uniform(0.6, 1.6)),
    )
    wav_T = np.zeros(samples, np.float32)
    at = int(rng.uniform(0, 0.6) * rate_hz)
    while at < samples:
        song_T = SPECIES[species](voice, rng, rate_hz) * np.float32(rng.uniform(0.6, 1.0))
        part_T = song_T[: samples - at]
        wav_T[at : at + len(part_T)] += part_T
        at += len(song_T) + int(rng.uniform(0.4, 1.6) * rest_s * rate_hz)
    return wav_T


def microphone(wav_T: Wave, who: Recordist, rate_hz: int) -> Wave:
    """Apply the response of the recordist's microphone and recorder."""

    def gain(freq_F: FloatArray) -> FloatArray:
        octaves_F = np.log2(freq_F / 2000.0)
        peak_F = who.peak_db * np.exp(-0.5 * (np.log2(freq_F / who.peak_hz) / 0.4) ** 2)
        level_F: FloatArray = 10 ** ((who.tilt_db * octaves_F.clip(-4, 3) + peak_F) / 20)
        return level_F / (1 + (who.low_cut_hz / freq_F) ** 4)

    return shape(wav_T, gain, rate_hz)


def amplitude(level_db: float) -> np.float32:
    """Factor for a level in decibels."""
    return np.float32(10 ** (level_db / 20))


def record(row: Row, seed: int) -> NDArray[np.float32]:
    """Make the samples of one recording, [T, C]; they depend only on the row and the seed."""
    rng = np.random.default_rng([seed, 1, row.number])
    who, rate_hz = row.recordist, row.recordist.rate_hz
    samples = int(row.duration_s * rate_hz)
    bird_T = np.zeros(samples, np.float32)
    if row.species:
        level_db = rng.uniform(-8, 3)
        bird_T += sing(row.species, samples, rng, rate_hz, rest_s=1.2) * amplitude(level_db)
    if row.background:
        level_db = rng.uniform(-24, -16)
        bird_T += sing(row.background, samples, rng, rate_hz, rest_s=5.0) * amplitude(level_db)
    kind = who.background if rng.random() < 0.6 else str(rng.choice(PLACES))
    noise_T = background(kind, samples, rng, rate_hz)
    noise_db = who.noise_db + rng.uniform(-3, 3)
    wav_T = microphone(bird_T + noise_T * amplitude(noise_db), who, rate_hz)
    wav_T *= amplitude(who.gain_db)
    peak = float(np.abs(wav_T).max())
    if peak > 0.9:
        wav_T *= np.float32(0.9 / peak)
    if not row.stereo:
        return wav_T[:, None]
    # The bird stands to one side; the hiss of the two channels is not the same.
    side = rng.uniform(0.4, 0.9)
    hiss_TC = 1e-3 * rng.standard_normal((samples, 2), dtype=np.float32)
    both_TC = np.stack([wav_T, wav_T * np.float32(side)], axis=1) + hiss_TC
    stereo_TC: NDArray[np.float32] = both_TC.astype(np.float32)
    return stereo_TC


# --- archive -----------------------------------------------------------------------------------


def recordists(rng: np.random.Generator) -> list[Recordist]:
    """Fifteen recordists, three to a fold; every format, rate and place occurs."""
    people = []
    for i, name in enumerate(NAMES[: FOLDS * RECORDISTS_PER_FOLD]):
        people.append(
            Recordist(
                name=name,
                fold=i % FOLDS,
                rate_hz=RATES_HZ[int(rng.integers(5)) if i >= 5 else i],
                format=FORMATS[i % 4],
                licence=LICENCES[int(rng.integers(len(LICENCES)))],
                background=PLACES[(i + i // FOLDS) % 5],
                gain_db=float(rng.uniform(-12, -6)),
                tilt_db=float(rng.uniform(-1, 0.8)),
                low_cut_hz=float(rng.choice([40.0, 80.0, 150.0, 300.0])),
                peak_hz=float(rng.uniform(1500, 6000)),
                peak_db=float(rng.uniform(-2, 2.5)),
                noise_db=float(rng.uniform(-31, -25)),
                favourites=tuple(float(p) for p in rng.dirichlet(np.full(len(SPECIES), 1.5))),
            )
        )
    return people


def plan(seed: int, per_species: int) -> list[Row]:
    """Decide every recording: species and folds are balanced, recordists favour some species."""
    rng = np.random.default_rng([seed, 0])
    people = recordists(rng)
    names = list(SPECIES)
    drafts = [
        (species, (i + s) % FOLDS) for s, species in enumerate(names) for i in range(per_species)
    ]
    rows = []
    for number, d in enumerate(rng.permutation(len(drafts))):
        species, fold = drafts[d]
        here = [who for who in people if who.fold == fold]
        liking = np.array([who.favourites[names.index(species)] + 0.02 for who in here])
        who = here[int(rng.choice(len(here), p=liking / liking.sum()))]
        others = [name for name in names if name != species]
        when = datetime(2024, 4, 1, 4) + timedelta(
            days=int(rng.integers(90)), minutes=int(rng.integers(300))
        )
        rows.append(
            Row(
                number=number,
                species=species,
                background=str(rng.choice(others)) if rng.random() < 0.25 else "",
                recordist=who,
                duration_s=SHORTEST_S * (LONGEST_S / SHORTEST_S) ** float(rng.random() ** 1.4),
                stereo=bool(rng.random() < 0.25),
                when=when.isoformat(),
            )
        )
    return rows


def write(row: Row, seed: int, out: Path) -> float:
    """Make and write one recording; return its seconds."""
    wav_TC = record(row, seed)
    rate_hz = row.recordist.rate_hz
    subtype = {"wav": "PCM_16", "flac": "PCM_16"}.get(row.recordist.format)
    with soundfile.SoundFile(
        out / row.filename, "w", rate_hz, wav_TC.shape[1], subtype, format=row.recordist.format
    ) as file:
        # libsndfile's Vorbis encoder overflows its stack on long blocks.
        for start in range(0, len(wav_TC), 1 << 16):
            file.write(wav_TC[start : start + (1 << 16)])
    return len(wav_TC) / rate_hz


def plan_noise(seed: int) -> list[Row]:
    """Decide the recordings without a bird: two by each recordist, to be mixed into others."""
    rng = np.random.default_rng([seed, 2])
    return [
        Row(
            number=9000 + number,
            species="",
            background="",
            recordist=who,
            duration_s=float(rng.uniform(10, 30)),
            stereo=False,
            when="2024-07-15T12:00:00",
        )
        for number, who in enumerate(recordists(np.random.default_rng([seed, 0])) * 2)
    ]


def write_archive(out: Path, seed: int = 0, per_species: int = PER_SPECIES, jobs: int = 0) -> float:
    """Write the archive to `out`; return the hours of the recordings with species.

    `metadata.csv` describes audio/, `noise/metadata.csv` the recordings without a bird in
    noise/audio/. Tables are written last.
    """
    rows, noise = plan(seed, per_species), plan_noise(seed)
    for folder in ("audio", "noise/audio"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        futures = [pool.submit(write, row, seed, out) for row in [*rows, *noise]]
        seconds = [future.result() for future in futures]
    write_table(out / "noise" / "metadata.csv", noise)
    write_table(out / "metadata.csv", rows)
    return sum(seconds[: len(rows)]) / 3600


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the metadata of the rows."""
    beside = path.with_suffix(".tmp")
    with beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        labelled = ("label", "background") if rows[0].species else ()
        table.writerow(
            ["filename", *labelled, "recordist", "licence", "group_id", "fold", "datetime"]
        )
        for row in rows:
            who = row.recordist
            names = (row.species, row.background) if labelled else ()
            table.writerow(
                [row.filename.removeprefix("noise/"), *names, who.name, who.licence, who.name,
                 who.fold, row.when]
            )  # fmt: skip
    beside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write; it must be empty or new")
    parser.add_argument("--seed", type=int, default=0, help="decides every sample (default: 0)")
    parser.add_argument(
        "--recordings-per-species",
        type=int,
        default=PER_SPECIES,
        help=f"of each of the {len(SPECIES)} species, at least {FOLDS} (default: {PER_SPECIES})",
    )
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one per core)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if arguments.recordings_per_species < FOLDS:
        parser.error(f"--recordings-per-species must be at least {FOLDS}, one for each fold")
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty")
    hours = write_archive(out, arguments.seed, arguments.recordings_per_species, arguments.jobs)
    count = arguments.recordings_per_species * len(SPECIES)
    print(f"Wrote {out}: {count} recordings of {len(SPECIES)} species, {hours:.2f} h")


if __name__ == "__main__":
    main()
