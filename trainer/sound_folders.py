"""A folder of sound where a dataset is wanted: the commonest mistake, and what mends it."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path

_SOUND = frozenset(
    (".aac", ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mka", ".mp3", ".mp4",
     ".oga", ".ogg", ".opus", ".w64", ".wav", ".wave", ".webm", ".wma")
)  # fmt: skip
_LOOKED_AT = 2000
"""Files at most: the folder may be that of a large archive on a slow disk."""

PREPARE_AGAIN = (
    "prepare it again (`chorus prep folder RECORDINGS --out DATASET`, or `chorus prep shards "
    "TABLE --out DATASET` where it was made from a recording table)"
)
"""How a dataset is made, for messages about one that will not do."""


def what_to_do_with(folder: Path) -> str:
    """Return a sentence where a folder holds sound files: it has to be prepared first; else ''."""
    if not folder.is_dir() or not _holds_sound(folder):
        return ""
    name = folder.resolve().name or "sounds"
    command = shlex.join(
        ["chorus", "prep", "folder", str(folder), "--out", str(Path("datasets") / name)]
    )
    return f"{folder} is a folder of audio: use `{command}`, which makes a dataset of it"


def _holds_sound(folder: Path) -> bool:
    files = (name for _, _, names in os.walk(folder) for name in names)
    return any(is_sound_name(name) for name in islice(files, _LOOKED_AT))


def is_sound_name(name: str) -> bool:
    """Return whether a file's name is that of a sound; what it holds is another question."""
    return os.path.splitext(name)[1].lower() in _SOUND  # noqa: PTH122 (names, not paths)
