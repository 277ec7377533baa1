"""Recordings that are a part of their file: AudioSet's segments of whole videos.

AudioSet names ten seconds of a video. Copies hold either that cut or, under a name without times,
the whole video; only the length of the sound tells which. Stored whole, a video of a minute would
be six clips with labels that were heard in one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.data_prep.archives.audioset_files import parse_name
from dawnchorus.data_prep.errors import UnusableAudio

if TYPE_CHECKING:
    from dawnchorus.data_prep.audio.decode import Original
    from dawnchorus.data_prep.audio.pcm import Pcm

LONGER_S = 1.0  # a cut may be this much longer than its segment: it begins at a frame of the video
_SHORT_S = 1.0  # a video may end this long before the segment's stated end


@dataclass(frozen=True, slots=True)
class Segment:
    """Which part of a video a recording is, in seconds, and the name of its file."""

    start_s: float
    end_s: float
    name: str


def segment_of(recording_id: str, duration_s: float, path: str) -> Segment | None:
    """Return the segment that an AudioSet recording ("audioset:<id>@<start>") is; else None.

    `duration_s` is that of the segment, as the list of segments has it.
    """
    source, _, rest = recording_id.partition(":")
    if source != "audioset" or not duration_s or not path:
        return None
    try:
        start_s = float(rest.rpartition("@")[2])
    except ValueError:
        return None
    return Segment(start_s, start_s + duration_s, Path(path).name)


def excerpt_of(segment: Segment, file_s: float) -> tuple[float, float] | None:
    """Return which part of its file, `file_s` long, a segment is, in seconds; None: all of it.

    Raises UnusableAudio with reason `not_the_segment`, where the file is longer than the segment
    and does not reach its end, or its name says that it is the cut.
    """
    start_s, end_s = segment.start_s, segment.end_s
    if file_s <= end_s - start_s + LONGER_S:
        return None
    what = f"{file_s:.1f} s in a file for the segment from {start_s:g} to {end_s:g} s of its video"
    if any(times for _, times in parse_name(segment.name)):
        raise UnusableAudio("not_the_segment", f"{what}, whose name says that it is the cut")
    if file_s < end_s - _SHORT_S:
        raise UnusableAudio("not_the_segment", f"{what}: neither the cut nor the whole video")
    return start_s, min(end_s, file_s)


def decode_segment(
    segment: Segment | None, as_asked: Callable[..., tuple[Pcm, Original]]
) -> tuple[Pcm, Original]:
    """Decode a file, and of a whole video its segment only.

    `as_asked` is `data_prep.audio.decode` with all arguments but `part_s`. Raises UnusableAudio.
    """
    pcm, original = as_asked()
    if segment is None:
        return pcm, original
    try:
        part_s = excerpt_of(segment, original.duration_s)
    except UnusableAudio:
        pcm.close()
        raise
    if part_s is None:
        return pcm, original
    pcm.close()
    return as_asked(part_s=part_s)
