"""What a report or a card says of a dataset or of a recording table, as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.findings import Findings, read_findings
from dawnchorus.data_prep.report.tally import NO_LABEL, NOT_STATED, Tally, frames
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND
from dawnchorus.trainer.sound_folders import what_to_do_with

if TYPE_CHECKING:
    import polars as pl

RECORDINGS = "recordings.parquet"
MAP_BIN_DEG = 2.0
DURATIONS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_ROWS_READ = 1 << 17


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
    years: list[tuple[int, int, float]] = field(default_factory=list)
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
    import pyarrow as pa

    table = path / RECORDINGS if path.is_dir() else path
    folder = table.parent
    if not table.is_file():
        if told := what_to_do_with(path):
            raise PrepError(f"{told}.")
        raise PrepError(
            f"There is no {RECORDINGS} in {path}. Name a dataset, or the folder of a recording "
            "table that one of the archive commands of `chorus prep` wrote."
        )
    try:
        facts = Facts(
            name=folder.resolve().name,
            folder=folder,
            finished=(folder / "index.parquet").is_file(),
            stats=_json(folder / "stats.json"),
            findings=read_findings(folder, selection),
        )
        facts.name = str(facts.stats.get("name") or facts.name)
        stored = _stored_hours(folder / "index.parquet") if facts.finished else None
        counts = _Counts()
        for recordings, labels in frames(table, stored, _taxa(folder, selection)):
            counts.add(recordings, labels)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError, pl.exceptions.PolarsError) as err:
        raise PrepError(f"{table} cannot be read: {err}. Make it again.") from err
    counts.fill(facts)
    facts.clips = int(facts.stats.get("clips") or 0)
    return facts


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as err:
        raise PrepError(f"{path} cannot be read: {err}. Make the dataset again.") from err
    return found if isinstance(found, dict) else {}


def _stored_hours(index: Path) -> pl.DataFrame:
    """Hours of stored audio by recording: pieces of digital silence are not stored."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    tally = Tally(["id"], ["hours"])
    with pq.ParquetFile(index) as file:
        columns = ["recording_id", "samples", "sample_rate_hz"]
        for batch in file.iter_batches(_ROWS_READ, columns=columns):
            frame = pl.from_arrow(pa.Table.from_batches([batch]))
            assert isinstance(frame, pl.DataFrame)
            tally.add(
                frame.select(
                    id="recording_id", hours=pl.col("samples") / pl.col("sample_rate_hz") / 3600
                )
            )
    return tally.frame()


def _taxa(folder: Path, selection: Path | None) -> dict[str, tuple[str, str]]:
    """Class and order by name from a `taxa.parquet` beside the table, where there is one."""
    import polars as pl

    found: dict[str, tuple[str, str]] = {}
    for place in (selection, folder):
        path = place / "taxa.parquet" if place is not None else None
        if path is None or not path.is_file():
            continue
        frame = pl.read_parquet(path)
        keys = [n for n in ("name", "label", "canonical") if n in frame.columns]
        if not keys or "class" not in frame.columns:
            continue
        order = pl.col("order") if "order" in frame.columns else pl.lit("")
        rows = frame.select(pl.col(keys[0]), pl.col("class"), order.alias("order")).iter_rows()
        found |= {str(n): (str(c or ""), str(o or "")) for n, c, o in rows}
    return found


class _Counts:
    """The tallies of all sections."""

    def __init__(self) -> None:
        sums = ("count", "hours")
        keys = ("source", "licence_url", "country", "split")
        self.by = {key: Tally([key], sums) for key in keys}
        self.species = {key: Tally([key, "species"]) for key in keys}
        self.people = {key: Tally([key, "recordist"]) for key in keys}
        self.totals = Tally(["all"], ("count", "hours", "unknown"))
        self.years = Tally(["year"], sums)
        self.classes = Tally(["class"], sums)
        self.orders = Tally(["class", "order"], sums)
        self.taxon_species = Tally(["class", "order", "species"])
        self.labels = Tally(["name", "rank", "role"], ["count"])
        self.places = Tally(["south", "west"], ["count"])
        self.durations = Tally(["bin"], ["count"])
        self.rates = Tally(["sample_rate_hz"], ["count"])
        self.codecs = Tally(["codec"], ["count"])
        self.channels = Tally(["channels"], ["count"])

    def add(self, recordings: pl.DataFrame, labels: pl.DataFrame) -> None:
        """Add a batch."""
        import polars as pl

        unknown = (pl.col("hours") <= 0).cast(pl.Int64)
        self.totals.add(recordings.with_columns(unknown=unknown, all=pl.lit(True)))
        front = labels.filter(pl.col("role") != BACKGROUND)
        keys = list(self.by)
        placed = recordings.select("row", *keys, "recordist", "count", "hours")
        named = front.filter(pl.col("species").is_not_null())
        named = named.select("row", "class", "order", "species").join(placed, on="row")
        for key in keys:
            self.by[key].add(placed)
            self.species[key].add(named)
            self.people[key].add(placed.filter(pl.col("recordist") != ""))
        self.years.add(recordings)
        self._add_taxa(placed, front, named)
        self.labels.add(labels.with_columns(count=pl.lit(1)))
        for tally, key in ((self.rates, "sample_rate_hz"), (self.channels, "channels")):
            tally.add(recordings.filter(pl.col(key) > 0))
        self.codecs.add(recordings.filter(pl.col("codec") != ""))
        known = recordings.filter(pl.col("duration_s") > 0)
        self.durations.add(
            known.with_columns(
                bin=pl.sum_horizontal(pl.col("duration_s") >= step for step in DURATIONS_S)
            )
        )
        there = pl.col("lat").is_between(-90, 90) & pl.col("lon").is_between(-180, 180)
        self.places.add(
            recordings.filter(there).with_columns(
                south=(pl.col("lat") / MAP_BIN_DEG).floor().cast(pl.Int32),
                west=(pl.col("lon") / MAP_BIN_DEG).floor().cast(pl.Int32),
            )
        )

    def _add_taxa(self, placed: pl.DataFrame, front: pl.DataFrame, named: pl.DataFrame) -> None:
        """A recording with labels of two classes counts in both, with one of them once."""
        import polars as pl

        hours = placed.select("row", "count", "hours")
        self.classes.add(front.select("row", "class").unique().join(hours, on="row"))
        orders = front.select("row", "class", "order").unique().filter(pl.col("order") != "")
        self.orders.add(orders.join(hours, on="row"))
        self.taxon_species.add(named)
        bare = hours.join(front.select("row").unique(), on="row", how="anti")
        self.classes.add(bare.with_columns(pl.lit(NO_LABEL).alias("class")))

    def fill(self, facts: Facts) -> None:
        """Put the sums into `facts`."""
        import polars as pl

        totals = self.totals.frame()
        if totals.height:
            facts.recordings, facts.hours, facts.unknown_length = totals.row(0)[1:]
        facts.recordists = self.people["source"].frame().get_column("recordist").n_unique()
        facts.species = self.taxon_species.frame().get_column("species").n_unique()
        facts.sources, facts.licences = self._shares("source"), self._shares("licence_url")
        facts.countries, facts.splits = self._shares("country"), self._shares("split")
        facts.classes = self._taxa()
        years = self.years.frame()
        facts.years = [row for row in years.iter_rows() if row[0] is not None]
        facts.no_year = facts.recordings - sum(row[1] for row in facts.years)
        half = MAP_BIN_DEG / 2
        facts.places = [
            (south * MAP_BIN_DEG + half, west * MAP_BIN_DEG + half, count)
            for south, west, count in self.places.frame().iter_rows()
        ]
        bins = dict(self.durations.frame().iter_rows())
        facts.durations = [bins.get(i, 0) for i in range(len(DURATIONS_S) + 1)]
        facts.rates = list(self.rates.frame().iter_rows())
        facts.codecs = _largest(self.codecs.frame())
        facts.channels = list(self.channels.frame().iter_rows())
        labels = self.labels.frame()
        if labels.height:
            back = labels.filter(pl.col("role") == BACKGROUND)
            facts.background = (back.height, int(back.get_column("count").sum()))
            front = labels.filter(pl.col("role") == FOREGROUND)
            ranked = front.sort(["count", "name"], descending=[True, False])
            facts.labels = [LabelCount(n, r, c) for n, r, _, c in ranked.iter_rows()]

    def _shares(self, key: str) -> list[Share]:
        species = _count_by(self.species[key].frame(), key)
        people = _count_by(self.people[key].frame(), key)
        shares = [
            Share(name, count, hours, species.get(name, 0), people.get(name, 0))
            for name, count, hours in self.by[key].frame().iter_rows()
        ]
        return sorted(_sorted(shares), key=lambda share: not share.name)  # the unknown last

    def _taxa(self) -> list[Share]:
        pairs = self.taxon_species.frame()
        by_order = (
            {(row[0], row[1]): row[2] for row in pairs.group_by("class", "order").len().iter_rows()}
            if pairs.height
            else {}
        )
        by_class = (
            dict(pairs.select("class", "species").unique().group_by("class").len().iter_rows())
            if pairs.height
            else {}
        )
        orders: dict[str, list[Share]] = {}
        for group, order, count, hours in self.orders.frame().iter_rows():
            share = Share(order, count, hours, by_order.get((group, order), 0))
            orders.setdefault(group, []).append(share)
        shares = [
            Share(
                name, count, hours, by_class.get(name, 0), 0, tuple(_sorted(orders.get(name, ())))
            )
            for name, count, hours in self.classes.frame().iter_rows()
        ]
        # What is not known comes last, however much it is.
        last = (NOT_STATED, NO_LABEL)
        return sorted(_sorted(shares), key=lambda share: share.name in last)


def _sorted(shares: Sequence[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: (-share.hours, -share.recordings, share.name))


def _count_by(pairs: pl.DataFrame, key: str) -> dict[str, int]:
    return dict(pairs.group_by(key).len().iter_rows()) if pairs.height else {}


def _largest(frame: pl.DataFrame) -> list[tuple[str, int]]:
    return sorted(frame.iter_rows(), key=lambda row: (-row[1], row[0]))
