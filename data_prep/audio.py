"""Any audio file -> mono 16-bit PCM at one sample rate, in bounded memory.

The content decides how a file is read, never its name: libsndfile first (it is the faster one and
gives the same samples everywhere), FFmpeg through PyAV for what libsndfile cannot read (AAC, WMA,
some MP3s). Everything flows in blocks, so a recording of hours, or a file whose header claims
hours, costs no more memory than a short one.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from data_prep.errors import UnusableAudio

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_VALUES = 1 << 20  # samples x channels decoded at a time: 4 MB of float32
SPOOL_BYTES = 32 << 20  # PCM of a recording in memory (17 min at 16 kHz); more goes to disk
MIN_S = 0.1  # anything shorter holds not even a handful of 25 ms analysis frames
RATES_HZ = (
    100,
    4_000_000,
)  # whale recorders decimate to a few hundred Hz, bat recorders reach 1 MHz
MAX_CHANNELS = 64
# A decoder may lose a few frames at the ends; a file that lacks more than this was cut off.
MISSING_FRACTION = 0.01
MISSING_S = 0.1
# Beyond this share of saturated samples the values were never scaled to ±1 (raw counts, pascals).
MAX_SATURATED = 0.1
# Containers FFmpeg may open. Play lists are not among them: they would open other files and URLs.
FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
)


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
        self.peak = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (closed by `close`)
            max_size=SPOOL_BYTES, dir=None if spool_dir is None else str(spool_dir)
        )

    def append(self, wav_T: NDArray[np.float32]) -> None:
        """Append float samples, ±1 = full scale. What is beyond saturates, it never wraps."""
        # Full scale is 32768, as libsndfile and every reader of int16 FLAC have it.
        scaled_T = np.rint(wav_T * np.float32(32768.0))
        self.saturated += int(np.count_nonzero((scaled_T > 32767.0) | (scaled_T < -32768.0)))
        pcm_T = np.clip(scaled_T, -32768.0, 32767.0).astype("<i2")
        if pcm_T.size:
            self.peak = max(self.peak, int(np.abs(pcm_T.astype(np.int32)).max()))
        data = pcm_T.tobytes()
        self._sha1.update(data)
        self._file.write(data)
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


@dataclass(slots=True)
class _Blocks:
    """An opened file: its format, what its header claims (0: nothing), and its blocks [T, C]."""

    codec: str
    sample_rate_hz: int
    channels: int
    claimed_frames: int
    blocks: Iterator[NDArray[np.float32]]


class _CannotRead(Exception):
    """The file is not for this decoder; another may read it."""


def decode(
    path: Path, sample_rate_hz: int, *, spool_dir: Path | None = None, max_hours: float = 24.0
) -> tuple[Pcm, Original]:
    """Decode a file to mono int16 at `sample_rate_hz`: mean of channels, soxr HQ, rounding.

    Raises `UnusableAudio` with reason `missing`, `unreadable`, `not_audio`, `corrupt`,
    `truncated`, `empty`, `too_short`, `too_long`, `non_finite`, `silent`, `out_of_range` or
    `unsupported`.
    """
    try:
        size = path.stat().st_size
    except OSError as err:
        raise UnusableAudio("missing", f"{err.strerror or err}") from err
    if not path.is_file():
        raise UnusableAudio("missing", "not a file")
    if size == 0:
        raise UnusableAudio("empty", "the file has no bytes")
    try:
        pcm, original = _convert(path, _open_soundfile, sample_rate_hz, spool_dir, max_hours)
    except _CannotRead as first:
        try:
            pcm, original = _convert(path, _open_ffmpeg, sample_rate_hz, spool_dir, max_hours)
        except _CannotRead as second:
            opened = getattr(first, "opened", False) or getattr(second, "opened", False)
            reason = "corrupt" if opened else "not_audio"
            raise UnusableAudio(reason, f"libsndfile: {first}; FFmpeg: {second}") from second
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
    except (OSError, RuntimeError):
        return 0.0
    return float(min(frames / rate, size / 500.0)) if rate > 0 and frames > 0 else 0.0


def _convert(
    path: Path, opener: Any, sample_rate_hz: int, spool_dir: Path | None, max_hours: float
) -> tuple[Pcm, Original]:
    """Stream one decoder's blocks through down-mix and resampler into a `Pcm`."""
    with ExitStack() as stack:
        source: _Blocks = opener(path, stack)
        _check_format(source)
        pcm = Pcm(sample_rate_hz, spool_dir)
        try:
            frames = _stream(source, pcm, max_hours)
        except BaseException as err:
            pcm.close()
            if isinstance(err, _CannotRead):
                err.opened = True  # type: ignore[attr-defined]
            raise
        try:
            _check_complete(path, source, frames)
        except UnusableAudio:
            pcm.close()
            raise
    return pcm, Original(source.codec, source.sample_rate_hz, source.channels, frames)


def _stream(source: _Blocks, pcm: Pcm, max_hours: float) -> int:
    """Fill `pcm` from the blocks; return the number of frames that were decoded."""
    import soxr

    resampler = None
    if source.sample_rate_hz != pcm.sample_rate_hz:
        # HQ: aliases at -143 dB, 0.4 dB down at 7.5 kHz; birds have strong energy above 8 kHz.
        resampler = soxr.ResampleStream(
            source.sample_rate_hz, pcm.sample_rate_hz, 1, dtype="float32", quality="HQ"
        )
    frames = 0
    limit = max_hours * 3600.0 * source.sample_rate_hz
    for block_TC in source.blocks:
        if not np.isfinite(block_TC).all():
            at_s = (frames + int(np.argmin(np.isfinite(block_TC).all(axis=1)))) / (
                source.sample_rate_hz
            )
            raise UnusableAudio("non_finite", f"NaN or infinite samples from {at_s:.3f} s on")
        frames += len(block_TC)
        if frames > limit:
            raise UnusableAudio("too_long", f"longer than {max_hours:g} hours")
        wav_T = _mono(block_TC)
        pcm.append(resampler.resample_chunk(wav_T) if resampler else wav_T)
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


def _check_format(source: _Blocks) -> None:
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


def _check_complete(path: Path, source: _Blocks, frames: int) -> None:
    """Refuse a file that ends before its own header says so."""
    missing = source.claimed_frames - frames
    allowed = max(MISSING_FRACTION * source.claimed_frames, MISSING_S * source.sample_rate_hz)
    if missing > allowed:
        raise UnusableAudio(
            "truncated",
            f"the header says {source.claimed_frames / source.sample_rate_hz:.2f} s, "
            f"{frames / source.sample_rate_hz:.2f} s could be decoded",
        )
    cut = _container_cut(path)
    if cut:
        raise UnusableAudio("truncated", cut)


def _container_cut(path: Path) -> str:
    """Return how a RIFF, AIFF or Ogg container shows that its end is missing, or ''.

    libsndfile adapts the length of these to the bytes that are there, so it cannot tell.
    Sources: RIFF/AIFF chunk size at byte 4; RFC 3533 §6, header flag 0x04 = last page.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] in (b"RIFF", b"FORM"):
            claimed = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
            # 0, 2^31 - 1 and more are what recorders and pipes write when they do not know yet.
            known = 0 < claimed < 0x7FFFFFFF
            if known and claimed + 8 - size > max(16, MISSING_FRACTION * claimed):
                return f"the header says {claimed + 8} bytes, the file has {size}"
        elif head[:4] == b"OggS":
            file.seek(max(0, size - 2 * 65307))  # a page has at most 65,307 bytes
            tail = file.read()
            last = tail.rfind(b"OggS")
            if last < 0 or len(tail) < last + 6 or not tail[last + 5] & 0x04:
                return "the last Ogg page is missing"
    return ""


def _counts_frames(path: Path) -> bool:
    """Return whether an MP3 carries a frame count (a Xing or Info header).

    Without one libsndfile estimates the length from size and bit rate, tags and cover included.
    """
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            # ID3v2 §3.1: the size of the tag, 7 bits a byte.
            file.seek(10 + sum((byte & 0x7F) << (7 * (3 - i)) for i, byte in enumerate(head[6:10])))
        else:
            file.seek(0)
        frame = file.read(2048)
    return b"Xing" in frame or b"Info" in frame


def _open_soundfile(path: Path, stack: ExitStack) -> _Blocks:
    """Open with libsndfile, through a descriptor so that the file name plays no part."""
    import soundfile

    try:
        opened = stack.enter_context(path.open("rb"))
    except OSError as err:
        raise UnusableAudio("unreadable", f"{err.strerror or err}") from err
    try:
        # libsndfile must not own the descriptor: it closes it when it fails, too.
        file = soundfile.SoundFile(opened.fileno(), closefd=False)
    except (RuntimeError, TypeError) as err:
        raise _CannotRead(_brief(err)) from err
    stack.enter_context(file)
    name = (file.subtype if file.format == "OGG" else file.format).lower()

    # An MP3 without a frame count: libsndfile guesses the length and reads no further than that.
    guessed = name == "mp3" and not _counts_frames(path)

    def blocks() -> Iterator[NDArray[np.float32]]:
        count = max(1, BLOCK_VALUES // file.channels)
        decoded = 0
        while True:
            try:
                block_TC = file.read(count, dtype="float32", always_2d=True)
            except RuntimeError as err:
                raise _CannotRead(_brief(err)) from err
            if not len(block_TC):
                break
            decoded += len(block_TC)
            yield block_TC
        if guessed and decoded == file.frames:
            raise _CannotRead("an MP3 without a frame count, longer than it seems")

    claimed = 0 if guessed else file.frames
    return _Blocks(name, file.samplerate, file.channels, claimed, blocks())


# Containers whose duration is a count in the header, not FFmpeg's estimate from the bit rate.
_EXACT_DURATION = {"flac", "wav", "aiff", "w64", "caf", "mov", "mp4", "m4a"}


def _open_ffmpeg(path: Path, stack: ExitStack) -> _Blocks:
    """Open with FFmpeg, again by content (it gets an open file, no name)."""
    import av

    av.logging.set_level(None)
    try:
        file = stack.enter_context(path.open("rb"))
        container = stack.enter_context(
            av.open(file, options={"format_whitelist": FFMPEG_FORMATS}, metadata_errors="ignore")
        )
        if not container.streams.audio:
            raise _CannotRead("no audio stream")
        stream = container.streams.audio[0]
        context = stream.codec_context
        rate, channels, codec = context.sample_rate, context.channels, context.codec.canonical_name
    except (av.error.FFmpegError, OSError, ValueError) as err:
        raise _CannotRead(_brief(err)) from err
    claimed = 0
    if stream.duration and _EXACT_DURATION & set(container.format.name.split(",")):
        claimed = int(stream.duration * stream.time_base * rate)

    def blocks() -> Iterator[NDArray[np.float32]]:
        to_float = av.AudioResampler(format="fltp")
        try:
            for frame in container.decode(stream):
                if frame.sample_rate != rate or frame.layout.nb_channels != channels:
                    raise _CannotRead("sample rate or channels change within the file")
                for part in to_float.resample(frame):
                    yield part.to_ndarray().T
        except (av.error.FFmpegError, ValueError) as err:
            raise _CannotRead(_brief(err)) from err

    return _Blocks(codec, rate, channels, claimed, blocks())


def _brief(err: BaseException) -> str:
    text = " ".join(str(err).split()) or type(err).__name__
    return text[:160]
