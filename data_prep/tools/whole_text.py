"""A text file appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.files import whole_file


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines (their ends added) as UTF-8, beside the file and then in its place.

    Raises PrepError where the disk refuses; what `lines` raises goes on, and no file is left.
    """
    try:
        with whole_file(path) as file:
            for line in lines:
                file.write(f"{line}\n".encode())
    except OSError as err:
        raise PrepError(f"{path} cannot be written: {err}. Choose another place.") from err
