"""Long silence: where a recording has it, and what is left of the recording without it.

The rule, in full. The recording (mono, at the dataset's rate) is cut into frames of 0.1 s. The
level of a frame is the standard deviation of its samples, so that a constant offset counts for
nothing. A frame is silent when its level is `below_db` or more under that of the loudest frame. A
run of silent frames is long when it lasts `silence_s` or more; a long run is cut, except a quarter
of a second beside a sound. Stretches of the recording are left, each with its own place in it; they
are not joined, so no clip contains a seam.

The measure is relative, because gains differ by 60 dB between recorders, and it is the loudest
frame's, because noise that is never far below the loudest sound should never be cut: a recording
without near-silence stays as it is.

Shape legend: T samples, F frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME_S = 0.1
MARGIN_S = 0.25
_BLOCK_FRAMES = 600


class Samples(Protocol):
    """The part of `audio.pcm.Pcm` that is used here."""

    samples: int
    sample_rate_hz: int

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return samples [start, stop)."""


def sounding(pcm: Samples, silence_s: float, below_db: float) -> list[tuple[int, int]]:
    """Return the stretches [start, stop) of samples that stay, in order.

    Args:
        pcm: the whole recording.
        silence_s: the shortest silence that is cut; 0 cuts nothing.
        below_db: how far silence lies below the loudest frame.
    """
    if silence_s <= 0:
        return [(0, pcm.samples)]
    frame = max(1, round(FRAME_S * pcm.sample_rate_hz))
    power_F = _powers(pcm, frame)
    silent_F = power_F <= power_F.max() * 10 ** (-below_db / 10)
    edges = np.flatnonzero(np.diff(silent_F.astype(np.int8), prepend=0, append=0)).tolist()
    margin = round(MARGIN_S * pcm.sample_rate_hz)
    kept, at = [], 0
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        start, stop = first * frame, min(last * frame, pcm.samples)
        if stop - start < silence_s * pcm.sample_rate_hz:
            continue
        if start > 0:
            kept.append((at, start + margin))
        at = stop - margin if stop < pcm.samples else stop
    if at < pcm.samples:
        kept.append((at, pcm.samples))
    return kept


def _powers(pcm: Samples, frame: int) -> NDArray[np.float64]:
    """Return the variance of every frame; the last one may be shorter."""
    parts = []
    for start in range(0, pcm.samples, frame * _BLOCK_FRAMES):
        stop = min(start + frame * _BLOCK_FRAMES, pcm.samples)
        wav_T = pcm.read(start, stop).astype(np.float32)
        whole = len(wav_T) // frame * frame
        parts.append(wav_T[:whole].reshape(-1, frame).var(axis=1, dtype=np.float64))
        if whole < len(wav_T):
            parts.append(np.array([wav_T[whole:].var(dtype=np.float64)]))
    return np.concatenate(parts)
