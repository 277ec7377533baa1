"""Limits on amounts: per person, per class, per table. A hash of the id decides which recordings
stay, so new rows in a table change the choice only where a limit applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dawnchorus.data_prep.select.selection_recipe import Caps, TableChoice
from dawnchorus.data_prep.select.selection_rows import Rows

if TYPE_CHECKING:
    import polars as pl


def cap_recordists(rows: Rows, most: int) -> None:
    """Keep `most` recordings of each person; those without a name are not limited."""
    import polars as pl

    person = pl.col("recordist").str.to_lowercase().str.strip_chars()
    ranked = rows.left().with_columns(person.alias("person")).filter(pl.col("person") != "")
    over = ranked.filter(_rank("person") > most)
    rows.drop(over["n"], "cap_recordist", over["recordist"])


def cap_classes(rows: Rows, most: int) -> None:
    """Keep recordings that are among the first `most` of any of their foreground labels."""
    import polars as pl

    labels = rows.left().select("n", "order", pl.col("names").list.unique()).explode("names")
    best = labels.drop_nulls("names").select("n", _rank("names").alias("rank"))
    over = best.group_by("n", maintain_order=True).min().filter(pl.col("rank") > most)
    rows.drop(over["n"], "cap_class")


def rare_classes(rows: Rows, least: int) -> set[str]:
    """Drop recordings that have only rare labels; return the labels that are not rare."""
    import polars as pl

    labels = rows.left().select("n", pl.col("names").list.unique()).explode("names")
    counts = labels.drop_nulls("names").group_by("names").len()
    common = counts.filter(pl.col("len") >= least)["names"]
    kept = labels.filter(pl.col("names").is_in(common.to_list()))["n"].unique()
    left = rows.left()
    gone = left.filter(~pl.col("n").is_in(kept.to_list()) & (pl.col("names").list.len() > 0))
    rows.drop(gone["n"], "rare_class", gone["names"].list.join(", "))
    return set(common.to_list())


def take_amounts(rows: Rows, tables: Mapping[str, TableChoice]) -> None:
    """Keep the hours, the share or the number of recordings that each table is asked for."""
    import polars as pl

    left = rows.left()
    have_h = {
        name: float(left.filter(pl.col("table") == name)["duration_s"].sum()) / 3600
        for name in tables
    }
    shares = {name: t.share for name, t in tables.items() if t.share}
    # As much as the scarcest table allows when the others keep their proportion to it.
    total_h = min((have_h[name] / share for name, share in shares.items()), default=0.0)
    for name, table in tables.items():
        own = left.filter(pl.col("table") == name).sort("order", "id")
        hours = table.hours if table.hours is not None else shares.get(name, 0.0) * total_h
        if table.recordings is not None:
            over = own.slice(table.recordings)
        elif table.hours is not None or table.share is not None:
            before_s = pl.col("duration_s").cum_sum() - pl.col("duration_s")
            middle_h = (before_s + pl.col("duration_s") / 2) / 3600
            over = own.filter(middle_h > hours)  # ends as near to the hours as a recording allows
        else:
            continue
        rows.drop(over["n"], "amount", f"tables.{name}")


def apply_caps(rows: Rows, caps: Caps, tables: Mapping[str, TableChoice]) -> set[str] | None:
    """Apply all limits in their order, each with its step; return the labels that stay, or None."""
    if caps.per_recordist is not None:
        cap_recordists(rows, caps.per_recordist)
        rows.step("recordings per recordist")
    if caps.per_class is not None:
        cap_classes(rows, caps.per_class)
        rows.step("recordings per class")
    take_amounts(rows, tables)
    rows.step("amounts per table")
    if caps.min_per_class <= 1:
        return None
    common = rare_classes(rows, caps.min_per_class)
    rows.step("rare classes")
    return common


def _rank(within: str) -> pl.Expr:
    import polars as pl

    return pl.struct("order", "n").rank("ordinal").over(within)
