"""Folders that only their owner can read and write, in places that are shared with others.

A folder in /tmp whose name can be guessed may have been made by somebody else before: with data of
theirs in it, or with links to files of ours.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


class NotPrivate(OSError):
    """A folder is somebody else's, or others may write into it; the message says which."""


def private_folder(path: Path) -> Path:
    """Make a folder with mode 0700, or make sure that the one there is ours alone.

    Of a folder of ours that others could only read, the mode becomes 0700. Links are not followed:
    the last part of the path may not be one.

    Returns:
        The path.

    Raises:
        NotPrivate: it is a link or no folder, belongs to another user, or others could write there.
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode):
        raise NotPrivate(f"{path} is a link")
    if not stat.S_ISDIR(state.st_mode):
        raise NotPrivate(f"{path} is not a folder")
    if state.st_uid != os.getuid():
        raise NotPrivate(f"{path} belongs to another user (uid {state.st_uid})")
    if state.st_mode & 0o022:
        raise NotPrivate(f"others may write into {path} (mode {stat.S_IMODE(state.st_mode):04o})")
    if state.st_mode & 0o077:
        # By a handle that follows no link, so that it is the folder that was looked at.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchmod(handle, 0o700)
        finally:
            os.close(handle)
    return path
