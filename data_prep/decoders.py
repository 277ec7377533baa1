"""Opening audio files: by content, never by name, block by block.

libsndfile first (it is the faster one and gives the same samples everywhere), FFmpeg through PyAV
for what libsndfile cannot read (AAC, WMA, some MP3s).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.errors import CannotRead, SpoolError, UnusableAudio

if TYPE_CHECKING:
    import soundfile
    from numpy.typing import NDArray

BLOCK_VALUES = 1 << 20  # samples x channels decoded at a time: 4 MB of float32
# A decoder may lose a little at the ends; a file that lacks more of what it claims was cut off.
MISSING_FRACTION = 0.01
# Containers FFmpeg may open. Play lists are not among them: they would open other files and URLs.
FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
)
# libsndfile reports damage in MIDI sample dumps on standard output, where our results go.
SAMPLE_DUMP = b"\xf0\x7e"


@dataclass(slots=True)
class Blocks:
    """An opened file: its format, what its header claims (0: nothing), and its blocks [T, C]."""

    codec: str
    sample_rate_hz: int
    channels: int
    claimed_frames: int
    blocks: Iterator[NDArray[np.float32]]


@contextmanager
def decoder_errors() -> Iterator[None]:
    """Turn whatever a decoder raises into CannotRead: it is the file's fault, not the run's.

    PyAV alone has 52 kinds of errors, and tags that are no UTF-8, sizes beyond 64 bits and memory
    that a header asks for come as Python's own.
    """
    try:
        yield
    except (CannotRead, UnusableAudio, SpoolError):
        raise
    except Exception as err:
        raise CannotRead(brief(err)) from err


def container_cut(path: Path) -> str:
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


def _ogg_links(path: Path) -> list[int]:
    """Return the last sample position of each link of a (chained) Ogg file: RFC 3533 §4, §6.

    A link begins with a page flagged as the first of its stream (0x02). Only page headers are
    read. Raises CannotRead for pages out of order: at some of them libsndfile 1.2.2 reads the
    same page for ever (found by fuzzing), and what it can't be stopped from must not begin.
    """
    links: list[int] = []
    last: dict[bytes, int] = {}  # position by stream
    heads = False
    with path.open("rb") as file:
        while head := file.read(27):
            if head[:4] != b"OggS" or len(head) < 27:
                raise CannotRead("an Ogg file with something between its pages")
            lengths = file.read(head[26])
            file.seek(sum(lengths), 1)
            first = bool(head[5] & 0x02)
            if first and not heads:
                links.append(0)
            heads = first
            serial, position = head[14:18], int.from_bytes(head[6:14], "little", signed=True)
            if position == -1 and set(lengths) <= {255}:  # no packet ends on this page
                continue
            before = 0 if first else last.get(serial, -1)
            # A stream may begin anywhere, cut from a longer one; after that, page after page.
            most = _LATEST if before == 0 else before + _PAGE_SAMPLES
            if not 0 <= before <= position <= most:
                raise CannotRead("an Ogg file whose pages are out of order")
            last[serial] = position
            if links:
                links[-1] = max(links[-1], position)
    return links


_PAGE_SAMPLES = 255 * 8192  # packets of a page, samples of the longest (Vorbis; Opus has 5760)
_LATEST = 1 << 40  # 265 days at 48 kHz


def _check_whole(path: Path, file: soundfile.SoundFile) -> None:
    """Raise CannotRead where libsndfile would pass over samples without a word."""
    if file.format == "OGG" and len(links := _ogg_links(path)) > 1:
        rate = 48000 if file.subtype == "OPUS" else file.samplerate  # RFC 7845 §4
        raise CannotRead(f"a chain of {len(links)} Ogg streams", claimed_s=sum(links) / rate)
    if file.frames <= 0:
        raise CannotRead("the header says that there are no samples")


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
    # libsndfile must not own the descriptor: it closes it when it fails, too.
    file = soundfile.SoundFile(opened.fileno(), closefd=False)
    stack.enter_context(file)
    _check_whole(path, file)
    name = (file.subtype if file.format == "OGG" else file.format).lower()

    # An MP3 without a frame count: libsndfile guesses the length and reads no further than that.
    guessed = name == "mp3" and not _counts_frames(path)

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

    claimed = 0 if guessed else file.frames
    return Blocks(name, file.samplerate, file.channels, claimed, blocks())


# Containers whose duration is a count in the header, not FFmpeg's estimate from the bit rate.
_EXACT_DURATION = {"flac", "wav", "aiff", "w64", "caf", "mov", "mp4", "m4a"}


def open_ffmpeg(path: Path, stack: ExitStack) -> Blocks:
    """Open with FFmpeg, again by content (it gets an open file, no name)."""
    with decoder_errors():
        return _open_ffmpeg(path, stack)


def _open_ffmpeg(path: Path, stack: ExitStack) -> Blocks:
    import av

    av.logging.set_level(None)
    file = stack.enter_context(path.open("rb"))
    container = stack.enter_context(
        av.open(file, options={"format_whitelist": FFMPEG_FORMATS}, metadata_errors="ignore")
    )
    if not container.streams.audio:
        raise CannotRead("no audio stream")
    stream = container.streams.audio[0]
    context = stream.codec_context
    if context is None:
        raise CannotRead("a codec that FFmpeg has no decoder for")
    rate, channels, codec = context.sample_rate, context.channels, context.codec.canonical_name
    claimed = 0
    if stream.duration and _EXACT_DURATION & set(container.format.name.split(",")):
        claimed = int(stream.duration * stream.time_base * rate)

    def blocks() -> Iterator[NDArray[np.float32]]:
        # Interleaved: planar frames of eight channels and more crash in PyAV (found by fuzzing).
        to_float = av.AudioResampler(format="flt")
        packets = broken = 0
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as err:
                broken += 1
                last = err
                continue
            for frame in frames:
                if frame.sample_rate != rate or frame.layout.nb_channels != channels:
                    raise CannotRead("sample rate or channels change within the file")
                for part in to_float.resample(frame):
                    yield part.to_ndarray().reshape(-1, channels)
        if broken > max(1, MISSING_FRACTION * packets):
            raise CannotRead(f"{broken} of {packets} packets: {brief(last)}")

    return Blocks(codec, rate, channels, claimed, blocks())


def brief(err: BaseException) -> str:
    """Return a line that says what a decoder's error is; its kind where it is not told by name."""
    text = " ".join(str(err).split())
    named = isinstance(err, RuntimeError | OSError | ValueError) and text
    return (text if named else f"{type(err).__name__}: {text}".rstrip(": "))[:160]
