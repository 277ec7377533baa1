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


def glides(*pieces: tuple[float, float]) -> Song:
    """Song of repeated notes; each note glides through the octave that all such songs keep to, in
    pieces of equal length that go from one height to another (0: bottom, 1: top).
    """

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        each = int(0.32 / voice.tempo * rate_hz) // len(pieces)
        samples = each * len(pieces)
        height_T = np.concatenate([np.linspace(start, end, each) for start, end in pieces])
        note_T = tone(2300 * voice.pitch * 2**height_T, rate_hz, overtones(voice, 2))
        # Flat but for its ends, so that no height is louder because of when it comes.
        note_T *= np.minimum(1, 16 * envelope(samples, 0.5))
        count = int(rng.integers(3, 6))
        return series([note_T] * count, [0.48 / voice.tempo * i for i in range(count)], rate_hz)

    return song


def whistles(order: tuple[int, ...]) -> Song:
    """Song of the same three steady whistles, in an order of its own."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        length_s = 0.13 / voice.tempo
        notes = []
        for step in order:
            freq_hz = 1600 * voice.pitch * 1.32**step
            freq_T = glide(freq_hz, 1.01 * freq_hz, length_s, rate_hz)
            note_T = tone(freq_T, rate_hz, overtones(voice, 2))
            notes.append(note_T * envelope(len(note_T), 0.25))
        count = int(rng.integers(2, 5))
        # The pause after the last note tells where a phrase begins.
        starts_s = [5.2 * length_s * i + 1.1 * length_s * k for i in range(count) for k in range(3)]
        return series(notes * count, starts_s, rate_hz)

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


def clicks(first_s: float, last_s: float) -> Song:
    """Song of clicks between which the pause goes from `first_s` to `last_s`."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        click_T = 1.6 * band_noise(int(0.012 * rate_hz), 1500 * voice.pitch, 5500, rng, rate_hz)
        click_T *= np.exp(-np.linspace(0, 6, len(click_T), dtype=np.float32))
        gaps_s = np.geomspace(first_s, last_s, int(rng.integers(12, 17))) / voice.tempo
        starts_s = [float(s) for s in np.cumsum(gaps_s)]
        return series([click_T] * len(starts_s), starts_s, rate_hz)

    return song


def hisses(peak: float) -> Song:
    """Song of noisy bursts at an even pace, each loudest at the share `peak` of its length."""

    def song(voice: Voice, rng: np.random.Generator, rate_hz: int) -> Wave:
        samples = int(0.3 / voice.tempo * rate_hz)
        low_hz, high_hz = 2000 * voice.pitch, 5500 * voice.pitch
        bursts = []
        for _ in range(int(rng.integers(3, 7))):
            burst_T = 0.5 * band_noise(samples, low_hz, high_hz, rng, rate_hz)
            bursts.append(burst_T * envelope(samples, peak) ** 2)
        starts_s = [0.42 / voice.tempo * i for i in range(len(bursts))]
        return series(bursts, starts_s, rate_hz)

    return song


SPECIES: dict[str, Song] = {
    "Chirpa ascendens": glides((0, 1)),
    "Chirpa descendens": glides((1, 0)),
    "Chirpa saliens": glides((0.5, 1), (0, 0.5)),
    "Chirpa relabens": glides((0.5, 0), (1, 0.5)),
    "Trina surgens": whistles((0, 1, 2)),
    "Trina cadens": whistles((2, 1, 0)),
    "Trina saliens": whistles((1, 2, 0)),
    "Trina vertens": whistles((0, 2, 1)),
    "Crepita accelerans": clicks(0.2, 0.025),
    "Crepita tardans": clicks(0.025, 0.2),
    "Sibila crescens": hisses(0.85),
    "Sibila evanescens": hisses(0.15),
}
"""Species of a genus have the same notes in the same band: only the order in time tells them apart.
"""
