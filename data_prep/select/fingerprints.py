"""A fingerprint of sound: vectors that stay close when the sound is encoded anew.

One vector for four seconds of sound, every two seconds. It describes how the level of 24 mel bands
rises and falls (0.25 to 15 Hz), by the *magnitudes* of the modulation spectrum, so a shift that is
small against four seconds hardly moves it; gain cancels. Codecs keep these levels: of 400 clips of
ESC-10 every one stays nearer to its 24 kbit/s Opus copy than to any other clip (the decision record
006 has the figures). Vectors only propose; `data_prep.select.compare` decides on the waveforms.

Shapes: T samples, K frames, F mel bands, M modulation bins, V vectors, D dimensions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.audio.excerpts import Segment, decode_segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1  # of the vectors: part of the cache's path
RATE_HZ = 16000  # what the sample digest is defined on, too
FRAME, HOP = 512, 256  # 32 ms, 16 ms
BANDS, LOW_HZ, HIGH_HZ = 24, 150.0, 7000.0  # MP3 at 32 kbit/s ends near 7 kHz
POWER = (
    0.3  # compresses levels without making a codec's quiet leftovers as loud as a logarithm does
)
# Power per bin of int16 rounding noise, 1/12 x sum of the squared window, doubled.
FLOOR = 32.0
QUIET = 5.0  # least rise over the floor, after compression: about -80 dBFS of noise
EDGE = 0.05  # a sound begins and ends at this part of its highest rise: -43 dB, as 0.05^(1/0.3)
LEAST_WEIGHT = 0.01  # least mean weight of a window's frames
WINDOW, STEP = 250, 125  # frames: 4 s, 2 s
LAST = 62  # a window needs this many frames (1 s) of sound after its middle, but for the first
MODULATIONS = 60  # bins of 0.25 Hz
SHAPE_WEIGHT = 3.0  # of the mean spectrum, so that steady sounds have a direction at all
DIMENSIONS = 128
STEP_S = STEP * HOP / RATE_HZ
_BLOCK = 4096  # frames at a time


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one recording. `at_V` are multiples of STEP_S: where the middle of each window lies."""

    pcm_sha1: str
    duration_s: float
    at_V: NDArray[np.int32]
    vector_VD: NDArray[np.float16]


def fingerprint_file(path: Path, *, max_s: float, segment: Segment | None = None) -> Fingerprint:
    """Decode a file to 16 kHz mono and return its fingerprint, vectors of the first `max_s` only.

    Of a whole video only the `segment` that the recording is.

    Raises UnusableAudio (see `data_prep.audio.decode`).
    """
    from dawnchorus.data_prep.audio.decode import decode

    pcm, original = decode_segment(segment, functools.partial(decode, path, RATE_HZ))
    with pcm:
        samples = min(pcm.samples, int(max_s * RATE_HZ))
        at_V, vector_VD = fingerprint_pcm(pcm.read, samples)
        return Fingerprint(pcm.sha1, original.duration_s, at_V, vector_VD)


def fingerprint_pcm(
    read: Callable[[int, int], NDArray[np.int16]], samples: int
) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return (`at_V`, `vector_VD`) of 16 kHz mono int16; `read(start, stop)` gives samples.

    Vectors have length 1. Windows of near-silence have none.
    """
    level_KF = _levels(read, samples)
    frames = len(level_KF)
    over_K = level_KF.max(1) - np.float32(FLOOR**POWER)
    loud = np.flatnonzero(over_K >= max(QUIET, EDGE * float(over_K.max())))
    if not loud.size:
        return np.zeros(0, np.int32), np.zeros((0, DIMENSIONS), np.float16)
    within_K = np.zeros(frames, np.float32)
    within_K[loud[0] : loud[-1] + 1] = 1
    half = WINDOW // 2
    level_KF = np.pad(level_KF, ((half, half), (0, 0)))
    within_K = np.pad(within_K, half)
    kept: list[int] = []
    raw: list[NDArray[np.float32]] = []
    for at, start in enumerate(range(0, max(1, frames - LAST), STEP)):
        weight_K = _window_taper() * within_K[start : start + WINDOW]
        rise = float(over_K[max(0, start - half) : start + half].max())
        if rise >= QUIET and float(weight_K.sum()) >= LEAST_WEIGHT * WINDOW:
            kept.append(at)
            raw.append(_describe(level_KF[start : start + WINDOW], weight_K))
    if not raw:
        return np.zeros(0, np.int32), np.zeros((0, DIMENSIONS), np.float16)
    vector_VD = np.stack(raw) @ _projection()
    vector_VD /= np.linalg.norm(vector_VD, axis=1, keepdims=True) + 1e-9
    return np.asarray(kept, np.int32), vector_VD.astype(np.float16)


def _levels(read: Callable[[int, int], NDArray[np.int16]], samples: int) -> NDArray[np.float32]:
    """Compressed mel levels [K, F]; frame k is centred at sample k x HOP."""
    frames = samples // HOP + 1
    taper_N, mel_NF = _taper(), _mel()
    parts = []
    for first in range(0, frames, _BLOCK):
        count = min(_BLOCK, frames - first)
        start = first * HOP - FRAME // 2
        stop = start + (count - 1) * HOP + FRAME
        wav_T = np.zeros(stop - start, np.float32)
        have = read(max(0, start), min(samples, stop))
        wav_T[max(0, -start) : max(0, -start) + len(have)] = have
        frame_KN = np.lib.stride_tricks.sliding_window_view(wav_T, FRAME)[::HOP] * taper_N
        power_KN = np.abs(np.fft.rfft(frame_KN)) ** 2
        parts.append(((power_KN @ mel_NF + FLOOR) ** POWER).astype(np.float32))
    return np.concatenate(parts)


def _describe(window_KF: NDArray[np.float32], weight_K: NDArray[np.float32]) -> NDArray[np.float32]:
    """Modulation magnitudes and mean spectrum of one window, not yet projected.

    Frames of weight 0 count as the mean: the beginning of a recording does not distinguish it from
    others, but would be the strongest modulation of all.
    """
    mean_F = weight_K @ window_KF / weight_K.sum()
    level = float(mean_F.mean())
    swing_KF = (window_KF - mean_F) * (weight_K[:, None] / level)
    spectrum_MF = np.sqrt(np.abs(np.fft.rfft(swing_KF, axis=0)[1 : MODULATIONS + 1]))
    # What all sounds share (strong slow modulations) and the mean of each band and rate is removed;
    # the pattern of this sound remains.
    spectrum_MF = (
        spectrum_MF
        - spectrum_MF.mean(0, keepdims=True)
        - spectrum_MF.mean(1, keepdims=True)
        + spectrum_MF.mean()
    )
    shape_F = mean_F - level
    shape_F = SHAPE_WEIGHT * shape_F / (np.linalg.norm(shape_F) + 1e-9)
    return np.concatenate([spectrum_MF.ravel(), shape_F]).astype(np.float32)


@functools.cache
def _taper() -> NDArray[np.float32]:
    return np.hanning(FRAME).astype(np.float32)


@functools.cache
def _window_taper() -> NDArray[np.float32]:
    return np.hanning(WINDOW + 2)[1:-1].astype(np.float32)


@functools.cache
def _mel() -> NDArray[np.float32]:
    """Triangles of unit area over the power spectrum [N, F], evenly spaced in mel."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOW_HZ, HIGH_HZ))
    edge = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    hz_N = np.arange(FRAME // 2 + 1) * RATE_HZ / FRAME
    up_NF = (hz_N[:, None] - edge[:-2]) / (edge[1:-1] - edge[:-2])
    down_NF = (edge[2:] - hz_N[:, None]) / (edge[2:] - edge[1:-1])
    mel_NF = np.clip(np.minimum(up_NF, down_NF), 0, None)
    mel_NF /= np.maximum(mel_NF.sum(0), 1e-9)
    return np.asarray(mel_NF, np.float32)


@functools.cache
def _projection() -> NDArray[np.float32]:
    """Random signs [(M + 1) x F, D]: keeps angles (Johnson-Lindenstrauss) at a twelfth of the size.

    From SHAKE-256, not from a generator of NumPy's, whose streams may change with its version.
    """
    rows = (MODULATIONS + 1) * BANDS
    data = hashlib.shake_256(b"fingerprint").digest(rows * DIMENSIONS // 8)
    bit_RD = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(rows, DIMENSIONS)
    return bit_RD.astype(np.float32) * 2 - 1
