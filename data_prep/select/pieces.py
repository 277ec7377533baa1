"""Results of long work, kept on disk in pieces.

A folder of small parquet files, each written whole: what was finished when the work was stopped is
there when the same command runs again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.files import whole_file

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

FLUSH_S = 20.0
FLUSH_ROWS = 2048


class Parts:
    """Rows that are added one by one and kept in the folder `folder`."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.rows: list[Mapping[str, Any]] = []
        self.flushed = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """Return these columns of all rows that are on disk."""
        import polars as pl

        frames = list(self.each(columns))
        if not frames:
            import pyarrow as pa

            empty = pa.schema([self.schema.field(name) for name in columns]).empty_table()
            return pl.DataFrame(pl.from_arrow(empty))
        return pl.concat(frames)

    def each(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield these columns of the rows on disk, a file at a time. A key may occur twice."""
        import polars as pl

        for file in sorted(self.folder.glob("*.parquet")):
            try:
                yield pl.read_parquet(file, columns=list(columns))
            except (pl.exceptions.PolarsError, OSError) as err:
                raise PrepError(
                    f"The results kept in {self.folder} cannot be read: {err}. Delete that folder; "
                    "the work is done again."
                ) from err

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; write the collected rows every 20 s."""
        self.rows.append(row)
        late = time.monotonic() - self.flushed > FLUSH_S
        if late or len(self.rows) >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the collected rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.flushed = time.monotonic()
        if not self.rows:
            return
        table = pa.Table.from_pylist(self.rows, schema=self.schema)
        with whole_file(self.folder / f"{uuid4().hex}.parquet") as file:
            pq.write_table(table, file, compression="zstd")
        self.rows = []

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()  # also after Ctrl-C: finished results are kept
