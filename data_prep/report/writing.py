"""A text file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dawnchorus.data_prep.errors import PrepError


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines (their ends added) as UTF-8, beside the file and then in its place.

    Raises PrepError where the disk refuses; what `lines` raises goes on, and no file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line)
                file.write("\n")
        temporary.replace(path)
    except OSError as err:
        raise PrepError(f"{path} cannot be written: {err}. Choose another place.") from err
    finally:
        with suppress(OSError):  # the place itself may not exist
            temporary.unlink(missing_ok=True)
