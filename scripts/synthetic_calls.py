"""The calls of the demo archive's species, and the filters and noises they are made with.

Shape suffixes: T samples, F frequency bins. A song has its peak near 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Voice:
    """One individual: factors on pitch and tempo, and how fast its overtones fade."""

    pitch: float
    tempo: float
    tilt: float


Song = Callable[[Voice, np.random.Generator, int], Wave]  # (voice, rng, rate_hz) -> wav_T


def envelope(samples: int, attack: float = 0.2) -> Wave:
    """Rise over the first `attack` of the samples, fall over the rest."""
    x_T = np.linspace(0.0, 1.0, max(samples, 2), dtype=np.float32)
    bend_T = np.where(x_T < attack, x_T / attack, (1.0 - x_T) / (1.0 - attack))
    return np.sin(0.5 * np.pi * bend_T).astype(np.float32)


def tone(freq_T: FloatArray, rate_hz: int, overtones: tuple[float, ...] = (1.0,)) -> Wave:
    """Sound of a frequency that moves, with overtones of the given strengths."""
    phase_T = 2 * np.pi * np.cumsum(freq_T) / rate_hz
    wav_T = np.zeros(len(freq_T), np.float32)
    for k, strength in enumerate(overtones, start=1):
        # What the recorder's anti-alias filter would remove must not fold back.
        audible_T = freq_T * k < 0.48 * rate_hz
        wav_T += (strength * np.sin(k * phase_T) * audible_T).astype(np.float32)
    return wav_T


def glide(start_hz: float, end_hz: float, seconds: float, rate_hz: int) -> FloatArray:
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


def sweeps(start_hz: float, end_hz: float) -> Song:
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


def trill(notes_per_s: float, low_hz: float) -> Song:
    """Song of one short arched note, repeated evenly."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        period_s = 1.0 / (notes_per_s * voice.tempo)
        bow_T = np.sin(np.linspace(0, np.pi, max(int(0.6 * period_s * rate_hz), 2)))
        note_T = tone(voice.pitch * low_hz * (1 + 0.3 * bow_T), rate_hz)
        note_T *= envelope(len(note_T), 0.4)
        count = int(rng.uniform(0.8, 1.8) / period_s)
        return series([note_T] * count, [period_s * i for i in range(count)], rate_hz)

    return song


def two_notes(first_hz: float, second_hz: float) -> Song:
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


def whistle(wobbles_per_s: float, centre_hz: float) -> Song:
    """Song of one long whistle whose pitch swings."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        time_T = np.arange(int(rng.uniform(0.9, 1.7) * rate_hz)) / rate_hz
        swing_T = np.sin(2 * np.pi * wobbles_per_s * voice.tempo * time_T)
        wav_T = tone(voice.pitch * centre_hz * 2 ** (0.22 * swing_T), rate_hz)
        return wav_T * envelope(len(wav_T), 0.15)

    return song


def stack(start_hz: float, end_hz: float) -> Song:
    """Nasal calls: many partials over a low fundamental."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        length_s = rng.uniform(0.35, 0.5) / voice.tempo
        freq_T = glide(start_hz * voice.pitch, end_hz * voice.pitch, length_s, rate_hz)
        note_T = tone(freq_T, rate_hz, overtones(voice, 7))
        note_T *= envelope(len(note_T), 0.2)
        count = int(rng.integers(2, 5))
        return series([note_T] * count, [1.5 * length_s * i for i in range(count)], rate_hz)

    return song


def shape(wav_T: Wave, gain: Callable[[FloatArray], FloatArray], rate_hz: int) -> Wave:
    """Filter by a gain that is a function of the frequency in Hz."""
    # NumPy's FFT takes ten times as long for a length with a large prime factor.
    step = 1 << max(len(wav_T).bit_length() - 4, 0)
    samples = -(-len(wav_T) // step) * step
    freq_F = np.maximum(np.fft.rfftfreq(samples, 1 / rate_hz), 1.0)
    spectrum_F = np.fft.rfft(wav_T, samples) * gain(freq_F).astype(np.float32)
    return np.fft.irfft(spectrum_F, samples)[: len(wav_T)].astype(np.float32)


def band_noise(
    samples: int, low_hz: float, high_hz: float, rng: np.random.Generator, rate_hz: int
) -> Wave:
    """Noise between two frequencies with soft edges, standard deviation 1."""

    def gain(freq_F: FloatArray) -> FloatArray:
        return 1 / (1 + (low_hz / freq_F) ** 8) / (1 + (freq_F / high_hz) ** 8)

    wav_T = shape(rng.standard_normal(samples, dtype=np.float32), gain, rate_hz)
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


SPECIES: dict[str, Song] = {
    "Chirpa ascendens": sweeps(2300.0, 4700.0),
    "Chirpa descendens": sweeps(5000.0, 2500.0),
    "Trilla lenta": trill(9.0, 2900.0),
    "Trilla rapida": trill(24.0, 3600.0),
    "Duota surgens": two_notes(1900.0, 2600.0),
    "Duota cadens": two_notes(2500.0, 1750.0),
    "Undula lenta": whistle(5.0, 4200.0),
    "Undula strepens": whistle(45.0, 5200.0),
    "Nasica plana": stack(640.0, 640.0),
    "Nasica cadens": stack(830.0, 490.0),
    "Crepita accelerans": clicks,
    "Sibila pulsans": hisses,
}
