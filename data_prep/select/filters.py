"""The filters that need only a recording's row, and the cost of each choice of licences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.data_prep.select.selection_recipe import QUALITIES, Duration, Filters, Licences
from dawnchorus.data_prep.select.selection_rows import Rows, rows_of_taxa
from dawnchorus.data_prep.table.recording import tidy_name
from dawnchorus.data_prep.table.recording_table import count_recordings
from dawnchorus.trainer.licences import read_licence

if TYPE_CHECKING:
    import polars as pl


def apply_filters(rows: Rows, filters: Filters, tables: Sequence[Path]) -> None:
    """Drop the rows that the recipe does not want. `tables` in the order of the rows."""
    import polars as pl

    wanted = licence_wanted(rows.left()["licence_url"], filters.licences)
    _drop(rows, ~wanted, "licence", pl.col("licence_url"))
    if filters.sources:
        _drop(rows, ~pl.col("source").is_in(filters.sources), "source", pl.col("source"))
    _drop(rows, pl.col("source").is_in(filters.not_sources), "source", pl.col("source"))
    _drop(rows, ~_quality_wanted(filters), "quality", pl.col("quality"))
    filter_duration(rows, filters.duration, unknown_may_change=True)
    if filters.labelled:
        _drop(rows, pl.col("names").list.len() == 0, "unlabelled", pl.lit(""))
    if filters.ranks:
        wanted = pl.col("ranks").list.eval(pl.element().is_in(filters.ranks)).list.any()
        _drop(rows, ~wanted, "rank", pl.col("ranks").list.join(", "))
    kinds = _words(pl.col("sound_type"))
    if filters.sound_types:
        some = kinds.list.eval(pl.element().is_in(_lower(filters.sound_types))).list.any()
        _drop(rows, ~some, "sound_type", pl.col("sound_type"))
    if filters.not_sound_types:
        some = kinds.list.eval(pl.element().is_in(_lower(filters.not_sound_types))).list.any()
        _drop(rows, some, "sound_type", pl.col("sound_type"))
    _filter_taxa(rows, filters, tables)


def filter_duration(rows: Rows, limits: Duration, *, unknown_may_change: bool) -> None:
    """Drop recordings that are too short or too long; unknown lengths only when the audio is not
    read.
    """
    import polars as pl

    known = pl.col("duration_s") > 0
    text = pl.col("duration_s").round(2).cast(pl.String) + " s"
    _drop(rows, known & (pl.col("duration_s") < limits.min_s), "duration", text)
    if limits.max_s is not None:
        _drop(rows, known & (pl.col("duration_s") > limits.max_s), "duration", text)
    if not limits.unknown and not unknown_may_change:
        _drop(rows, ~known, "duration", pl.lit("not known"))


def licence_wanted(texts: pl.Series, licences: Licences) -> pl.Expr:
    """Return whether column `licence_url` is wanted; `texts` are what it holds."""
    import polars as pl

    takes = licences.choice.takes
    wanted = [text for text in texts.unique() if takes(read_licence(text))]
    return pl.col("licence_url").is_in(pl.Series(wanted, dtype=pl.String).implode())


def licence_costs(left: pl.DataFrame, licences: Licences) -> list[dict[str, object]]:
    """Return what each choice leaves of these rows: `choice`, `recordings`, `hours`, the part lost.

    The choices: everything, then without each family by itself, then the recipe's own.
    """
    choices = {"everything": Licences(deny=[])}
    for word in ("nd", "nc", "sa", "unknown", "all-rights-reserved", "other"):
        choices[f"without {word}"] = Licences(deny=[word], keep_unknown=True)
    choices["only cc0, pd, by"] = Licences(allow=["cc0", "pd", "by"], deny=[])
    choices["this recipe"] = licences
    all_hours = float(left["duration_s"].sum()) / 3600
    table: list[dict[str, object]] = []
    for name, choice in choices.items():
        kept = left.filter(licence_wanted(left["licence_url"], choice))
        hours = float(kept["duration_s"].sum()) / 3600
        table.append(
            {
                "choice": name,
                "recordings": kept.height,
                "hours": round(hours, 3),
                "recordings_lost": left.height - kept.height,
                "hours_lost": round(all_hours - hours, 3),
            }
        )
    return table


def _quality_wanted(filters: Filters) -> pl.Expr:
    import polars as pl

    given = pl.col("quality").str.strip_chars().str.to_uppercase()
    known = given.is_in(QUALITIES)
    least = filters.quality.at_least
    good = QUALITIES[: QUALITIES.index(least) + 1] if least else QUALITIES
    return (known & given.is_in(good)) | (~known & pl.lit(filters.quality.unknown))


def _filter_taxa(rows: Rows, filters: Filters, tables: Sequence[Path]) -> None:
    if not filters.taxa and not filters.not_taxa:
        return
    first = 0
    for path in tables:
        count = count_recordings(path)
        for wanted, these in ((True, filters.taxa), (False, filters.not_taxa)):
            if these:
                hit = rows_of_taxa(path, [tidy_name(name) for name in these])
                out = [first + i for i in range(count) if (i in hit) != wanted]
                rows.drop(out, "taxon")
        first += count


def _drop(rows: Rows, out: pl.Expr, reason: str, detail: pl.Expr) -> None:
    gone = rows.left().filter(out).select("n", detail.cast(str).alias("detail"))
    rows.drop(gone["n"], reason, gone["detail"])


def _words(text: pl.Expr) -> pl.Expr:
    """Words of "song, flight call": the kinds, in lower case."""
    import polars as pl

    return (
        text.str.to_lowercase()
        .str.replace_all(r"[;|/]", ",")
        .str.split(",")
        .list.eval(pl.element().str.strip_chars())
    )


def _lower(words: Sequence[str]) -> list[str]:
    return [word.strip().lower() for word in words]
