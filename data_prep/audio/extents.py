"""What a container states about its sound, compared with what lies in the file.

A header may claim more than the file holds (it was cut), and less (a size of 32 bits wrapped, or a
recorder died before it wrote the last one). Decoders accept both without an error, so the sizes are
compared with the file here, in both directions. Counts in compressed streams are in
`data_prep.audio.stream_counts`; what was decoded is compared with both in `decode`.
"""

from __future__ import annotations

from pathlib import Path

from dawnchorus.data_prep.audio.boxes import BOXED, mp4
from dawnchorus.data_prep.audio.chunks import CHUNKED, Extent
from dawnchorus.data_prep.audio.stream_counts import behind_tags, flac_cut, ogg_pages


def extent(path: Path) -> Extent:
    """Inspect a container with a few reads, without decoding. No content of a file raises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = behind_tags(file, size)
        file.seek(start)
        head = file.read(16)
        known = (look for magic, look in (CHUNKED | BOXED).items() if head.startswith(magic))
        look = next(known, mp4(head))
        try:
            if look:
                return look(file, start, size)
            if head[:4] == b"OggS" and not start:
                return Extent(cut=ogg_pages(path).cut)
            if head[:4] == b"fLaC":
                return Extent(cut=flac_cut(path))
        except Exception:  # a header that is cut itself, or sizes that no file has
            return Extent()
    return Extent()
