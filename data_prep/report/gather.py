"""What a report or a card says of a dataset or of a recording table, as plain values.

Every number is a sum over a lazy table that polars streams: memory holds the distinct keys
(sources, countries, species ...), never the table.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.findings import Findings, read_findings
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND
from dawnchorus.trainer.sound_folders import what_to_do_with

if TYPE_CHECKING:
    import polars as pl

RECORDINGS = "recordings.parquet"
MAP_BIN_DEG = 2.0
DURATIONS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
NOT_STATED = "not stated"
NO_LABEL = "no label"
NO_TAXON = "sounds without a taxon"
_TEXT = ("id", "source", "licence_url", "recordist", "datetime", "country", "codec", "split")
_NUMBERS = ("lat", "lon", "duration_s", "sample_rate_hz", "channels")
_SHARED = ("source", "licence_url", "country", "split")


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the recordings: those of one source, class, licence, country ..."""

    name: str
    recordings: int
    hours: float
    species: int = 0
    recordists: int = 0
    parts: tuple[Share, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label and how many recordings it is in the foreground of."""

    name: str
    rank: str
    recordings: int


@dataclass(slots=True)
class Facts:
    """Everything that is counted. Hours are stored ones in a dataset, stated ones in a table."""

    name: str
    folder: Path
    finished: bool
    stats: dict[str, Any]
    findings: Findings
    recordings: int = 0
    hours: float = 0.0
    unknown_length: int = 0
    clips: int = 0
    recordists: int = 0
    species: int = 0
    background: tuple[int, int] = (0, 0)
    """(labels, mentions) in the background."""
    sources: list[Share] = field(default_factory=list)
    classes: list[Share] = field(default_factory=list)
    licences: list[Share] = field(default_factory=list)
    countries: list[Share] = field(default_factory=list)
    years: list[tuple[int, int]] = field(default_factory=list)
    no_year: int = 0
    splits: list[Share] = field(default_factory=list)
    places: list[tuple[float, float, int]] = field(default_factory=list)
    """(latitude, longitude of the middle of a bin, recordings)."""
    durations: list[int] = field(default_factory=list)
    """Recordings between the steps of DURATIONS_S, one more than there are steps."""
    rates: list[tuple[int, int]] = field(default_factory=list)
    codecs: list[tuple[str, int]] = field(default_factory=list)
    channels: list[tuple[int, int]] = field(default_factory=list)
    labels: list[LabelCount] = field(default_factory=list)
    """Most frequent first."""

    @property
    def placed(self) -> int:
        """Recordings with coordinates."""
        return sum(count for _, _, count in self.places)


def gather(path: Path, selection: Path | None = None) -> Facts:
    """Count what is in a dataset folder or a recording table (folder or file).

    `selection` is the folder of `chorus prep select`, where it is not the table's own. Raises
    PrepError where there is no table of recordings, or it cannot be read.
    """
    import polars as pl

    table = path / RECORDINGS if path.is_dir() else path
    folder = table.parent
    if not table.is_file():
        if told := what_to_do_with(path):
            raise PrepError(f"{told}.")
        raise PrepError(
            f"There is no {RECORDINGS} in {path}. Name a dataset, or the folder of a recording "
            "table that one of the archive commands of `chorus prep` wrote."
        )
    stats = _json(folder / "stats.json")
    index = folder / "index.parquet"
    facts = Facts(
        name=str(stats.get("name") or folder.resolve().name),
        folder=folder,
        finished=index.is_file(),
        stats=stats,
        findings=read_findings(folder, selection),
        clips=int(stats.get("clips") or 0),
    )
    try:
        recordings = _recordings(table, index if facts.finished else None)
        _count(facts, recordings, _labels(recordings, _taxa(folder, selection)))
    except (OSError, pl.exceptions.PolarsError) as err:
        said = str(err).partition("\n")[0]
        raise PrepError(f"{table} cannot be read: {said}. Make it again.") from err
    return facts


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as err:
        raise PrepError(f"{path} cannot be read: {err}. Make the dataset again.") from err
    return found if isinstance(found, dict) else {}


def _taxa(folder: Path, selection: Path | None) -> pl.LazyFrame | None:
    """`name`, `class2` and `order2` from a `taxa.parquet` beside the table, where there is one."""
    import polars as pl

    for place in (folder, selection):
        path = place / "taxa.parquet" if place is not None else None
        if path is None or not path.is_file():
            continue
        frame = pl.scan_parquet(path)
        there = frame.collect_schema().names()
        keys = [n for n in ("name", "label", "canonical") if n in there]
        if keys and "class" in there:
            order = pl.col("order") if "order" in there else pl.lit("")
            named = frame.select(pl.col(keys[0]).alias("name"), class2="class", order2=order)
            return named.unique("name", keep="last")
    return None


# --------------------------------------------------------------------------- the table


def _recordings(table: Path, index: Path | None) -> pl.LazyFrame:
    """One row per recording, with `row`, `count` (1), `hours`, `year`, `bin`, `south`, `west`.

    Hours are those stored by `index` (pieces of digital silence are not), else those that the table
    states. Columns that an older table lacks count as not stated.
    """
    import polars as pl

    frame = pl.scan_parquet(table)
    there = frame.collect_schema().names()
    empty = {n: pl.lit("") for n in _TEXT} | {n: pl.lit(None, pl.Float64) for n in _NUMBERS}
    frame = frame.select(
        *[n for n in (*_TEXT, *_NUMBERS, "labels") if n in there],
        *[value.alias(n) for n, value in empty.items() if n not in there],
    ).with_columns(pl.col(*_TEXT).fill_null(""), pl.col("duration_s").fill_null(0.0))
    if index is None:
        frame = frame.with_columns(hours=pl.col("duration_s") / 3600)
    else:
        seconds = pl.col("samples") / pl.col("sample_rate_hz")
        stored = pl.scan_parquet(index).group_by(id="recording_id").agg(hours=seconds.sum() / 3600)
        frame = frame.join(stored, on="id", how="left").with_columns(pl.col("hours").fill_null(0.0))
    year = pl.col("datetime").str.slice(0, 4).str.to_integer(strict=False)
    placed = pl.col("lat").is_between(-90, 90) & pl.col("lon").is_between(-180, 180)
    return frame.with_row_index("row").with_columns(
        count=pl.lit(1, pl.Int64),
        unknown=pl.col("hours") <= 0,
        year=pl.when(year.is_between(1850, 2100)).then(year),
        # One country under one name: some archives write the code, others the name.
        country=pl.col("country").str.strip_chars().replace(_countries()),
        bin=pl.when(pl.col("duration_s") > 0).then(
            pl.sum_horizontal((pl.col("duration_s") >= step).cast(pl.Int32) for step in DURATIONS_S)
        ),
        south=pl.when(placed).then((pl.col("lat") / MAP_BIN_DEG).floor().cast(pl.Int32)),
        west=pl.when(placed).then((pl.col("lon") / MAP_BIN_DEG).floor().cast(pl.Int32)),
    )


@functools.cache
def _countries() -> dict[str, str]:
    """English name by ISO code."""
    text = (resources.files("dawnchorus.data_prep.report") / "countries.txt").read_text("utf-8")
    pairs = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {code: name for code, _, name in pairs}


def _labels(recordings: pl.LazyFrame, taxa: pl.LazyFrame | None) -> pl.LazyFrame:
    """One row per label: `name`, `rank`, `front`, `species` (or null), `class`, `order`, and the
    columns of its recording.
    """
    import polars as pl

    schema = recordings.collect_schema()
    kind = schema.get("labels")
    fields = [f.name for f in kind.inner.fields] if isinstance(kind, pl.List) else []  # type: ignore[union-attr]
    label = pl.col("label")

    def part(name: str) -> pl.Expr:
        return label.struct.field(name) if name in fields else pl.lit(None, pl.String)

    # Polars reads a map as its own type or as a list of pairs, by its version.
    pairs = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))

    def known(rank: str) -> pl.Expr:
        own = pl.element().filter(pl.element().struct.field("key") == rank)
        value = pl.col("ids").list.eval(own.struct.field("value")).list.first()
        return pl.when(value.str.len_bytes() > 0).then(value)

    frame = recordings.select(
        "row", *_SHARED, "count", "hours", label="labels" if fields else pl.lit(None)
    )
    frame = frame.explode("label").filter(label.is_not_null()) if fields else frame.clear()
    frame = (
        frame.with_columns(
            name=part("name").fill_null(""),
            rank=part("rank").fill_null(""),
            front=part("role").fill_null(FOREGROUND) != BACKGROUND,
            ids=part("ids").cast(pairs) if "ids" in fields else pl.lit(None, pairs),
        )
        .with_columns(klass=known("class"), order=known("order"))
        .drop("label", "ids")
    )
    if taxa is not None:
        # What one taxonomy says of all names goes before what each archive says.
        frame = frame.join(taxa, on="name", how="left").with_columns(
            klass=pl.coalesce(pl.when(pl.col("class2") != "").then("class2"), "klass"),
            order=pl.coalesce(pl.when(pl.col("order2") != "").then("order2"), "order"),
        )
    name, rank = pl.col("name"), pl.col("rank")
    return frame.with_columns(
        species=pl.when(rank == "species").then(name).when(rank == "subspecies").then(
            name.str.extract(r"^(\S+ \S+)")
        ),
        klass=pl.coalesce(
            "klass",
            pl.when(rank == "class").then(name),
            pl.when(rank == "sound").then(pl.lit(NO_TAXON)),
            pl.lit(NOT_STATED),
        ),
        order=pl.coalesce("order", pl.when(rank == "order").then(name), pl.lit("")),
    )  # fmt: skip


# --------------------------------------------------------------------------- the sums


def _count(facts: Facts, recordings: pl.LazyFrame, labels: pl.LazyFrame) -> None:
    """Fill in everything, in one pass over the table."""
    import polars as pl

    front = labels.filter(pl.col("front"))
    named = front.filter(pl.col("species").is_not_null())
    people = recordings.filter(pl.col("recordist") != "")

    def sums(frame: pl.LazyFrame, *keys: str) -> pl.LazyFrame:
        return frame.group_by(keys).agg(pl.col("count", "hours").sum())

    def distinct(frame: pl.LazyFrame, *keys: str) -> pl.LazyFrame:
        return frame.select(keys).unique()

    # A recording with labels of two classes counts in both, with one of them once.
    once = ("row", "count", "hours")
    queries = {
        "totals": recordings.select(pl.col("count", "hours", "unknown").sum()),
        "recordists": distinct(people, "recordist"),
        "classes": sums(distinct(front, *once, "klass"), "klass"),
        "orders": sums(distinct(front, *once, "klass", "order"), "klass", "order"),
        "taxa": distinct(named, "klass", "order", "species"),
        "labels": sums(labels, "name", "rank", "front"),
        "bare": recordings.join(distinct(front, "row"), on="row", how="anti").select(
            pl.col("count", "hours").sum()
        ),
        **{key: sums(recordings, key) for key in (*_SHARED, "year", "bin", "codec", "channels")},
        "rates": sums(recordings, "sample_rate_hz"),
        "places": sums(recordings, "south", "west"),
        **{f"species of {key}": distinct(named, key, "species") for key in _SHARED},
        **{f"people of {key}": distinct(people, key, "recordist") for key in _SHARED},
    }
    frames = pl.collect_all(list(queries.values()), engine="streaming")
    found = dict(zip(queries, frames, strict=True))
    facts.recordings, facts.hours, facts.unknown_length = (v or 0 for v in found["totals"].row(0))
    facts.recordists = found["recordists"].height
    facts.species = found["taxa"].get_column("species").n_unique()
    shares = [_shares(key, found) for key in _SHARED]
    facts.sources, facts.licences, facts.countries, facts.splits = shares
    facts.classes = _classes(found)
    facts.years = _pairs(found["year"])
    facts.no_year = facts.recordings - sum(n for _, n in facts.years)
    bins = dict(_pairs(found["bin"]))
    facts.durations = [bins.get(i, 0) for i in range(len(DURATIONS_S) + 1)]
    facts.rates = [(int(v), n) for v, n in _pairs(found["rates"]) if v > 0]
    facts.channels = [(int(v), n) for v, n in _pairs(found["channels"]) if v > 0]
    facts.codecs = sorted(((v, n) for v, n in _pairs(found["codec"]) if v), key=lambda r: -r[1])
    facts.places = [
        ((south + 0.5) * MAP_BIN_DEG, (west + 0.5) * MAP_BIN_DEG, count)
        for south, west, count, _ in found["places"].drop_nulls().sort("south", "west").iter_rows()
    ]
    ranked = found["labels"].sort(["count", "name"], descending=[True, False])
    rows = list(ranked.iter_rows())
    facts.labels = [LabelCount(name, rank, n) for name, rank, ahead, n, _ in rows if ahead]
    behind = [n for _, _, ahead, n, _ in rows if not ahead]
    facts.background = (len(behind), sum(behind))


def _pairs(frame: pl.DataFrame) -> list[tuple[Any, int]]:
    """(key, recordings) in the order of the keys, without the unknown."""
    return [(row[0], row[1]) for row in frame.drop_nulls().sort(frame.columns[0]).iter_rows()]


def _per_key(frame: pl.DataFrame, *keys: str) -> dict[Any, int]:
    """How many rows each key has."""
    counted = frame.group_by(keys).len().iter_rows()
    return {row[0] if len(keys) == 1 else row[:-1]: row[-1] for row in counted}


def _shares(key: str, found: dict[str, pl.DataFrame]) -> list[Share]:
    species, people = (_per_key(found[f"{what} of {key}"], key) for what in ("species", "people"))
    shares = [
        Share(name, count, hours, species.get(name, 0), people.get(name, 0))
        for name, count, hours in found[key].iter_rows()
    ]
    return sorted(_sorted(shares), key=lambda share: not share.name)  # the unknown last


def _classes(found: dict[str, pl.DataFrame]) -> list[Share]:
    by_order = _per_key(found["taxa"], "klass", "order")
    by_class = _per_key(found["taxa"].select("klass", "species").unique(), "klass")
    orders: dict[str, list[Share]] = {}
    for group, order, count, hours in found["orders"].iter_rows():
        if order:
            share = Share(order, count, hours, by_order.get((group, order), 0))
            orders.setdefault(group, []).append(share)
    bare, bare_hours = found["bare"].row(0)
    rows = [*found["classes"].iter_rows(), *([(NO_LABEL, bare, bare_hours)] if bare else [])]
    shares = [
        Share(name, count, hours, by_class.get(name, 0), 0, tuple(_sorted(orders.get(name, ()))))
        for name, count, hours in rows
    ]
    # What is not known comes last, however much it is.
    return sorted(_sorted(shares), key=lambda share: share.name in (NOT_STATED, NO_LABEL))


def _sorted(shares: Sequence[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: (-share.hours, -share.recordings, share.name))
