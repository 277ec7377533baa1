"""Whether two recordings hold the same sound, decided on the waveforms.

Codecs that follow the waveform (those that archives use do) keep it: copies of one recording
correlate at 0.6 to 1 in the bands that carry the sound, two recordings of the same animal, machine
or rain at less than 0.25 (docs/archives/select.md has the figures).

Shapes: T samples, N bins, B bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 16000
EDGES_HZ = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 7000.0)
# Bands count by (share in a x share in b)^(1/8): a codec ruins weak bands first, but a sound must
# not be judged by its strongest band alone.
_WEIGHT = 0.125
WORTH = 0.25  # correlation as a whole; below it no part is looked at
LEAST_SCORE = 0.5
MOST_NEEDED = 0.9
MIN_OVERLAP_S = 1.0
PIECE_S = 1.0
PIECE_SCORE = 0.35  # of a second that both share; seconds that they do not are below 0.1


@dataclass(frozen=True, slots=True)
class Match:
    """How alike two recordings are where they fit best.

    `score` 0 to 1: correlation in the shared part, mean over bands. `needed`: what `score` must
    reach to mean something; a sound of few independent parts (a pure tone) correlates with its like
    by chance.
    `lag_s`: b begins that much later in a. `overlap_s`: as long as they lie over each other, and
    `shared` is the part of it, 0 to 1, that is the same (two cuts may have been edited).
    """

    score: float
    needed: float
    lag_s: float
    overlap_s: float
    shared: float

    @property
    def same(self) -> bool:
        """Whether the two are the same sound, at least over `overlap_s`."""
        return self.shared > 0 and self.score >= self.needed


NOTHING = Match(0.0, 1.0, 0.0, 0.0, 0.0)


def compare(a_T: NDArray[np.int16], b_T: NDArray[np.int16]) -> Match:
    """Compare 16 kHz mono int16 of any lengths, over all lags; best in pieces up to 20 s.

    An overlap below a second counts only when it is at least half of the shorter of the two.
    """
    shorter = min(len(a_T), len(b_T))
    if shorter < RATE_HZ // 20:
        return NOTHING
    lag = _best_lag(a_T, b_T)
    a_T, b_T = (a_T[lag:], b_T) if lag >= 0 else (a_T, b_T[-lag:])
    overlap = min(len(a_T), len(b_T))
    if overlap < min(MIN_OVERLAP_S * RATE_HZ, shorter / 2):
        return NOTHING
    a_T, b_T = a_T[:overlap], b_T[:overlap]
    score, freedom = _score(a_T, b_T)
    if score < WORTH:
        return Match(score, MOST_NEEDED, lag / RATE_HZ, overlap / RATE_HZ, 0.0)
    alike_T, shared = _alike(a_T, b_T)
    if 0 < shared < 1:
        score, freedom = _score(a_T[alike_T], b_T[alike_T])
    needed = float(min(max(2.5 / np.sqrt(freedom + 1e-9), LEAST_SCORE), MOST_NEEDED))
    return Match(score, needed, lag / RATE_HZ, overlap / RATE_HZ, shared)


def _alike(a_T: NDArray[np.int16], b_T: NDArray[np.int16]) -> tuple[NDArray[np.bool_], float]:
    """Return which samples of two aligned recordings are the same, and which part they are.

    Decided for pieces of a second. Pieces where both are silent, compared with the loudest, do not
    count.
    """
    bounds = np.linspace(0, len(a_T), max(1, round(len(a_T) / (PIECE_S * RATE_HZ))) + 1).astype(int)
    pieces = [slice(i, j) for i, j in pairwise(bounds.tolist())]
    level = [
        float(max(np.abs(x_T[p].astype(np.float32)).mean() for x_T in (a_T, b_T))) for p in pieces
    ]
    loud = [p for p, value in zip(pieces, level, strict=True) if value > 0.01 * max(level)]
    same = [p for p in loud if _score(a_T[p], b_T[p])[0] >= PIECE_SCORE]
    alike_T = np.zeros(len(a_T), bool)
    for piece in same:
        alike_T[piece] = True
    return alike_T, len(same) / max(1, len(loud))


def _best_lag(a_T: NDArray[np.int16], b_T: NDArray[np.int16]) -> int:
    """Return by how many samples b begins after a where their bands agree best."""
    bins = fast_length(len(a_T) + len(b_T))
    a_N, b_N = _spectrum(a_T, bins), _spectrum(b_T, bins)
    edge_B = _edges(bins)
    energy_a_B, energy_b_B = _energies(a_N, edge_B), _energies(b_N, edge_B)
    gain_B = _weights(energy_a_B, energy_b_B) / np.sqrt(energy_a_B * energy_b_B + 1.0)
    cross_N = np.zeros(bins, np.complex64)  # one-sided: its inverse is analytic, |.| the envelope
    low, high = edge_B[0], edge_B[-1]
    gain_N = np.repeat(gain_B, np.diff(edge_B)).astype(np.float32)
    cross_N[low:high] = a_N[low:high] * np.conj(b_N[low:high]) * gain_N
    best = int(np.abs(np.fft.ifft(cross_N)).argmax())
    return best if best < len(a_T) else best - bins


def _score(a_T: NDArray[np.int16], b_T: NDArray[np.int16]) -> tuple[float, float]:
    """Return (correlation, degrees of freedom) of two aligned pieces.

    The magnitude of the complex correlation of a band: half a sample of misalignment turns its
    phase, not its size.
    """
    bins = fast_length(len(a_T))
    a_N, b_N = _spectrum(a_T, bins), _spectrum(b_T, bins)
    edge_B = _edges(bins)
    energy_a_B, energy_b_B = _energies(a_N, edge_B), _energies(b_N, edge_B)
    cross_B = np.abs(np.add.reduceat(a_N * np.conj(b_N), edge_B)[:-1])
    # Rounding to 16 bit is noise of 1/12 per sample in all bins; a band below it holds nothing.
    noise_B = np.diff(edge_B) * len(a_T) / 12.0
    alike_B = cross_B / (np.sqrt(energy_a_B * energy_b_B) + noise_B)
    weight_B = _weights(energy_a_B, energy_b_B)
    power_N = np.abs(a_N[edge_B[0] : edge_B[-1]]).astype(np.float64) ** 2
    total = float(power_N.sum())
    if total <= 0 or float(weight_B.sum()) <= 0:
        return 0.0, 0.0
    # Bins are closer than the resolution where the length was rounded up.
    freedom = total**2 / float((power_N**2).sum()) * len(a_T) / bins
    return float((weight_B * alike_B).sum() / weight_B.sum()), freedom


def _weights(
    energy_a_B: NDArray[np.float64], energy_b_B: NDArray[np.float64]
) -> NDArray[np.float64]:
    share_B = energy_a_B / (energy_a_B.sum() + 1.0) * (energy_b_B / (energy_b_B.sum() + 1.0))
    weight_B: NDArray[np.float64] = share_B**_WEIGHT
    return weight_B


def _spectrum(wav_T: NDArray[np.int16], bins: int) -> NDArray[np.complex64]:
    return np.fft.rfft(wav_T.astype(np.float32), bins).astype(np.complex64)


def _energies(x_N: NDArray[np.complex64], edge_B: NDArray[np.int64]) -> NDArray[np.float64]:
    energy_B: NDArray[np.float64] = np.add.reduceat(np.abs(x_N).astype(np.float64) ** 2, edge_B)[
        :-1
    ]
    return energy_B


def _edges(bins: int) -> NDArray[np.int64]:
    """First bin of each band, and the end of the last."""
    return np.rint(np.asarray(EDGES_HZ) * bins / RATE_HZ).astype(np.int64)


def fast_length(samples: int) -> int:
    """Return the least 2^i, 3 x 2^i, 5 x 2^i, 9 x 2^i or 15 x 2^i that is not below `samples`."""
    lengths = []
    for factor in (1, 3, 5, 9, 15):
        times = -(-samples // factor)
        lengths.append(factor << max(0, times - 1).bit_length())
    return min(lengths)
