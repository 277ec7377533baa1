"""Any audio file -> mono 16-bit PCM at one sample rate, in bounded memory.

The content decides how a file is read, never its name: libsndfile first (it is the faster one and
gives the same samples everywhere), FFmpeg through PyAV for what libsndfile cannot read (AAC, WMA,
some MP3s). Everything flows in blocks, so a recording of hours, or a file whose header claims
hours, costs no more memory than a short one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.audio.chunks import MISSING_FRACTION
from dawnchorus.data_prep.audio.decoders import (
    BLOCK_VALUES,
    MISSING_S,
    Blocks,
    decoder_errors,
    open_ffmpeg,
    open_soundfile,
)
from dawnchorus.data_prep.audio.extents import extent
from dawnchorus.data_prep.audio.levels import Levels, Power
from dawnchorus.data_prep.audio.pcm import FULL_SCALE, Pcm
from dawnchorus.data_prep.audio.pointers import pointer_at
from dawnchorus.data_prep.errors import CannotRead, UnusableAudio

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Whale recorders decimate to a few hundred Hz, bat recorders reach 1 MHz.
RATES_HZ = (100, 4_000_000)
MAX_CHANNELS = 64
# With a larger share of saturated samples, the values were not scaled to ±1 (raw counts, pascals).
MAX_SATURATED = 0.1


@dataclass(frozen=True, slots=True)
class Original:
    """The properties of the file before its conversion."""

    codec: str
    sample_rate_hz: int
    channels: int
    frames: int
    fine: bool
    """Whether it has more than 16 bit: floats, 24 bit, or the resolution of a lossy codec."""
    levels: Levels

    @property
    def duration_s(self) -> float:
        """Seconds that were decoded."""
        return self.frames / self.sample_rate_hz


def decode(
    path: Path,
    sample_rate_hz: int,
    *,
    spool_dir: Path | None = None,
    max_hours: float = 24.0,
    channels: str = "mean",
    exact: bool = False,
    part_s: tuple[float, float] | None = None,
) -> tuple[Pcm, Original]:
    """Decode a file to mono int16 at `sample_rate_hz`: mean of channels, soxr HQ, rounding.

    `channels` "first" takes the first one instead of the mean; with `exact` the samples are kept
    as floats until they are read, so that a gain comes before the rounding. `part_s`: decode only
    between these seconds of the file; the rest is not checked.

    Raises UnusableAudio: `missing`, `unreadable`, `pointer`, `not_audio`, `corrupt`, `truncated`,
    `understated`, `empty`, `too_long`, `non_finite`, `silent`, `out_of_range` or `unsupported`.
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
        held=there.frames, channels=channels, exact=exact, part_s=part_s,
    )  # fmt: skip
    try:
        pcm, original = convert(open_soundfile)
    except CannotRead as first:
        try:
            pcm, original = convert(open_ffmpeg, claimed_s=first.claimed_s)
        except CannotRead as second:
            short = next((err for err in (first, second) if err.claimed_s), None)
            if short is not None:  # everything in the file could be read, and it is too little
                raise UnusableAudio("truncated", str(short)) from second
            reason = "corrupt" if first.opened or second.opened else "not_audio"
            # The file is opened by a number, which differs between runs.
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

    Only for planning: it is a claim, limited by what the bytes can hold (4 kbit/s).
    """
    import soundfile

    try:
        size = path.stat().st_size
        with path.open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as audio:
            frames, rate = audio.frames, audio.samplerate
    except Exception:  # whatever error libsndfile raises, the length is not known
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
    channels: str,
    exact: bool,
    part_s: tuple[float, float] | None,
    claimed_s: float = 0.0,
) -> tuple[Pcm, Original]:
    """Stream one decoder's blocks through down-mix and resampler into a `Pcm`.

    `held` are the samples that the container holds (0: not known), `claimed_s` is what another
    decoder found.
    """
    with decoder_errors(), ExitStack() as stack:  # closing a damaged file may raise, too
        source = opener(path, stack)
        _check_format(source)
        pcm = Pcm(sample_rate_hz, spool_dir, exact=exact)
        try:
            with decoder_errors():
                if part_s is not None:
                    source.blocks = _part(source.blocks, source.sample_rate_hz, part_s)
                frames, levels = _stream(source, pcm, max_hours, channels)
            if part_s is None:
                _check_complete(source, frames, claimed_s, held)
        except BaseException as err:
            pcm.close()
            if isinstance(err, CannotRead):
                err.opened = True
            raise
    rate_hz = source.sample_rate_hz
    return pcm, Original(source.codec, rate_hz, source.channels, frames, source.fine, levels)


def _stream(source: Blocks, pcm: Pcm, max_hours: float, channels: str) -> tuple[int, Levels]:
    """Fill `pcm` from the blocks; return the number of frames that were decoded, and levels."""
    resample = _resampler(source.sample_rate_hz, pcm)
    lowered = source.sample_rate_hz > pcm.sample_rate_hz
    mono = Power(spectrum=lowered)
    file = mono if source.channels == 1 else Power()
    new = mono if source.sample_rate_hz == pcm.sample_rate_hz else Power()
    frames = 0
    limit = max_hours * 3600.0 * source.sample_rate_hz
    for block_TC in source.blocks:
        wav_T = _mono(block_TC, channels)
        finite_T = np.isfinite(wav_T)  # NaN and infinity survive the mean
        if not finite_T.all():
            at_s = (frames + int(finite_T.argmin())) / source.sample_rate_hz
            raise UnusableAudio("non_finite", f"NaN or infinite samples from {at_s:.3f} s on")
        frames += len(block_TC)
        if frames > limit:
            raise UnusableAudio("too_long", f"longer than {max_hours:g} hours")
        mono.add(wav_T)
        if file is not mono:
            file.add(block_TC)
        for part_T in resample(wav_T):
            pcm.append(part_T)
            if new is not mono:
                new.add(part_T)
    for part_T in resample(None):
        pcm.append(part_T)
        new.add(part_T)
    if frames and file.nothing:
        value = "zero" if file.mean == 0 else "the same"
        raise UnusableAudio("silent", f"all samples are {value}")
    offset = new.mean
    peak = max(pcm.high / FULL_SCALE - offset, offset - pcm.low / FULL_SCALE) if frames else 0.0
    return frames, Levels.of(file, mono, new, peak, source.sample_rate_hz)


def _part(
    blocks: Iterator[NDArray[np.float32]], rate_hz: int, part_s: tuple[float, float]
) -> Iterator[NDArray[np.float32]]:
    """Yield the blocks between two times of a file."""
    first, last = (round(second * rate_hz) for second in part_s)
    at = 0
    for block_TC in blocks:
        begin, at = at, at + len(block_TC)
        if at > first:
            yield block_TC[max(0, first - begin) : last - begin]
        if at >= last:
            return


def _resampler(
    rate_hz: int, pcm: Pcm
) -> Callable[[NDArray[np.float32] | None], Iterator[NDArray[np.float32]]]:
    """Return what turns blocks at `rate_hz` into blocks at the rate of `pcm`; None ends it."""
    import soxr

    if rate_hz == pcm.sample_rate_hz:
        return lambda wav_T: iter(() if wav_T is None else (wav_T,))
    # HQ: aliases at -143 dB, 0.4 dB down at 7.5 kHz; birds have strong energy above 8 kHz.
    stream = soxr.ResampleStream(rate_hz, pcm.sample_rate_hz, 1, dtype="float32", quality="HQ")
    # What comes out must stay bounded, too: from 100 Hz to 16 kHz a block grows 160-fold.
    step = max(1, BLOCK_VALUES * rate_hz // pcm.sample_rate_hz)

    def parts(wav_T: NDArray[np.float32] | None) -> Iterator[NDArray[np.float32]]:
        if wav_T is None:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
            return
        for start in range(0, len(wav_T), step):
            yield stream.resample_chunk(wav_T[start : start + step])

    return parts


def _mono(block_TC: NDArray[np.float32], channels: str) -> NDArray[np.float32]:
    """Mean over channels; column by column, since NumPy's mean over a short axis is 10x slower."""
    wav_T = block_TC[:, 0]
    if block_TC.shape[1] == 1 or channels == "first":
        return np.ascontiguousarray(wav_T)
    for c in range(1, block_TC.shape[1]):
        wav_T = wav_T + block_TC[:, c]
    return wav_T / np.float32(block_TC.shape[1])


def _check_format(source: Blocks) -> None:
    if not RATES_HZ[0] <= source.sample_rate_hz <= RATES_HZ[1]:
        raise UnusableAudio("unsupported", f"sample rate {source.sample_rate_hz} Hz")
    if not 1 <= source.channels <= MAX_CHANNELS:
        raise UnusableAudio("unsupported", f"{source.channels} channels")


def _check(pcm: Pcm, original: Original) -> None:
    """Raise UnusableAudio for sound that no model can learn from."""
    if original.frames == 0:
        raise UnusableAudio("empty", "the file holds no samples")
    if pcm.samples == 0:
        raise UnusableAudio("too_short", f"{original.duration_s:.6f} s: no sample is left of it")
    if pcm.saturated > MAX_SATURATED * pcm.samples:
        share = pcm.saturated / pcm.samples
        raise UnusableAudio(
            "out_of_range", f"{share:.0%} of the samples are beyond full scale: not scaled to ±1"
        )


def _check_complete(source: Blocks, frames: int, claimed_s: float, held: int) -> None:
    """Raise for a file of which less was decoded than its header states or its bytes hold.

    The first decoder raises CannotRead, because the next one may get past the damage, or read what
    this one skips; the last one, which knows the earlier claim, raises UnusableAudio.
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


def header_length_s(path: Path) -> float:
    """Return the length of a sound in seconds, by its header; 0 where no decoder can tell it."""
    found = probe_duration_s(path)
    if found > 0 or not path.is_file():
        return found
    import av

    try:
        with av.open(str(path)) as container:
            return (container.duration or 0) / 1e6
    except (av.error.FFmpegError, OSError, ValueError):
        return 0.0
