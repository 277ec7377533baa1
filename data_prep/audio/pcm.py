"""The samples of one recording between decoding and storing: in memory or, when long, on disk."""

from __future__ import annotations

import hashlib
import math
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from dawnchorus.data_prep.errors import SpoolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPOOL_BYTES = 32 << 20  # in memory (17 min of 16 bit at 16 kHz); more goes to disk
FULL_SCALE = 32768.0  # as libsndfile and all readers of int16 FLAC define it
FAINT_STEPS = 2.0
"""Steps of 16 bit that a recording must reach for its digest to be that of its 16-bit samples."""


class Pcm:
    """Mono samples of one recording, read as int16.

    With `exact`, floats are kept, and `gain` (a factor) is applied before they are rounded; without
    it they are rounded as they come, and take half the room.
    """

    def __init__(
        self, sample_rate_hz: int, spool_dir: Path | None = None, *, exact: bool = False
    ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.samples = 0
        self.saturated = 0
        self.low, self.high = math.inf, -math.inf  # as `peak`
        self.gain = 1.0
        self.exact = exact
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._float_sha1 = hashlib.sha1(usedforsecurity=False)
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (closed by `close`)
            max_size=SPOOL_BYTES, dir=None if spool_dir is None else str(spool_dir)
        )

    def append(self, wav_T: NDArray[np.float32]) -> None:
        """Append float samples, ±1 = full scale. Larger values saturate; they never wrap."""
        scaled_T = wav_T * np.float32(FULL_SCALE)
        if not scaled_T.size:
            return
        low, high = float(scaled_T.min()), float(scaled_T.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.peak < FAINT_STEPS:
            self._float_sha1.update(scaled_T.astype("<f4").tobytes())
        rounded_T = np.rint(scaled_T)
        if low < -32768.0 or high > 32767.0:
            self.saturated += int(np.count_nonzero((rounded_T > 32767) | (rounded_T < -32768)))
            rounded_T = rounded_T.clip(-32768.0, 32767.0)
        pcm_T = rounded_T.astype("<i2")
        data = pcm_T.tobytes()
        self._sha1.update(data)
        try:
            self._file.write(scaled_T.astype("<f4").tobytes() if self.exact else data)
        except OSError as err:
            raise SpoolError(err.errno, err.strerror) from err
        self.samples += pcm_T.size

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return samples [start, stop), with the gain where floats were kept."""
        width = 4 if self.exact else 2
        self._file.seek(width * start)
        data = self._file.read(width * (stop - start))
        if not self.exact:
            return np.frombuffer(data, dtype="<i2")
        louder_T = np.rint(np.frombuffer(data, dtype="<f4") * np.float32(self.gain))
        return louder_T.clip(-32768.0, 32767.0).astype("<i2")

    @property
    def peak(self) -> float:
        """The largest sample before rounding, saturation and gain, in steps of 16 bit."""
        return max(0.0, -self.low, self.high)

    @property
    def duration_s(self) -> float:
        """Seconds of stored audio."""
        return self.samples / self.sample_rate_hz

    @property
    def sha1(self) -> str:
        """Digest of the samples: equal audio in another file or container has the same.

        It is the digest of the 16-bit samples; of the floats where all of them are within two steps
        of zero, since 16 bits may keep nothing of such a sound.
        """
        digest = self._float_sha1 if self.peak < FAINT_STEPS else self._sha1
        return digest.hexdigest()

    def close(self) -> None:
        """Free the memory or the temporary file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
