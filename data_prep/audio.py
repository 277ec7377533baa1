"""Any audio file -> mono 16-bit PCM at one sample rate, in bounded memory.

The content decides how a file is read, never its name: libsndfile first (it is the faster one and
gives the same samples everywhere), FFmpeg through PyAV for what libsndfile cannot read (AAC, WMA,
some MP3s). Everything flows in blocks, so a recording of hours, or a file whose header claims
hours, costs no more memory than a short one.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from dawnchorus.data_prep.chunks import MISSING_FRACTION
from dawnchorus.data_prep.decoders import (
    BLOCK_VALUES,
    MISSING_S,
    Blocks,
    decoder_errors,
    open_ffmpeg,
    open_soundfile,
)
from dawnchorus.data_prep.errors import CannotRead, SpoolError, UnusableAudio
from dawnchorus.data_prep.extents import extent
from dawnchorus.data_prep.pointers import pointer_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPOOL_BYTES = 32 << 20  # PCM of a recording in memory (17 min at 16 kHz); more goes to disk
MIN_S = 0.1  # anything shorter holds not even a handful of 25 ms analysis frames
# Whale recorders decimate to a few hundred Hz, bat recorders reach 1 MHz.
RATES_HZ = (100, 4_000_000)
MAX_CHANNELS = 64
# Beyond this share of saturated samples the values were never scaled to ±1 (raw counts, pascals).
MAX_SATURATED = 0.1


@dataclass(frozen=True, slots=True)
class Original:
    """What the file was before it was converted."""

    codec: str
    sample_rate_hz: int
    channels: int
    frames: int

    @property
    def duration_s(self) -> float:
        """Seconds that were decoded."""
        return self.frames / self.sample_rate_hz


class Pcm:
    """Mono int16 samples of one recording, in memory or, when long, in a temporary file."""

    def __init__(self, sample_rate_hz: int, spool_dir: Path | None = None) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.samples = 0
        self.saturated = 0
        self.peak = 0.0  # before saturation, in steps of 16 bit
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (closed by `close`)
            max_size=SPOOL_BYTES, dir=None if spool_dir is None else str(spool_dir)
        )

    def append(self, wav_T: NDArray[np.float32]) -> None:
        """Append float samples, ±1 = full scale. What is beyond saturates, it never wraps."""
        # Full scale is 32768, as libsndfile and every reader of int16 FLAC have it.
        scaled_T = np.rint(wav_T * np.float32(32768.0))
        if scaled_T.size:
            low, high = float(scaled_T.min()), float(scaled_T.max())
            self.peak = max(self.peak, -low, high)
            if low < -32768.0 or high > 32767.0:
                beyond_T = (scaled_T > 32767.0) | (scaled_T < -32768.0)
                self.saturated += int(np.count_nonzero(beyond_T))
                scaled_T = scaled_T.clip(-32768.0, 32767.0)
        pcm_T = scaled_T.astype("<i2")
        data = pcm_T.tobytes()
        self._sha1.update(data)
        try:
            self._file.write(data)
        except OSError as err:
            raise SpoolError(err.errno, err.strerror) from err
        self.samples += pcm_T.size

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return samples [start, stop)."""
        self._file.seek(2 * start)
        return np.frombuffer(self._file.read(2 * (stop - start)), dtype="<i2")

    @property
    def duration_s(self) -> float:
        """Seconds of stored audio."""
        return self.samples / self.sample_rate_hz

    @property
    def sha1(self) -> str:
        """Digest of the samples: equal audio in another file or container has the same."""
        return self._sha1.hexdigest()

    def close(self) -> None:
        """Free the memory or the temporary file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def decode(
    path: Path, sample_rate_hz: int, *, spool_dir: Path | None = None, max_hours: float = 24.0
) -> tuple[Pcm, Original]:
    """Decode a file to mono int16 at `sample_rate_hz`: mean of channels, soxr HQ, rounding.

    Raises `UnusableAudio` with reason `missing`, `unreadable`, `pointer`, `not_audio`, `corrupt`,
    `truncated`, `understated`, `empty`, `too_short`, `too_long`, `non_finite`, `silent`,
    `out_of_range` or `unsupported`.
    """
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as err:  # ValueError: a name with a NUL
        raise UnusableAudio("missing", getattr(err, "strerror", "") or str(err)) from err
    if not path.is_file():
        raise UnusableAudio("missing", "not a file")
    if size == 0:
        raise UnusableAudio("empty", "the file has no bytes")
    if pointer := pointer_at(path):
        raise UnusableAudio("pointer", pointer)
    try:
        there = extent(path)
    except OSError as err:
        raise UnusableAudio("unreadable", f"{err.strerror or err}") from err
    if there.cut:
        raise UnusableAudio("truncated", there.cut)
    if there.more:
        raise UnusableAudio("understated", f"{there.more}; {_REWRITE}")
    convert = functools.partial(
        _convert, path, sample_rate_hz=sample_rate_hz, spool_dir=spool_dir, max_hours=max_hours,
        held=there.frames,
    )  # fmt: skip
    try:
        pcm, original = convert(open_soundfile)
    except CannotRead as first:
        try:
            pcm, original = convert(open_ffmpeg, claimed_s=first.claimed_s)
        except CannotRead as second:
            short = next((err for err in (first, second) if err.claimed_s), None)
            if short is not None:  # all there is could be read, and that is too little
                raise UnusableAudio("truncated", str(short)) from second
            reason = "corrupt" if first.opened or second.opened else "not_audio"
            # It is opened by a number that differs from run to run.
            why = re.sub(r"Error opening \d+: ", "", str(first))
            raise UnusableAudio(reason, f"libsndfile: {why}; FFmpeg: {second}") from second
    try:
        _check(pcm, original)
    except UnusableAudio:
        pcm.close()
        raise
    return pcm, original


def probe_duration_s(path: Path) -> float:
    """Return what the header says about the length, or 0 where libsndfile cannot tell.

    Only for planning: it is a claim, bounded by what the bytes could hold (4 kbit/s).
    """
    import soundfile

    try:
        size = path.stat().st_size
        with path.open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as audio:
            frames, rate = audio.frames, audio.samplerate
    except Exception:  # whatever libsndfile makes of it, the length is not known
        return 0.0
    return float(min(frames / rate, size / 500.0)) if rate > 0 and frames > 0 else 0.0


def _convert(
    path: Path,
    opener: Callable[[Path, ExitStack], Blocks],
    *,
    sample_rate_hz: int,
    spool_dir: Path | None,
    max_hours: float,
    held: int,
    claimed_s: float = 0.0,
) -> tuple[Pcm, Original]:
    """Stream one decoder's blocks through down-mix and resampler into a `Pcm`.

    `held` are the samples that the container holds (0: not known), `claimed_s` is what another
    decoder found.
    """
    with decoder_errors(), ExitStack() as stack:  # closing a damaged file may raise, too
        source = opener(path, stack)
        _check_format(source)
        pcm = Pcm(sample_rate_hz, spool_dir)
        try:
            with decoder_errors():
                frames = _stream(source, pcm, max_hours)
            _check_complete(source, frames, claimed_s, held)
        except BaseException as err:
            pcm.close()
            if isinstance(err, CannotRead):
                err.opened = True
            raise
    return pcm, Original(source.codec, source.sample_rate_hz, source.channels, frames)


def _stream(source: Blocks, pcm: Pcm, max_hours: float) -> int:
    """Fill `pcm` from the blocks; return the number of frames that were decoded."""
    import soxr

    resampler = None
    # What comes out must stay bounded, too: from 100 Hz to 16 kHz a block grows 160-fold.
    step = max(1, BLOCK_VALUES * source.sample_rate_hz // pcm.sample_rate_hz)
    if source.sample_rate_hz != pcm.sample_rate_hz:
        # HQ: aliases at -143 dB, 0.4 dB down at 7.5 kHz; birds have strong energy above 8 kHz.
        resampler = soxr.ResampleStream(
            source.sample_rate_hz, pcm.sample_rate_hz, 1, dtype="float32", quality="HQ"
        )
    frames = 0
    limit = max_hours * 3600.0 * source.sample_rate_hz
    for block_TC in source.blocks:
        wav_T = _mono(block_TC)
        finite_T = np.isfinite(wav_T)  # NaN and infinity survive the mean
        if not finite_T.all():
            at_s = (frames + int(finite_T.argmin())) / source.sample_rate_hz
            raise UnusableAudio("non_finite", f"NaN or infinite samples from {at_s:.3f} s on")
        frames += len(block_TC)
        if frames > limit:
            raise UnusableAudio("too_long", f"longer than {max_hours:g} hours")
        if resampler is None:
            pcm.append(wav_T)
            continue
        for start in range(0, len(wav_T), step):
            pcm.append(resampler.resample_chunk(wav_T[start : start + step]))
    if resampler:
        pcm.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return frames


def _mono(block_TC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over channels; column by column, since NumPy's mean over a short axis is 10x slower."""
    wav_T = block_TC[:, 0]
    if block_TC.shape[1] == 1:
        return wav_T
    for c in range(1, block_TC.shape[1]):
        wav_T = wav_T + block_TC[:, c]
    return wav_T / np.float32(block_TC.shape[1])


def _check_format(source: Blocks) -> None:
    if not RATES_HZ[0] <= source.sample_rate_hz <= RATES_HZ[1]:
        raise UnusableAudio("unsupported", f"sample rate {source.sample_rate_hz} Hz")
    if not 1 <= source.channels <= MAX_CHANNELS:
        raise UnusableAudio("unsupported", f"{source.channels} channels")


def _check(pcm: Pcm, original: Original) -> None:
    """Refuse what no model can learn from."""
    if original.frames == 0 or pcm.samples == 0:
        raise UnusableAudio("empty", "the file holds no samples")
    if original.duration_s < MIN_S:
        raise UnusableAudio("too_short", f"{original.duration_s:.3f} s, less than {MIN_S} s")
    if pcm.peak == 0:
        mixed = " after mixing to mono" if original.channels > 1 else ""
        raise UnusableAudio("silent", f"all samples are zero{mixed}")
    if pcm.saturated > MAX_SATURATED * pcm.samples:
        share = pcm.saturated / pcm.samples
        raise UnusableAudio(
            "out_of_range", f"{share:.0%} of the samples are beyond full scale: not scaled to ±1"
        )


def _check_complete(source: Blocks, frames: int, claimed_s: float, held: int) -> None:
    """Refuse a file of which less could be decoded than its header says or its bytes hold.

    The first decoder raises CannotRead, since the next may get across the damage, or read what this
    one passes over; the one that knows of an earlier claim raises UnusableAudio.
    """
    claims_s = max(claimed_s, max(source.claimed_frames, held) / source.sample_rate_hz)
    decoded_s = frames / source.sample_rate_hz
    if claims_s - decoded_s > max(MISSING_FRACTION * claims_s, MISSING_S):
        text = f"the file claims or holds {claims_s:.2f} s, {decoded_s:.2f} s could be decoded"
        if claimed_s:
            raise UnusableAudio("truncated", text)
        raise CannotRead(text, claimed_s=claims_s)


_REWRITE = (
    "write it anew with its true length (`sox --ignore-length IN OUT.wav`, "
    "`ffmpeg -ignore_length 1 -i IN OUT.wav`)"
)
