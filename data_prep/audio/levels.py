"""How loud a recording is before and after each step of its conversion, and how much it lost.

A bat's call lies above what 16 kHz can hold, and channels of opposite phase cancel in their mean:
what is left is labelled near-silence. So the power of the sound is measured in the file, after
mixing and after resampling, in floating point and before anything is rounded.

Power is that of the deviation from the mean, so that a constant offset, which passes through
everything, does not hide what was lost.

Shape legend: T samples, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.errors import UnusableAudio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dawnchorus.data_prep.dataset.options import BuildOptions

NAMED_DB = 20.0  # recordings that lose more are counted and named
MOST_DB = 200.0  # stands for a complete loss
_RATES_HZ = (16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000, 250000, 384000, 500000)
_MOST_HZ = 655350  # FLAC's limit
_CACHED = 1 << 14  # frames at a time
_ROOM = 3.0  # a rate this many times the middle of the sound keeps it: 1.5 times below half of it


class Power:
    """The mean power of what flows through, over all channels.

    With `spectrum` also where the middle of its energy lies (one channel).
    """

    def __init__(self, *, spectrum: bool = False) -> None:
        self.count = 0
        self._offset_C: NDArray[np.float32] = np.zeros(1, np.float32)
        self._sum_C: NDArray[np.float64] = np.zeros(1)
        self._square = self._lagged = self._last = 0.0
        self._spectrum = spectrum

    def add(self, block: NDArray[np.float32]) -> None:
        """Add a block [T] or [T, C]."""
        if not block.size:
            return
        if not self.count:
            # Squares of what lies around any value of the sound keep their digits beside an offset.
            self._offset_C = np.atleast_1d(block[0]).copy()
            self._sum_C = np.zeros(len(self._offset_C))
        self.count += len(block)
        for start in range(0, len(block), _CACHED):  # what stays in the processor's cache
            self._add(block[start : start + _CACHED])

    def _add(self, block: NDArray[np.float32]) -> None:
        around = block - self._offset_C
        flat = around.reshape(-1)
        if block.ndim == 1 or block.shape[1] == 1:
            self._sum_C += float(flat.sum())
        else:  # by a product: NumPy's sum along such an axis is 10x slower
            self._sum_C += np.ones(len(block), np.float32) @ around
        self._square += float(np.dot(flat, flat))
        if self._spectrum:
            self._lagged += float(np.dot(flat[1:], flat[:-1])) + self._last * float(flat[0])
            self._last = float(flat[-1])

    @property
    def mean(self) -> float:
        """Mean of all samples: the constant offset."""
        if not self.count:
            return 0.0
        return float((self._offset_C + self._sum_C / self.count).mean())

    @property
    def power(self) -> float:
        """Mean square of the deviation from the mean of each channel. Full scale is 1."""
        if not self.count:
            return 0.0
        around = self._square / (self.count * len(self._sum_C))
        return max(0.0, around - float(np.square(self._sum_C / self.count).mean()))

    @property
    def nothing(self) -> bool:
        """Whether all samples of each channel are the same."""
        return self._square == 0.0

    def middle_hz(self, rate_hz: int) -> float:
        """Return the root mean square frequency of the sound, by how fast it changes."""
        if not self._spectrum or self.power <= 0:
            return 0.0
        # The mean square of the difference of neighbours, which an offset does not change.
        rise = 2 * max(0.0, self._square - self._lagged) / self.count
        return rate_hz / math.pi * math.asin(math.sqrt(min(1.0, rise / (4 * self.power))))


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of a recording after its conversion. Full scale is 0 dB."""

    level_dbfs: float
    """Root mean square of the mono sound at its new rate, before any gain and any rounding."""
    peak_dbfs: float
    """Its largest deviation from the mean."""
    mix_lost_db: float
    """How much weaker mono is than the channels of the file are on average."""
    resample_lost_db: float
    """How much weaker it is at its new rate."""
    middle_hz: float
    """Middle of the sound in the file, where its rate was lowered; else 0."""

    @classmethod
    def of(cls, file: Power, mono: Power, new: Power, peak: float, rate_hz: int) -> Levels:
        """Return the levels of a sound in its file, mixed, and at its new rate, with its peak."""
        return cls(
            level_dbfs=_db(new.power),
            peak_dbfs=_db(peak**2),
            mix_lost_db=_lost_db(file.power, mono.power),
            resample_lost_db=_lost_db(mono.power, new.power),
            middle_hz=mono.middle_hz(rate_hz),
        )

    @property
    def lost_db(self) -> float:
        """The loss of both steps together."""
        return min(MOST_DB, self.mix_lost_db + self.resample_lost_db)


def _db(power: float) -> float:
    return max(-MOST_DB, 10 * math.log10(power)) if power > 0 else -MOST_DB


def _lost_db(before: float, after: float) -> float:
    """Return the loss in dB; 0 where it is only rounding."""
    if before <= 0:
        return 0.0
    return min(MOST_DB, max(0.0, _db(before) - _db(after)))


def explain_loss(levels: Levels, rate_hz: int, options: BuildOptions) -> str:
    """Return a sentence on what was lost in which step, and on the option that would keep it."""
    parts = []
    if levels.mix_lost_db >= levels.resample_lost_db:
        first = options.channels == "first"
        what = (
            "the first channel is that much weaker than the others: --channels mean"
            if first
            else "its channels cancel each other (opposite phase): --channels first"
        )
        parts.append(f"mono has {levels.mix_lost_db:.0f} dB less than the file; {what} keeps it")
    else:
        where = f"around {levels.middle_hz / 1000:.3g} kHz"
        keep = _rate_for(levels.middle_hz, rate_hz)
        parts.append(
            f"at {options.sample_rate_hz:,} Hz it has {levels.resample_lost_db:.0f} dB less than "
            f"in the file, since it lies {where}: --sample-rate-hz {keep} keeps it"
        )
    return "; ".join(parts)


def _rate_for(middle_hz: float, rate_hz: int) -> int:
    """Return a usual rate that holds a sound, never above the file's own."""
    enough = (rate for rate in _RATES_HZ if rate >= _ROOM * middle_hz)
    return min(next(enough, rate_hz), rate_hz, _MOST_HZ)


def check_levels(levels: Levels, rate_hz: int, fine: bool, options: BuildOptions) -> None:
    """Raise for sound that the conversion destroyed or that is too weak to be stored.

    Args:
        levels: of the recording.
        rate_hz: of the file.
        fine: whether the file has more than 16 bit, so that a gain brings out sound and not steps.
        options: of the dataset.

    Raises:
        UnusableAudio: with reason `lost` or `faint`.
    """
    if levels.lost_db > options.max_lost_db:
        raise UnusableAudio("lost", explain_loss(levels, rate_hz, options))
    gained = options.peak_dbfs is not None and fine
    if levels.peak_dbfs >= options.min_peak_dbfs or gained:
        return
    text = f"its peak is {levels.peak_dbfs:.1f} dBFS, below --min-peak-dbfs"
    if fine:
        text += ": 16 bit hold little of it; --peak-dbfs -1 brings it up before it is rounded"
    else:
        text += ", and its own 16 bit (or fewer) hold no more than their steps"
    raise UnusableAudio("faint", text)
