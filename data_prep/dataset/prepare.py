"""From a recording table to a dataset: the Python form of `chorus prep shards` and `merge`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.dataset.build import build_dataset, build_part, make_plan, merge_parts
from dawnchorus.data_prep.dataset.options import BuildOptions, Part
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import read_recordings, table_path

_FOOTER_BYTES = 1 << 16
COMPANIONS = ("selection.json", "duplicates.parquet", "leakage.parquet")


class StoredTable:
    """The recordings of a table file or folder, read anew each time they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = table_path(path)

    @property
    def companions(self) -> list[Path]:
        """The files that `chorus prep select` wrote beside the table; report and card read them."""
        folder = self.path.parent
        return [folder / name for name in COMPANIONS if (folder / name).is_file()]

    @property
    def identity(self) -> dict[str, Any]:
        """Identifies this state of the table without reading its rows."""
        stat = self.path.stat()
        with self.path.open("rb") as file:
            file.seek(max(0, stat.st_size - _FOOTER_BYTES))
            footer = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
        return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "footer": footer}

    def __iter__(self) -> Iterator[Recording]:
        return read_recordings(self.path)


def prepare_shards(
    table: Path | str,
    out: Path | str,
    *,
    audio: Path | str | None = None,
    part: Part | str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write the dataset `out` from a recording table; return its stats.

    Args:
        table: `recordings.parquet`, or the folder that holds it.
        out: the dataset's folder.
        audio: what the table's paths are relative to; by default the table's own folder.
        part: "i/n" writes only that part's shards; `merge` finishes the dataset.
        options: fields of `data_prep.dataset.options.BuildOptions`.

    Returns:
        The stats; for a part `{"shards_left": ...}`, how many of all are still to write.

    Raises:
        PrepError: with nothing that looks finished left in `out`.
    """
    recordings, root, build = check_request(table, audio, options)
    if isinstance(part, str):
        part = Part.parse(part)
    if part is None:
        return build_dataset(recordings, root, Path(out), build)
    return {"shards_left": build_part(recordings, root, Path(out), build, part)}


def plan(
    table: Path | str, out: Path | str, *, audio: Path | str | None = None, **options: Any
) -> int:
    """Make the plan that `prepare_shards(..., part=...)` follows; return the number of shards.

    Arguments and errors are those of `prepare_shards`.
    """
    recordings, root, build = check_request(table, audio, options)
    return make_plan(recordings, root, Path(out), build)


def check_request(
    table: Path | str, audio: Path | str | None, options: dict[str, Any]
) -> tuple[StoredTable, Path, BuildOptions]:
    """The request of `prepare_shards`: the recordings, the folder of their audio, the options.

    Raises PrepError where a part of it is invalid.
    """
    unknown = sorted(set(options) - {item.name for item in dataclasses.fields(BuildOptions)})
    if unknown:
        raise PrepError(f"Unknown options: {', '.join(unknown)}.")
    build = BuildOptions(**options)
    recordings = StoredTable(Path(table))
    root = Path(audio) if audio is not None else recordings.path.parent
    if not root.is_dir():
        raise PrepError(f"{root} is not a folder; --audio names the one that the paths start from.")
    return recordings, root, build


def merge(
    dataset: Path | str, *, max_broken: float = 0.01, allow_broken: bool = False
) -> dict[str, Any]:
    """Finish a dataset whose parts are all written; return its stats.

    Raises PrepError that says which parts are missing.
    """
    if not 0 <= max_broken <= 1:
        raise PrepError("max_broken must be 0 to 1.")
    return merge_parts(Path(dataset), max_broken=max_broken, allow_broken=allow_broken)
