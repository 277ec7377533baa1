"""All rows of the tables in columns, and which of them are still in.

Millions of rows: only the columns that decisions need are in memory, about 1.5 kB a row;
the rows themselves are streamed again when the result is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import FOREGROUND, Label
from dawnchorus.data_prep.table.recording_table import read_recordings, table_path
from dawnchorus.trainer.licences import read_licence

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

_TEXT = ("id", "source", "source_id", "path", "url", "licence_url", "recordist", "quality",
         "sound_type", "datetime", "group_id", "split", "fold")  # fmt: skip
_ABOVE = frozenset(("kingdom", "phylum", "class", "order", "family", "genus"))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step left over. `hours` counts recordings whose length is known."""

    name: str
    recordings: int
    hours: float
    dropped: dict[str, int]


@dataclass
class Rows:
    """The rows of all tables, in their order; column `n` numbers them.

    `reason_R` is "" while a row is in; `detail_R` says more of one that is out.
    """

    frame: pl.DataFrame
    reason_R: NDArray[np.object_]
    detail_R: NDArray[np.object_]
    steps: list[Step] = field(default_factory=list)

    def left(self) -> pl.DataFrame:
        """Return the rows that are still in."""
        import polars as pl

        return self.frame.filter(pl.Series(self.reason_R == ""))

    def drop(self, numbers: Sequence[int] | pl.Series, reason: str, detail: object = "") -> None:
        """Remove rows; a row that was removed before keeps its first reason. `detail`: one text or
        many.
        """
        details = [detail] * len(numbers) if isinstance(detail, str) else list(detail)  # type: ignore[call-overload]
        for n, text in zip(numbers, details, strict=True):
            if not self.reason_R[n]:
                self.reason_R[n], self.detail_R[n] = reason, text

    def step(self, name: str) -> None:
        """Note how much is left after a step."""
        out_R = self.reason_R[self.reason_R != ""].astype(str)
        reasons, counts = np.unique(out_R, return_counts=True)
        total = dict(zip(reasons.tolist(), counts.tolist(), strict=True))
        for step in self.steps:
            for reason, count in step.dropped.items():
                total[reason] -= count
        left = self.left()
        hours = float(left["duration_s"].sum()) / 3600
        dropped = {reason: count for reason, count in total.items() if count}
        self.steps.append(Step(name, left.height, hours, dropped))

    def set_column(self, name: str, values: pl.Series) -> None:
        """Replace a column of all rows."""
        self.frame = self.frame.with_columns(values.alias(name))


def read_rows(tables: Mapping[str, tuple[Path, Path | None]]) -> Rows:
    """Read `{name: (table, folder of its audio)}`.

    Columns: `n`, `table`, `licence` (a code), `audio` (path on disk or ""), `names` (foreground,
    list), `others` (background names, list), `duration_s`, and texts of the recording table.
    Raises PrepError for a table that is none.
    """
    import polars as pl

    frame = pl.concat(
        [_read(name, table, audio) for name, (table, audio) in tables.items()], how="vertical"
    ).with_row_index("n")
    blank = np.full(frame.height, "", object)
    return Rows(frame, blank, blank.copy())


def _read(name: str, table: Path, audio: Path | None) -> pl.DataFrame:
    import polars as pl

    found = table_path(table)
    try:
        scan = pl.scan_parquet(found)
        there = scan.collect_schema().names()
        missing = {"id", "source", "source_id", "labels"} - set(there)
        if missing:
            raise PrepError(f"{found} is no recording table: no column {sorted(missing)}.")
        label = pl.element().struct.field
        names = pl.col("labels").list
        is_front = label("role").fill_null(FOREGROUND) == FOREGROUND
        texts = [(pl.col(c) if c in there else pl.lit(None)).cast(pl.String) for c in _TEXT]
        known_s = pl.col("duration_s") if "duration_s" in there else pl.lit(0.0)
        frame = scan.select(
            *[text.fill_null("").alias(c) for text, c in zip(texts, _TEXT, strict=True)],
            known_s.cast(pl.Float64).fill_null(0.0).alias("duration_s"),
            names.eval(label("name").filter(is_front)).fill_null([]).alias("names"),
            names.eval(label("name").filter(~is_front)).fill_null([]).alias("others"),
            names.eval(label("rank").filter(is_front)).fill_null([]).alias("ranks"),
        ).collect()
    except pl.exceptions.PolarsError as err:
        raise PrepError(f"{found} cannot be read: {err}. Make it again.") from err
    root = (audio or found.parent).resolve()
    return frame.with_columns(
        pl.lit(name).alias("table"),
        pl.Series("audio", [str(root / p) if p else "" for p in frame["path"]], dtype=pl.String),
        pl.Series("licence", map(_kind, frame["licence_url"]), dtype=pl.String),
        pl.Series("order", hash_order(frame["id"]), dtype=pl.UInt64),
    )


def _kind(text: str) -> str:
    return read_licence(text).kind


def hash_order(ids: Iterable[str], salt: str = "") -> NDArray[np.uint64]:
    """Return a number for each id that looks random and never changes."""
    key = salt.encode()
    digest = b"".join(
        hashlib.blake2b(i.encode(), digest_size=8, key=key[:64]).digest() for i in ids
    )
    return np.frombuffer(digest, "<u8")


def rows_of_taxa(path: Path, names: Collection[str]) -> set[int]:
    """Return the rows of a table with a foreground label that is or belongs to one of `names`."""
    wanted = frozenset(names)
    return {
        row
        for row, recording in enumerate(read_recordings(path))
        if any(wanted & _taxa(label) for label in recording.labels if label.role == FOREGROUND)
    }


def _taxa(label: Label) -> set[str]:
    """A label's name and those of what it belongs to, as far as its ids state them."""
    above = {value for rank, value in label.ids if rank in _ABOVE}
    # The first word of a binomial is the genus.
    genus = {label.name.partition(" ")[0]} if label.rank in ("species", "subspecies") else set()
    return {label.name} | above | genus
