"""Writes files so that they appear whole or not at all, whatever stops the program."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole_path(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path beside `target` to write to; the file then takes the place of `target`.

    Args:
        target: the file; its folder is made if it is missing.
        durable: wait until the bytes are on disk, so that a power cut cannot leave a file of
            zeros. A writer of a million small files should instead sync once at the end.

    Raises:
        OSError: the writer raised it (no space left, say); nothing is left behind then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may write to the same folder with equal process ids.
    beside = target.with_name(f".{target.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        yield beside
        if durable:
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        beside.replace(target)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    if durable:
        sync_folder(target.parent)


@contextmanager
def whole_file(target: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for bytes; it appears under its name only when it is complete (`whole_path`)."""
    with whole_path(target, durable=durable) as beside, beside.open("wb") as file:
        yield file


def write_whole(target: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write bytes, or a text as UTF-8, to a file that appears whole or not at all."""
    with whole_file(target, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse this; the data itself is on disk
    finally:
        os.close(descriptor)
