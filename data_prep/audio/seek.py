"""A few seconds out of a long file, without decoding what lies before and behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.audio.decoders import decoder_errors
from dawnchorus.data_prep.audio.stream_counts import counts_frames
from dawnchorus.data_prep.errors import CannotRead

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN_S = 0.05  # that the resampler needs on either side


def read_excerpt(path: Path, rate_hz: int, start: int, stop: int) -> NDArray[np.int16]:
    """Return samples [start, stop) of a file as mono int16 at `rate_hz`, fewer at its end.

    They are the samples that `audio.decode` gives, apart from rounding and the start-up of a lossy
    codec. A file in which libsndfile cannot seek is decoded whole. Raises UnusableAudio, as
    `decode` does.
    """
    try:
        with decoder_errors():
            return _sought(path, rate_hz, start, stop)
    except CannotRead:
        pcm, _ = decode(path, rate_hz)
        with pcm:
            return pcm.read(start, min(stop, pcm.samples))


def _sought(path: Path, rate_hz: int, start: int, stop: int) -> NDArray[np.int16]:
    import soundfile
    import soxr

    with path.open("rb") as opened, soundfile.SoundFile(opened.fileno(), closefd=False) as file:
        if not file.seekable() or (file.format == "MP3" and not counts_frames(path)):
            raise CannotRead("libsndfile cannot seek to a time in this file")
        common = math.gcd(file.samplerate, rate_hz)
        # Frame `down * m` of the file and sample `up * m` of the result are one moment.
        up, down = rate_hz // common, file.samplerate // common
        margin = math.ceil(_MARGIN_S * rate_hz)
        first, last = max(0, start - margin) // up, -(-(stop + margin) // up)
        if first * down >= file.frames:
            return np.zeros(0, np.int16)
        file.seek(first * down)
        wav_TC = file.read((last - first) * down, dtype="float32", always_2d=True)
        wav_T = wav_TC.mean(axis=1)
        if up != down:
            wav_T = soxr.resample(wav_T, file.samplerate, rate_hz, quality="HQ")
    part_T = wav_T[start - first * up : stop - first * up]
    pcm_T: NDArray[np.int16] = np.rint(part_T * np.float32(32768)).clip(-32768, 32767).astype("<i2")
    return pcm_T
