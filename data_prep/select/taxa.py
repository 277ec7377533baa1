"""The higher taxa of a selection's labels: the `taxa.parquet` of its tables, joined."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND

TAXA = "taxa.parquet"  # `chorus prep labels` writes it


def join_taxa(folders: Iterable[Path], used: Mapping[str, Counter[str]]) -> bytes | None:
    """Return the rows of the names that labels have, or None where no folder has a `taxa.parquet`.

    `used` is {role: {name: recordings}}; its counts replace those of the tables. What several
    tables say of a name is taken from the first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        table
        for folder in folders
        if (folder / TAXA).is_file()
        and "name" in (table := pq.read_table(folder / TAXA)).column_names
    ]
    if not tables:
        return None
    joined = pa.concat_tables(tables, promote_options="permissive")
    first: dict[str, int] = {}
    for row, name in enumerate(joined["name"].to_pylist()):
        if used[FOREGROUND][name] or used[BACKGROUND][name]:
            first.setdefault(name, row)
    names = sorted(first)
    joined = joined.take(pa.array([first[name] for name in names], pa.int64()))
    for role in (FOREGROUND, BACKGROUND):
        counts: Any = pa.array([used[role][name] for name in names], pa.int64())
        if role in joined.column_names:
            joined = joined.set_column(joined.column_names.index(role), role, counts)
        else:
            joined = joined.append_column(role, counts)
    sink = io.BytesIO()
    pq.write_table(joined, sink, compression="zstd")
    return sink.getvalue()
