"""What a report or a card says of a dataset or of a recording table, as plain values.

Every number is a sum over a lazy table that polars streams: memory holds the distinct keys
(sources, countries, species ...), never the table.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dawnchorus.data_prep.report.findings import Findings, read_findings, read_object
from dawnchorus.data_prep.table.recording import BACKGROUND
from dawnchorus.data_prep.table.recording_table import table_path
from dawnchorus.data_prep.table.scan import readable, scan

if TYPE_CHECKING:
    import polars as pl

MAP_BIN_DEG = 2.0
DURATIONS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
NOT_STATED = "not stated"
NO_LABEL = "no label"
NO_TAXON = "sounds without a taxon"
_SHARED = ("source", "licence_url", "country", "split")
_COLUMNS = {
    **dict.fromkeys(("id", *_SHARED, "recordist", "datetime", "codec"), ""),
    "lat": math.nan, "lon": math.nan, "duration_s": 0.0, "sample_rate_hz": 0, "channels": 0,
    "labels": None,
}  # fmt: skip


class Share(NamedTuple):
    """A part of the recordings: those of one source, class, licence, country ..."""

    name: str
    recordings: int
    hours: float
    recordists: int = 0
    species: int = 0
    parts: tuple[Any, ...] = ()
    """Shares of a share: the orders of a class."""


class LabelCount(NamedTuple):
    """A label and how many recordings it is in the foreground of."""

    name: str
    rank: str
    recordings: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is counted. Hours are stored ones in a dataset, stated ones in a table."""

    name: str
    folder: Path
    finished: bool
    stats: dict[str, Any]
    """`stats.json`; empty for a table."""
    findings: Findings
    recordings: int
    hours: float
    unknown_length: int
    recordists: int
    species: int
    background: tuple[int, int]
    """(labels, mentions) in the background."""
    shares: dict[str, list[Share]]
    """By source, licence_url, country, split and class."""
    counts: dict[str, list[tuple[Any, int]]]
    """(value, recordings) of year, sample_rate_hz, channels and codec, where they are known."""
    places: list[tuple[float, float, int]]
    """(latitude, longitude of the middle of a bin, recordings)."""
    durations: list[int]
    """Recordings between the steps of DURATIONS_S, one more than there are steps."""
    labels: list[LabelCount]
    """Most frequent first."""

    @property
    def clips(self) -> int:
        """Clips of a dataset; 0 for a table."""
        return int(self.stats.get("clips") or 0)

    @property
    def placed(self) -> int:
        """Recordings with coordinates."""
        return sum(count for _, _, count in self.places)


def gather(path: Path, selection: Path | None = None) -> Facts:
    """Count what is in a dataset folder or a recording table (folder or file).

    `selection` is the folder of `chorus prep select`, where it is not the table's own. Raises
    PrepError where there is no table of recordings, or it cannot be read.
    """
    table = table_path(path)
    folder, index = table.parent, table.parent / "index.parquet"
    stats = read_object(folder / "stats.json")
    taxa = [place / "taxa.parquet" for place in (folder, selection) if place is not None]
    with readable(table):
        recordings = _recordings(table, index if index.is_file() else None)
        labels = _labels(recordings, next(filter(Path.is_file, taxa), None))
        counted = _count(recordings, labels)
    return Facts(
        name=str(stats.get("name") or folder.resolve().name), folder=folder, stats=stats,
        finished=index.is_file(), findings=read_findings(folder, selection), **counted,
    )  # fmt: skip


def _recordings(table: Path, index: Path | None) -> pl.LazyFrame:
    """One row per recording, with `hours`, `year`, `bin` (of its length), `south` and `west`.

    Hours are those stored by `index` (pieces of digital silence are not), else those that the table
    states.
    """
    import polars as pl

    frame = scan(table, **_COLUMNS)
    if index is None:
        frame = frame.with_columns(hours=pl.col("duration_s") / 3600)
    else:
        seconds = pl.col("samples") / pl.col("sample_rate_hz")
        stored = pl.scan_parquet(index).group_by(id="recording_id").agg(hours=seconds.sum() / 3600)
        frame = frame.join(stored, on="id", how="left").with_columns(pl.col("hours").fill_null(0.0))
    year = pl.col("datetime").str.slice(0, 4).str.to_integer(strict=False)
    placed = pl.col("lat").is_between(-90, 90) & pl.col("lon").is_between(-180, 180)
    return frame.with_columns(
        pl.col("recordist").replace("", None),
        year=pl.when(year.is_between(1850, 2100)).then(year),
        # One country under one name: some archives write the code, others the name.
        country=pl.col("country").str.strip_chars().replace(_countries()),
        bin=pl.when(pl.col("duration_s") > 0).then(
            pl.sum_horizontal((pl.col("duration_s") >= step).cast(pl.Int32) for step in DURATIONS_S)
        ),
        south=pl.when(placed).then((pl.col("lat") / MAP_BIN_DEG).floor()),
        west=pl.when(placed).then((pl.col("lon") / MAP_BIN_DEG).floor()),
    )


@functools.cache
def _countries() -> dict[str, str]:
    """English name by ISO code."""
    text = (resources.files("dawnchorus.data_prep.report") / "countries.txt").read_text("utf-8")
    pairs = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {code: name for code, _, name in pairs}


def _labels(recordings: pl.LazyFrame, taxa: Path | None) -> pl.LazyFrame:
    """One row per label: `name`, `rank`, `front`, `species` (or null), `klass`, `order`, and the
    columns of its recording. What the taxonomy in the file `taxa` says of all names goes before
    what each archive says.
    """
    import polars as pl

    # Older polars read a map as a list of pairs; a cast makes all of one form, with all fields.
    pairs = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
    label = pl.Struct({"name": pl.String, "rank": pl.String, "role": pl.String, "ids": pairs})

    def above(rank: str) -> pl.Expr:
        own = pl.element().filter(pl.element().struct.field("key") == rank)
        return pl.col("ids").list.eval(own.struct.field("value")).list.first().replace("", None)

    frame = (
        recordings.select("row", *_SHARED, "hours", "recordist", label="labels")
        .with_columns(pl.col("label").cast(pl.List(label)))
        .explode("label")
        .filter(pl.col("label").is_not_null())
        .unnest("label")
        .with_columns(pl.col("name", "rank").fill_null(""), klass=above("class"),
                      order=above("order"), front=pl.col("role").fill_null("") != BACKGROUND)
    )  # fmt: skip
    if taxa is not None:
        said = scan(taxa, name="", **{"class": "", "order": ""}).unique("name", keep="last")
        said = said.select("name", klass2=pl.col("class").replace("", None),
                           order2=pl.col("order").replace("", None))  # fmt: skip
        frame = frame.join(said, on="name", how="left").with_columns(
            klass=pl.coalesce("klass2", "klass"), order=pl.coalesce("order2", "order")
        )
    name = {rank: pl.when(pl.col("rank") == rank).then("name") for rank in (
        "species", "subspecies", "class", "order")}  # fmt: skip
    sound = pl.when(pl.col("rank") == "sound").then(pl.lit(NO_TAXON))
    return frame.with_columns(
        species=pl.coalesce(name["species"], name["subspecies"].str.extract(r"^(\S+ \S+)")),
        klass=pl.coalesce("klass", name["class"], sound, pl.lit(NOT_STATED)),
        order=pl.coalesce("order", name["order"], pl.lit("")),
    )


def _count(recordings: pl.LazyFrame, labels: pl.LazyFrame) -> dict[str, Any]:
    """Return the fields of `Facts` that are sums, from one pass over the table."""
    import polars as pl

    front = labels.filter("front")
    amounts = (pl.len(), pl.col("hours").sum())

    def distinct(frame: pl.LazyFrame, what: str, *keys: str) -> pl.LazyFrame:
        return frame.select(*keys, pl.col(what)).drop_nulls(what).unique()

    def shares(frame: pl.LazyFrame, *keys: str) -> pl.LazyFrame:
        shared = frame.group_by(keys).agg(amounts)
        for of, what in ((frame, "recordist"), (front, "species")):
            counted = distinct(of, what, *keys).group_by(keys).agg(pl.len().alias(what))
            shared = shared.join(counted, on=keys, how="left")
        return shared.with_columns(pl.col("recordist", "species").fill_null(0))

    def once(*keys: str) -> pl.LazyFrame:
        """Each recording once for each of its classes: it counts in all of them."""
        return front.select("row", *keys, "hours", "recordist").unique()

    queries = {
        "totals": recordings.select(*amounts, unknown=(pl.col("hours") <= 0).sum()),
        "recordists": distinct(recordings, "recordist").select(pl.len()),
        "species": distinct(front, "species").select(pl.len()),
        **{key: shares(recordings, key) for key in _SHARED},
        "classes": shares(once("klass"), "klass"),
        "orders": shares(once("klass", "order"), "klass", "order"),
        "bare": recordings.join(front.select("row"), on="row", how="anti").select(*amounts),
        "labels": labels.group_by("name", "rank", "front").len(),
        "places": recordings.group_by("south", "west").len(),
        **{key: recordings.group_by(key).len()
           for key in ("year", "bin", "sample_rate_hz", "codec", "channels")},
    }  # fmt: skip
    frames = pl.collect_all(list(queries.values()), engine="streaming")
    found = dict(zip(queries, frames, strict=True))

    def counts(key: str) -> list[tuple[Any, int]]:
        """Values in their order, without the unknown."""
        pairs = found[key].drop_nulls().sort(key).iter_rows()
        return [(value, n) for value, n in pairs if value or key in ("year", "bin")]

    bins = dict(counts("bin"))
    ranked = list(found["labels"].sort(["len", "name"], descending=[True, False]).iter_rows())
    behind = [n for _, _, ahead, n in ranked if not ahead]
    total, hours, unknown = found["totals"].row(0)
    return {
        "recordings": total, "hours": hours, "unknown_length": unknown,
        "recordists": found["recordists"].item(), "species": found["species"].item(),
        "shares": {key: _shares(found[key].iter_rows()) for key in _SHARED}
        | {"class": _classes(found)},
        "counts": {key: counts(key) for key in ("year", "sample_rate_hz", "channels")}
        | {"codec": sorted(counts("codec"), key=lambda row: -row[1])},
        "durations": [bins.get(i, 0) for i in range(len(DURATIONS_S) + 1)],
        "places": [((south + 0.5) * MAP_BIN_DEG, (west + 0.5) * MAP_BIN_DEG, n) for south, west, n
                   in found["places"].drop_nulls().sort("south", "west").iter_rows()],
        "labels": [LabelCount(name, rank, n) for name, rank, ahead, n in ranked if ahead],
        "background": (len(behind), sum(behind)),
    }  # fmt: skip


def _classes(found: dict[str, pl.DataFrame]) -> list[Share]:
    orders: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for klass, *order in found["orders"].iter_rows():
        orders[klass] += [tuple(order)] if order[0] else []
    rows = [(*row, _shares(orders[row[0]])) for row in found["classes"].iter_rows()]
    bare = found["bare"].row(0)
    return _shares([*rows, *([(NO_LABEL, *bare)] if bare[0] else [])], (NOT_STATED, NO_LABEL))


def _shares(rows: Iterable[tuple[Any, ...]], last: tuple[str, ...] = ("",)) -> list[Share]:
    """Rows as shares, most hours first; those that are called as in `last` (not known) last."""
    shares = [Share(*row) for row in rows]
    return sorted(shares, key=lambda s: (s.name in last, -s.hours, -s.recordings, s.name))
