"""Makes folders that only their owner can read and write, in places that are shared with others.

Another user may have made a folder in /tmp before us if its name can be guessed, and may have put
data into it, or links to our files.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


class NotPrivate(OSError):
    """A folder belongs to another user, or others may write into it; the message says which."""


def private_folder(path: Path) -> Path:
    """Make a folder with mode 0700, or make sure that an existing one is ours alone.

    If others could only read our folder, its mode becomes 0700. The last part of the path may not
    be a link.

    Returns:
        The path.

    Raises:
        NotPrivate: the path is a link or not a folder, belongs to another user, or others could
            write there.
        OSError: the folder cannot be made.
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
