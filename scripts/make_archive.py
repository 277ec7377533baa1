"""Synthesise a small sound archive: a dozen "species", several recordists, metadata.csv.

    python scripts/make_archive.py OUT --seed 0

The species differ in how their sound unfolds, much less in where its energy lies: most share a
band with another and differ from it by direction, order or tempo alone. Individuals vary in pitch,
tempo and level, recordists in microphone, place and file format, and folds are made of whole
recordists. Time-averaged spectra therefore tell some species apart and not others.

Shape suffixes: T samples, C channels, F frequency bins. Levels are relative to full scale.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

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

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """One individual: factors on pitch and tempo, and how fast its overtones fade."""

    pitch: float
    tempo: float
    tilt: float


@dataclass(frozen=True)
class Recordist:
    """Who recorded, where, with what: all that makes their recordings sound alike."""

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
    """One recording to make."""

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
        return f"audio/{self.number:04d}.{self.recordist.format}"


# --- sounds ------------------------------------------------------------------------------------


def envelope(samples: int, attack: float = 0.2) -> Wave:
    """Rise over the first `attack` of the samples, fall over the rest."""
    x_T = np.linspace(0.0, 1.0, max(samples, 2), dtype=np.float32)
    bend_T = np.where(x_T < attack, x_T / attack, (1.0 - x_T) / (1.0 - attack))
    return np.sin(0.5 * np.pi * bend_T).astype(np.float32)


def tone(freq_T: NDArray[np.float64], rate_hz: int, overtones: tuple[float, ...] = (1.0,)) -> Wave:
    """Sound of a frequency that moves, with overtones of the given strengths."""
    phase_T = 2 * np.pi * np.cumsum(freq_T) / rate_hz
    wav_T = np.zeros(len(freq_T), np.float32)
    for k, strength in enumerate(overtones, start=1):
        # What the recorder's anti-alias filter would remove must not fold back.
        audible_T = freq_T * k < 0.48 * rate_hz
        wav_T += (strength * np.sin(k * phase_T) * audible_T).astype(np.float32)
    return wav_T


def glide(start_hz: float, end_hz: float, seconds: float, rate_hz: int) -> NDArray[np.float64]:
    """Frequency that goes evenly in pitch from start to end."""
    return np.geomspace(start_hz, end_hz, max(int(seconds * rate_hz), 2))


def series(notes: list[Wave], starts_s: list[float], rate_hz: int) -> Wave:
    """Place notes at their times."""
    end = max(int(s * rate_hz) + len(n) for s, n in zip(starts_s, notes, strict=True))
    song_T = np.zeros(end, np.float32)
    for start_s, note_T in zip(starts_s, notes, strict=True):
        at = int(start_s * rate_hz)
        song_T[at : at + len(note_T)] += note_T
    return song_T


def overtones(voice: Voice, count: int) -> tuple[float, ...]:
    """Strengths of `count` partials for this voice."""
    return tuple(k**-voice.tilt for k in range(1, count + 1))


def sweeps(start_hz: float, end_hz: float) -> Callable[[Voice, np.random.Generator, int], Wave]:
    """Song of repeated glides."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        length_s = 0.16 / voice.tempo
        note_T = tone(
            glide(start_hz * voice.pitch, end_hz * voice.pitch, length_s, rate_hz),
            rate_hz,
            overtones(voice, 2),
        )
        note_T *= envelope(len(note_T), 0.5)
        count = int(rng.integers(3, 7))
        return series([note_T] * count, [1.6 * length_s * i for i in range(count)], rate_hz)

    return song


def trill(notes_per_s: float) -> Callable[[Voice, np.random.Generator, int], Wave]:
    """Song of one short arched note, repeated evenly."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        period_s = 1.0 / (notes_per_s * voice.tempo)
        bow_T = np.sin(np.linspace(0, np.pi, max(int(0.6 * period_s * rate_hz), 2)))
        note_T = tone(voice.pitch * (3000.0 + 900.0 * bow_T), rate_hz)
        note_T *= envelope(len(note_T), 0.4)
        count = int(rng.uniform(0.8, 1.8) / period_s)
        return series([note_T] * count, [period_s * i for i in range(count)], rate_hz)

    return song


def two_notes(first_hz: float, second_hz: float) -> Callable[..., Wave]:
    """Song of two steady whistles, sung two or three times."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        length_s = 0.22 / voice.tempo
        notes = []
        for freq_hz in (first_hz, second_hz):
            freq_T = glide(freq_hz * voice.pitch, 1.01 * freq_hz * voice.pitch, length_s, rate_hz)
            note_T = tone(freq_T, rate_hz, overtones(voice, 2))
            notes.append(note_T * envelope(len(note_T), 0.25))
        count = int(rng.integers(2, 4))
        # A pause twice as long after the second note tells which one comes first.
        starts_s = [3.4 * length_s * i + 1.1 * length_s * k for i in range(count) for k in (0, 1)]
        return series(notes * count, starts_s, rate_hz)

    return song


def whistle(wobbles_per_s: float) -> Callable[..., Wave]:
    """Song of one long whistle whose pitch swings."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        time_T = np.arange(int(rng.uniform(0.9, 1.7) * rate_hz)) / rate_hz
        swing_T = np.sin(2 * np.pi * wobbles_per_s * voice.tempo * time_T)
        wav_T = tone(voice.pitch * 3300.0 * 2 ** (0.22 * swing_T), rate_hz)
        return wav_T * envelope(len(wav_T), 0.15)

    return song


def stack(start_hz: float, end_hz: float) -> Callable[..., Wave]:
    """Nasal calls: many partials over a low fundamental."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        length_s = rng.uniform(0.35, 0.5) / voice.tempo
        freq_T = glide(start_hz * voice.pitch, end_hz * voice.pitch, length_s, rate_hz)
        note_T = tone(freq_T, rate_hz, overtones(voice, 7))
        note_T *= envelope(len(note_T), 0.2)
        count = int(rng.integers(2, 5))
        return series([note_T] * count, [1.5 * length_s * i for i in range(count)], rate_hz)

    return song


def band_noise(
    samples: int, low_hz: float, high_hz: float, rng: np.random.Generator, rate_hz: int
) -> Wave:
    """Noise between two frequencies with soft edges, standard deviation 1."""
    freq_F = np.fft.rfftfreq(samples, 1 / rate_hz)
    gain_F = 1 / (1 + (low_hz / np.maximum(freq_F, 1)) ** 8) / (1 + (freq_F / high_hz) ** 8)
    wav_T = shape(rng.standard_normal(samples, dtype=np.float32), gain_F)
    return wav_T / np.float32(wav_T.std() + 1e-9)


def clicks(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Song of clicks that come faster and faster."""
    click_T = 1.6 * band_noise(int(0.012 * rate_hz), 1500 * voice.pitch, 5500, rng, rate_hz)
    click_T *= np.exp(-np.linspace(0, 6, len(click_T), dtype=np.float32))
    gaps_s = np.geomspace(0.2, 0.025, int(rng.integers(12, 20))) / voice.tempo
    starts_s = [float(s) for s in np.cumsum(gaps_s)]
    return series([click_T] * len(starts_s), starts_s, rate_hz)


def hisses(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Song of noisy bursts at an even pace."""
    length_s = 0.13 / voice.tempo
    count = int(rng.integers(4, 9))
    notes = []
    for _ in range(count):
        samples = int(length_s * rate_hz)
        note_T = 0.5 * band_noise(samples, 2000 * voice.pitch, 5500 * voice.pitch, rng, rate_hz)
        notes.append(note_T * envelope(samples, 0.1))
    return series(notes, [1.7 * length_s * i for i in range(count)], rate_hz)


SPECIES: dict[str, Callable[[Voice, np.random.Generator, int], Wave]] = {
    "Chirpa ascendens": sweeps(2300.0, 4700.0),
    "Chirpa descendens": sweeps(4700.0, 2300.0),
    "Trilla lenta": trill(9.0),
    "Trilla rapida": trill(24.0),
    "Duota surgens": two_notes(2700.0, 3700.0),
    "Duota cadens": two_notes(3700.0, 2700.0),
    "Undula lenta": whistle(5.0),
    "Undula strepens": whistle(45.0),
    "Nasica plana": stack(640.0, 640.0),
    "Nasica cadens": stack(830.0, 490.0),
    "Crepita accelerans": clicks,
    "Sibila pulsans": hisses,
}


# --- places ------------------------------------------------------------------------------------


def shape(wav_T: Wave, gain_F: NDArray[np.float64]) -> Wave:
    """Filter by the gains of the frequency bins of an rfft."""
    return np.fft.irfft(np.fft.rfft(wav_T) * gain_F.astype(np.float32), len(wav_T)).astype(
        np.float32
    )


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
    return wav_T / np.float32(wav_T.std() + 1e-9)


PLACES = ("wind", "rain", "hum", "stream", "traffic")


def sing(
    species: str, samples: int, rng: np.random.Generator, rate_hz: int, *, rest_s: float
) -> Wave:
    """One individual that sings through the recording with rests of about `rest_s`."""
    voice = Voice(
        pitch=float(np.exp(rng.normal(0, 0.10))),
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
    """What the recordist's microphone and recorder make of it."""
    freq_F = np.maximum(np.fft.rfftfreq(len(wav_T), 1 / rate_hz), 1.0)
    octaves_F = np.log2(freq_F / 2000.0)
    peak_F = who.peak_db * np.exp(-0.5 * (np.log2(freq_F / who.peak_hz) / 0.4) ** 2)
    gain_F = 10 ** ((who.tilt_db * octaves_F.clip(-4, 3) + peak_F) / 20)
    return shape(wav_T, gain_F / (1 + (who.low_cut_hz / freq_F) ** 4))


def record(row: Row, seed: int) -> NDArray[np.float32]:
    """Make the samples of one recording, [T, C]; nothing but the row and the seed decides them."""
    rng = np.random.default_rng([seed, 1, row.number])
    who, rate_hz = row.recordist, row.recordist.rate_hz
    samples = int(row.duration_s * rate_hz)
    bird_T = sing(row.species, samples, rng, rate_hz, rest_s=1.2)
    bird_T *= np.float32(10 ** (rng.uniform(-12, 3) / 20))
    if row.background:
        faint_T = sing(row.background, samples, rng, rate_hz, rest_s=5.0)
        bird_T += faint_T * np.float32(10 ** (rng.uniform(-24, -16) / 20))
    kind = who.background if rng.random() < 0.6 else str(rng.choice(PLACES))
    noise_T = background(kind, samples, rng, rate_hz)
    noise_db = who.noise_db + rng.uniform(-6, 6)
    wav_T = microphone(bird_T + noise_T * np.float32(10 ** (noise_db / 20)), who, rate_hz)
    wav_T *= np.float32(10 ** (who.gain_db / 20))
    peak = float(np.abs(wav_T).max())
    if peak > 0.9:
        wav_T *= np.float32(0.9 / peak)
    if not row.stereo:
        return wav_T[:, None]
    # The bird stands to one side; the hiss of the two channels is not the same.
    side = rng.uniform(0.4, 0.9)
    hiss_TC = 1e-3 * rng.standard_normal((samples, 2), dtype=np.float32)
    both_TC: NDArray[np.float32] = np.stack([wav_T, wav_T * np.float32(side)], axis=1) + hiss_TC
    return both_TC


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
                gain_db=float(rng.uniform(-18, -3)),
                tilt_db=float(rng.uniform(-3, 2)),
                low_cut_hz=float(rng.choice([40.0, 80.0, 150.0, 300.0])),
                peak_hz=float(rng.uniform(1500, 6000)),
                peak_db=float(rng.uniform(-6, 8)),
                noise_db=float(rng.uniform(-30, -14)),
                favourites=tuple(float(p) for p in rng.dirichlet(np.full(len(SPECIES), 1.5))),
            )
        )
    return people


def plan(seed: int, per_species: int) -> list[Row]:
    """Decide every recording: species and folds in balance, recordists by what they favour."""
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


def write_archive(out: Path, seed: int = 0, per_species: int = PER_SPECIES, jobs: int = 0) -> float:
    """Write the archive to `out` (audio/ and metadata.csv, the latter last); return its hours."""
    rows = plan(seed, per_species)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1:
        seconds = sum(write(row, seed, out) for row in rows)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            futures = [pool.submit(write, row, seed, out) for row in rows]
            seconds = sum(future.result() for future in futures)
    with (out / "metadata.csv.tmp").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["filename", "label", "background", "recordist", "licence", "group_id", "fold",
             "datetime"]
        )  # fmt: skip
        for row in rows:
            who = row.recordist
            table.writerow(
                [row.filename, row.species, row.background, who.name, who.licence, who.name,
                 who.fold, row.when]
            )  # fmt: skip
    (out / "metadata.csv.tmp").replace(out / "metadata.csv")
    return seconds / 3600


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
