"""Small text files that stand for a file that was not fetched: Git LFS and git-annex."""

from __future__ import annotations

from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = (b"/annex/objects/", b"../.git/annex/objects/", b".git/annex/objects/")
_SIZE = 1024  # pointers are never longer


def pointer_at(path: Path) -> str:
    """Return `pointer_in` of a file; '' where it cannot be read."""
    try:
        return pointer_in(path.read_bytes()) if path.stat().st_size <= _SIZE else ""
    except OSError:
        return ""


def pointer_in(start: bytes) -> str:
    """Return which pointer begins so and what to do about it; '' where it is not a pointer."""
    start = start[:_SIZE].removeprefix(b"\xef\xbb\xbf")
    if start.startswith(_LFS):
        return "a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned"
    if start.startswith(_ANNEX):
        return "a git-annex pointer, not the file itself: run `git annex get` where it was cloned"
    return ""
