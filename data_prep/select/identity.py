"""One recording under several names: archive numbers that the same sound has elsewhere.

Xeno-canto's recordings are in GBIF, BirdSet, BirdCLEF and BEANS, iNaturalist's in GBIF. All of them
keep the number somewhere: in the address, the file's name, or the credit.
"""

from __future__ import annotations

import re
from pathlib import PurePath

_ADDRESSES = (
    ("xc", re.compile(r"xeno-canto\.org/(?:species/[^/]+/|sounds/uploaded/[^/]+/XC)?(\d+)\b")),
    ("inat", re.compile(r"(?:static\.inaturalist\.org|inaturalist-open-data[^/]*)/sounds/(\d+)")),
    ("gbif", re.compile(r"gbif\.org/occurrence/(\d+)")),
    ("freesound", re.compile(r"freesound\.org/(?:people/[^/]+/)?(?:sounds?|s|embed)/(\d+)")),
)
_STEMS = (
    ("xc", re.compile(r"(?:^|[^A-Za-z])XC(\d{1,7})(?!\d)")),
    ("freesound", re.compile(r"^(?:\d+_)?[1-5]-(\d{2,7})-[A-Z](?:-\d+)?$")),  # ESC-10, ESC-50
    ("watkins", re.compile(r"^(\d{7,8}[0-9A-Z]?)$")),  # BEANS: year, tape, cut
    ("tsa", re.compile(r"^(?:TSA:)?([A-Z][a-z]+_[a-z]+_[A-Za-z]*_?\d[\w]*?)(?:_short)?$")),
)
# A Freesound upload is cut into several clips: the same number is not the same sound.
NOT_UNIQUE = ("freesound",)


def archive_keys(
    recording_id: str, source: str, source_id: str, url: str = "", path: str = ""
) -> set[str]:
    """Return all the names ("xc:254462") that this recording goes by.

    `path` counts by its file name. The first is its own id, unless that is empty.
    """
    keys = {recording_id} if recording_id else set()
    if source in ("xc", "birdset", "birdclef"):
        found = re.fullmatch(r"(?:XC)?(\d+)", source_id.strip())
        if found:
            keys.add(f"xc:{found.group(1)}")
    if source == "inatsounds" and source_id.isdigit():
        keys.add(f"inatsounds:{source_id}")
    if source == "asa":
        keys.add(f"tsa:{source_id.removeprefix('TSA:')}")
    for archive, pattern in _ADDRESSES:
        found = pattern.search(url)
        if found:
            keys.add(f"{archive}:{found.group(1)}")
    stem = PurePath(path.replace("\\", "/")).stem
    for archive, pattern in _STEMS:
        found = pattern.search(stem)
        if found and not (archive == "watkins" and source not in ("", "watkins", "folder")):
            keys.add(f"{archive}:{found.group(1)}")
    return keys


def youtube_key(recording_id: str) -> str:
    """Return "youtube:<YTID>" of an AudioSet id ("audioset:<YTID>@30"), else ""."""
    found = re.fullmatch(r"audioset:([A-Za-z0-9_-]{11})(?:@.*)?", recording_id)
    return f"youtube:{found.group(1)}" if found else ""


def event_keys(names: list[str], datetime: str, recordist: str) -> set[str]:
    """Return the keys "species|day|recordist" of a recording; none where one is not known."""
    day = datetime[:10]
    person = " ".join(recordist.casefold().split())
    if len(day) < 10 or not person:
        return set()
    return {f"{' '.join(name.casefold().split())}|{day}|{person}" for name in names}
