"""The table of a folder's recordings, row by row; errors name the rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.archives.cells import number_in
from dawnchorus.data_prep.archives.columns import map_columns
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.table_rows import RowTable, open_table
from dawnchorus.data_prep.archives.times import TimesOfLabels, refuse_times
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.sound_folders import is_sound_name

EXAMPLE = """\
    filename,label,recordist,licence
    audio/a.wav,Parus major,Ann,CC BY 4.0
    audio/b.mp3,Parus major;Turdus merula,Ben,CC0"""
_MAX_NAMED = 5
Row = dict[str, Any]


def refuse_pathless_times(
    metadata: Path, header: list[str], rows: list[tuple[int, Row]], options: FolderOptions
) -> None:
    """Refuse a table of times that names no files, as those of Raven and Audacity."""
    if any(options.columns.values()):
        return
    try:
        map_columns(header, options.columns)
    except PrepError:
        if named := next((name for name in header if is_sound_name(name)), ""):
            raise PrepError(
                f"{metadata} has no header: its first line names the file {named!r}. Put a line "
                "such as filename,label above it."
            ) from None
        if len(header) in (2, 3) and all(number_in(name) is not None for name in header[:2]):
            raise PrepError(
                f"{metadata} has no header; it looks like labels of Audacity, with times. Give it "
                f"as --annotations {metadata} instead."
            ) from None
        try:
            refuse_times(str(metadata), header, rows, lambda row: "", lambda name: 0.0)
        except TimesOfLabels as err:
            raise PrepError(
                f"{metadata} has events (the {err.columns}), but no column of recordings. Give it "
                f"as --annotations {metadata} instead, or name --path-column."
            ) from None


def read_table(
    path: Path, directory: Path, options: FolderOptions
) -> tuple[RowTable, list[tuple[int, Row]]]:
    """Return the table and its rows with their numbers. Raises PrepError that names bad rows."""
    if not path.is_file():
        others = sorted(
            p.name for p in directory.iterdir()
            if p.suffix.lower() in (".csv", ".tsv", ".txt", ".parquet", ".jsonl") and p.is_file()
        )  # fmt: skip
        there = f" There are {', '.join(others[:_MAX_NAMED])}." if others else ""
        raise PrepError(
            f"There is no table at {path}.{there} Describe the recordings of {directory} in a "
            f"metadata.csv such as\n{EXAMPLE}\nor name another table with --metadata."
        )
    table = open_table(path, encoding=options.encoding, guess=True)
    good: list[tuple[int, Row]] = []
    bad: list[str] = []
    for number, row in table.numbered():
        if isinstance(row, BadRow):
            bad.append(f"row {number}: {row.detail.partition(', line ')[2].partition(': ')[2]}")
        elif any(value not in ("", None) for value in row.values()):
            good.append((number, row))
    if bad:
        more = f"\n  and {len(bad) - _MAX_NAMED} more" if len(bad) > _MAX_NAMED else ""
        count = "a row" if len(bad) == 1 else f"{len(bad)} rows"
        raise PrepError(
            f"{path} has {count} that cannot be read:\n  "
            + "\n  ".join(bad[:_MAX_NAMED])
            + more
            + "\nPut cells that hold commas (decimal commas too) or quotes in quotes, or save the "
            "table with tabs, as UTF-8."
            + (" Or name its --encoding, such as shift_jis." if "not utf-8" in str(bad) else "")
        )
    if not good:
        raise PrepError(f"{path} has a header but no rows.")
    if table.kind == "jsonl":  # any row, also the first, may lack columns that others have
        names = dict.fromkeys(name for _, row in good for name in row)
        table = dataclasses.replace(table, columns=tuple(names))
    return table, good
