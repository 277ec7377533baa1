"""Counts over a recording table of any length, batch by batch.

Memory holds one batch of rows and the distinct keys (sources, countries, species ...), never the
table: a million recordings cost what their names cost.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_ROWS = 1 << 15  # rows of a batch: about 40 MB of labels
_COMPACT = 1 << 18  # rows that wait to be added up
_TEXT = ("id", "source", "licence_url", "recordist", "datetime", "country", "codec", "split")
_NUMBERS = ("lat", "lon", "duration_s")
_INTEGERS = ("sample_rate_hz", "channels")
NOT_STATED = "not stated"
NO_LABEL = "no label"
NO_TAXON = "sounds without a taxon"


class Tally:
    """Sums by key over frames that come one after another; without sums, the distinct keys."""

    def __init__(self, keys: Sequence[str], sums: Sequence[str] = ()) -> None:
        self.keys, self.sums = list(keys), list(sums)
        self.parts: list[pl.DataFrame] = []
        self.waiting = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Add the frame's rows to the sums."""
        part = self._sum(frame)
        self.parts.append(part)
        self.waiting += part.height
        if self.waiting > _COMPACT and len(self.parts) > 1:
            whole = self.frame()
            self.parts, self.waiting = [whole], 0

    def frame(self) -> pl.DataFrame:
        """Return one row per key, in the order of the keys."""
        import polars as pl

        if not self.parts:
            return pl.DataFrame(schema=[*self.keys, *self.sums])
        return self._sum(pl.concat(self.parts)).sort(self.keys, nulls_last=True)

    def _sum(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        if not self.sums:
            return frame.select(self.keys).unique()
        return frame.group_by(self.keys).agg(pl.col(name).sum() for name in self.sums)


def frames(
    table: Path, stored: pl.DataFrame | None, taxa: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (recordings, labels) of the table, a batch at a time.

    Recordings: `row`, the text columns, `year`, `lat`, `lon`, `duration_s`, `sample_rate_hz`,
    `channels`, `count` (1) and `hours`: the stored hours of `stored` (`id`, `hours`) where given,
    else the length that the table states. Labels: `row`, `name`, `rank`, `role`, `species`
    (binomial, or null), `class`, `order`; `taxa` has class and order of names that carry none.
    Columns that an older table lacks count as not stated.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        there = set(file.schema_arrow.names)
        columns = [n for n in (*_TEXT, *_NUMBERS, *_INTEGERS, "labels") if n in there]
        for batch in file.iter_batches(_ROWS, columns=columns):
            part = pa.Table.from_batches([batch])
            yield _recordings(part, stored), _labels(part, taxa)


def _recordings(part: pa.Table, stored: pl.DataFrame | None) -> pl.DataFrame:
    import polars as pl

    plain = part.drop_columns(["labels"]) if "labels" in part.column_names else part
    frame = pl.from_arrow(plain)
    assert isinstance(frame, pl.DataFrame)
    missing: list[Any] = [pl.lit("").alias(n) for n in _TEXT if n not in frame.columns]
    missing += [pl.lit(None, pl.Float64).alias(n) for n in _NUMBERS if n not in frame.columns] + [
        pl.lit(0).alias(n) for n in _INTEGERS if n not in frame.columns
    ]
    frame = frame.with_columns(missing).with_columns(
        pl.col(*_TEXT).fill_null(""), pl.col("duration_s").fill_null(0.0), count=pl.lit(1)
    )
    year = pl.col("datetime").str.slice(0, 4).str.to_integer(strict=False)
    frame = frame.with_columns(
        year=pl.when(year.is_between(1850, 2100)).then(year),
        # One country under one name: some archives write the code, others the name.
        country=pl.col("country").str.strip_chars().replace(_countries()),
    )
    if stored is None:
        frame = frame.with_columns(hours=pl.col("duration_s") / 3600)
    else:
        frame = frame.join(stored, on="id", how="left", maintain_order="left")
        frame = frame.with_columns(pl.col("hours").fill_null(0.0))
    return frame.with_row_index("row")


@functools.cache
def _countries() -> dict[str, str]:
    """English name by ISO code."""
    text = (resources.files("dawnchorus.data_prep.report") / "countries.txt").read_text("utf-8")
    pairs = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {code: name for code, _, name in pairs}


def _labels(part: pa.Table, taxa: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.string()
    if "labels" not in part.column_names:
        empty = pa.array([], text)
        found = dict.fromkeys(("name", "rank", "role", "class", "order"), empty)
        rows = pa.array([], pa.int64())
    else:
        column = part["labels"].combine_chunks()
        rows, flat = pc.list_parent_indices(column), pc.list_flatten(column)
        fields = {field.name for field in flat.type}
        nothing = pa.nulls(len(flat), text)
        found = {
            n: pc.struct_field(flat, n) if n in fields else nothing
            for n in ("name", "rank", "role")
        }
        ids = pc.struct_field(flat, "ids") if "ids" in fields else None
        for rank in ("class", "order"):
            found[rank] = nothing if ids is None else _lookup(ids, rank)
    frame = pl.from_arrow(pa.table({"row": rows, **found}))
    assert isinstance(frame, pl.DataFrame)
    return _named(frame, taxa)


def _lookup(ids: Any, key: str) -> Any:
    """Return the value of a key in a column of maps (or of lists of key and value)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if not pa.types.is_map(ids.type):
        if not pa.types.is_list(ids.type) or not pa.types.is_struct(ids.type.value_type):
            return pa.nulls(len(ids), pa.string())
        pairs = ids.values
        ids = pa.MapArray.from_arrays(ids.offsets, pairs.field("key"), pairs.field("value"))
    return pc.map_lookup(ids, pa.scalar(key), "first")


def _named(frame: pl.DataFrame, taxa: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """Add the species, and the class and order as far as they are known."""
    import polars as pl

    rank, name = pl.col("rank"), pl.col("name")
    binomial = name.str.extract(r"^(\S+ \S+)")
    frame = frame.with_columns(
        pl.col("row").cast(pl.UInt32), pl.col("name", "rank", "role").fill_null("")
    ).with_columns(
        role=pl.when(pl.col("role") == BACKGROUND).then("role").otherwise(pl.lit(FOREGROUND)),
        species=pl.when(rank == "species").then(name).when(rank == "subspecies").then(binomial),
    )
    if taxa:
        known = pl.DataFrame(
            [(n, *both) for n, both in taxa.items()],
            schema={"name": pl.String, "class2": pl.String, "order2": pl.String},
            orient="row",
        )
        frame = frame.join(known, on="name", how="left", maintain_order="left").with_columns(
            # What one taxonomy says of all names goes before what each archive says.
            pl.coalesce(_filled("class2"), "class").alias("class"),
            pl.coalesce(_filled("order2"), "order").alias("order"),
        )
    is_class, is_order, is_sound = rank == "class", rank == "order", rank == "sound"
    return frame.with_columns(
        pl.coalesce(
            _filled("class"),
            pl.when(is_class).then(name),
            pl.when(is_sound).then(pl.lit(NO_TAXON)),
            pl.lit(NOT_STATED),
        ).alias("class"),
        pl.coalesce(_filled("order"), pl.when(is_order).then(name), pl.lit("")).alias("order"),
    )


def _filled(column: str) -> pl.Expr:
    import polars as pl

    return pl.when(pl.col(column).str.len_bytes() > 0).then(pl.col(column))
