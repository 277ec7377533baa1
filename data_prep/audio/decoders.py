"""Opening audio files: by content, never by name, block by block.

libsndfile first (it is the faster one and gives the same samples everywhere), FFmpeg through PyAV
for what libsndfile cannot read (AAC, WMA, some MP3s).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.audio.chunks import MISSING_FRACTION
from dawnchorus.data_prep.audio.extents import extent
from dawnchorus.data_prep.audio.ogg_packets import packet_samples
from dawnchorus.data_prep.audio.stream_counts import (
    counts_frames,
    flac_frames,
    mp3_frames,
    ogg_pages,
)
from dawnchorus.data_prep.errors import CannotRead, SpoolError, UnusableAudio

if TYPE_CHECKING:
    import soundfile
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from numpy.typing import NDArray

BLOCK_VALUES = 1 << 20  # samples x channels decoded at a time: 4 MB of float32
# Containers FFmpeg may open. Play lists are not among them: they would open other files and URLs.
FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
)
# libsndfile reports damage in MIDI sample dumps on standard output, where our results go.
SAMPLE_DUMP = b"\xf0\x7e"
# A decoder may lose a little at the ends; a file that lacks more of what it claims was cut off.
MISSING_S = 0.1
# libsndfile's encodings with 16 bit or fewer.
_COARSE = (
    "PCM_S8", "PCM_U8", "PCM_16", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "VOX", "NMS",
    "G72", "DWVW_12", "DWVW_16", "DPCM", "ALAC_16",
)  # fmt: skip
_UNUSED = 0.1  # of an MP4's bytes for sound: what its sample tables may leave out


@dataclass(slots=True)
class Blocks:
    """An opened file: its format, what its header claims (0: nothing), and its blocks [T, C]."""

    codec: str
    sample_rate_hz: int
    channels: int
    claimed_frames: int
    fine: bool
    """Whether the codec has more than 16 bit."""
    blocks: Iterator[NDArray[np.float32]]


@contextmanager
def decoder_errors() -> Iterator[None]:
    """Turn every exception of a decoder into CannotRead, because the file caused it, not the run.

    PyAV alone has 52 kinds of errors, and tags that are no UTF-8, sizes beyond 64 bits and memory
    that a header asks for come as Python's own.
    """
    try:
        yield
    except (CannotRead, UnusableAudio, SpoolError):
        raise
    except Exception as err:
        raise CannotRead(brief(err)) from err


def _held_frames(path: Path, file: soundfile.SoundFile) -> int:
    """Return the samples that a compressed stream holds, by its own frames; 0: not known.

    Raises CannotRead where libsndfile would skip samples without an error.
    """
    held = 0
    if file.format == "OGG":
        links = ogg_pages(path).links
        rate = 48000 if file.subtype == "OPUS" else file.samplerate  # RFC 7845 §4
        if len(links) > 1:
            seconds = sum(links) / rate
            raise CannotRead(f"a chain of {len(links)} Ogg streams", claimed_s=seconds)
        held = int((packet_samples(path) - ENDS) * file.samplerate / rate)
    elif file.format == "FLAC":
        held = flac_frames(path)
    elif file.format == "MP3":
        held = mp3_frames(path) - ENDS
    if file.frames <= 0:
        raise CannotRead("the header says that there are no samples")
    return max(0, held)


ENDS = 5 * 1152  # samples that encoders add before and behind, and decoders take off again


def _packets_s(path: Path) -> float:
    """Return how long all packets of an MP4 are, those outside its edit list too; in seconds."""
    with ExitStack() as stack:
        container = _container(path, stack, {"ignore_editlist": "1"})
        stream = container.streams.audio[0]
        ticks = sum(packet.duration or 0 for packet in container.demux(stream))
        return float(ticks * (stream.time_base or 0))


def open_soundfile(path: Path, stack: ExitStack) -> Blocks:
    """Open with libsndfile, through a descriptor so that the file name plays no part."""
    with decoder_errors():
        return _open_soundfile(path, stack)


def _open_soundfile(path: Path, stack: ExitStack) -> Blocks:
    import soundfile

    try:
        opened = stack.enter_context(path.open("rb"))
    except OSError as err:
        raise UnusableAudio("unreadable", f"{err.strerror or err}") from err
    if os.pread(opened.fileno(), 2, 0) == SAMPLE_DUMP:
        raise CannotRead("a MIDI sample dump")
    # libsndfile must not own the descriptor, because it closes it also when it fails.
    file = soundfile.SoundFile(opened.fileno(), closefd=False)
    stack.enter_context(file)
    held = _held_frames(path, file)
    name = (file.subtype if file.format == "OGG" else file.format).lower()

    # An MP3 without a frame count: libsndfile guesses the length and reads no further than that.
    guessed = name == "mp3" and not counts_frames(path)

    def blocks() -> Iterator[NDArray[np.float32]]:
        count = max(1, BLOCK_VALUES // file.channels)
        decoded = 0
        while True:
            with decoder_errors():
                block_TC = file.read(count, dtype="float32", always_2d=True)
            if not len(block_TC):
                break
            decoded += len(block_TC)
            yield block_TC
        if guessed and decoded == file.frames:
            raise CannotRead("an MP3 without a frame count, longer than it seems")

    claimed = max(0 if guessed else file.frames, held)
    fine = not file.subtype.startswith(_COARSE)
    return Blocks(name, file.samplerate, file.channels, claimed, fine, blocks())


# Containers whose duration is a count in the header, not FFmpeg's estimate from the bit rate.
_EXACT_DURATION = {
    "flac",
    "wav",
    "aiff",
    "w64",
    "caf",
    "mov",
    "mp4",
    "m4a",
    "au",
    "wv",
    "tta",
    "ape",
}


def open_ffmpeg(path: Path, stack: ExitStack) -> Blocks:
    """Open with FFmpeg, again by content (it gets an open file, no name)."""
    with decoder_errors():
        container = _container(path, stack)
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None:
            raise CannotRead("a codec that FFmpeg has no decoder for")
        codec = context.codec.canonical_name
        claimed = _claimed_frames(container, stream)
        return Blocks(
            codec, context.sample_rate, context.channels, claimed, _is_fine(context),
            _ffmpeg_blocks(path, container),
        )  # fmt: skip


def _is_fine(context: AudioCodecContext) -> bool:
    """Return whether a codec gives more than 16 bit: by its format, or by the bits it states."""
    bits = int(getattr(context, "bits_per_raw_sample", 0) or 0)
    coarse = (context.format.name if context.format else "").removesuffix("p") in ("u8", "s16")
    return bits > 16 or not coarse


def _container(
    path: Path, stack: ExitStack, options: Mapping[str, str] = MappingProxyType({})
) -> InputContainer:
    import av

    av.logging.set_level(None)
    file = stack.enter_context(path.open("rb"))
    container: InputContainer = stack.enter_context(
        av.open(
            file, options={"format_whitelist": FFMPEG_FORMATS, **options}, metadata_errors="ignore"
        )
    )
    if not container.streams.audio:
        raise CannotRead("no audio stream")
    return container


def _claimed_frames(container: InputContainer, stream: AudioStream) -> int:
    """Return the samples that the header claims, 0 where it does not say or only estimates."""
    kinds = set(container.format.name.split(","))
    rate = stream.codec_context.sample_rate
    if stream.duration and stream.time_base and _EXACT_DURATION & kinds:
        return int(stream.duration * stream.time_base * rate)
    # Of the whole file, in microseconds: only where it is nothing but this sound.
    if "matroska" in kinds and container.duration and len(container.streams) == 1:
        return container.duration * rate // 1_000_000
    return 0


def _ffmpeg_blocks(path: Path, container: InputContainer) -> Iterator[NDArray[np.float32]]:
    """Yield what FFmpeg decodes; at the end, check that it is all that the file holds."""
    import av

    stream = container.streams.audio[0]
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    # Interleaved: planar frames of eight channels and more crash in PyAV (found by fuzzing).
    to_float = av.AudioResampler(format="flt")
    packets = broken = decoded = size = length = 0
    for packet in container.demux(stream):
        packets += 1
        size += packet.size
        length += packet.duration or 0
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as err:
            broken += 1
            last = err
            continue
        for frame in frames:
            if frame.sample_rate != rate or frame.layout.nb_channels != channels:
                raise CannotRead("sample rate or channels change within the file")
            decoded += frame.samples
            for part in to_float.resample(frame):
                yield part.to_ndarray().reshape(-1, channels)
    if broken > max(1, MISSING_FRACTION * packets):
        raise CannotRead(f"{broken} of {packets} packets: {brief(last)}")
    if "mp4" in container.format.name and packets > 1 and stream.time_base:
        mean_s = float(length * stream.time_base) / (packets - 1)  # the last one is empty
        # As many packets as the tables list: no edit list has left any out.
        if stream.frames > 1.01 * packets:
            _check_edits(_packets_s(path), decoded / rate, mean_s)
        if len(container.streams) == 1:
            _check_payload(extent(path).payload, size)


def _check_edits(held_s: float, decoded_s: float, packet_s: float) -> None:
    """Raise for an MP4 whose edit list shows less than its packets hold, apart from the codec's
    delay.
    """
    if held_s - decoded_s > max(MISSING_FRACTION * held_s, MISSING_S, 3 * packet_s):
        raise UnusableAudio(
            "understated",
            f"its edit list shows {decoded_s:.2f} s of the {held_s:.2f} s that are in the file; "
            "write anew what is meant (`ffmpeg -i IN OUT.wav`, all of it with -ignore_editlist 1)",
        )


def _check_payload(payload: int, used: int) -> None:
    """Raise for an MP4 whose tables name only a part of the bytes of sound."""
    if payload - used > max(_UNUSED * payload, 4096):
        raise UnusableAudio(
            "understated",
            f"its tables name {used:,} of {payload:,} bytes of sound: they do not name the rest",
        )


def brief(err: BaseException) -> str:
    """Return one line about a decoder's error, with its type where the message does not name it."""
    text = " ".join(str(err).split())
    named = isinstance(err, RuntimeError | OSError | ValueError) and text
    return (text if named else f"{type(err).__name__}: {text}".rstrip(": "))[:160]
