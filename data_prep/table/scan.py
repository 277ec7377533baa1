"""Parquet files that may lack a column: what polars reads lazily, and its errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError

if TYPE_CHECKING:
    import polars as pl


def scan(path: Path, /, **defaults: Any) -> pl.LazyFrame:
    """Return the named columns of a parquet file, and `row`, the number of each row.

    A default takes the place of nulls, and of a whole column that is missing.
    """
    import polars as pl

    frame = pl.scan_parquet(path).with_row_index("row")
    there = frame.collect_schema().names()
    columns = {
        name: pl.lit(value) if name not in there
        else pl.col(name) if value is None
        else pl.col(name).fill_null(pl.lit(value))
        for name, value in defaults.items()
    }  # fmt: skip
    return frame.select("row", **columns)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise PrepError where polars cannot read `path`."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as err:
        said = str(err).partition("\n")[0]
        raise PrepError(f"{path} cannot be read: {said}. Make it again.") from err
