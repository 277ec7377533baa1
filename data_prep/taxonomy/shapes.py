"""A block of a taxonomy file in its own columns -> the common columns, as polars expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    Text = Callable[[str], pl.Expr]

RANK_COLUMNS = ("kingdom", "phylum", "class", "order", "family", "genus")
COLUMNS = ("key", "name", "rank", "status", "accepted", "parent", *RANK_COLUMNS, "english")

# eBird's categories that are a taxon of their own; the others name a species they are counted as.
_EBIRD_RANKS = {"species": "species", "issf": "subspecies"}


def common_shape(frame: pl.DataFrame, columns: dict[str, str], kind: str) -> pl.DataFrame:
    """Return the rows of `frame` that count, in the columns of `COLUMNS`.

    columns: common name of a column -> heading in this file.
    """
    import polars as pl

    def text(name: str) -> pl.Expr:
        if name not in columns:
            return pl.lit("")
        return pl.col(columns[name]).fill_null("").str.strip_chars()

    status = _status(kind, text)
    shaped: dict[str, pl.Expr] = {name: text(name) for name in COLUMNS}
    shaped["name"] = _name(text)
    shaped["status"] = status
    if kind == "colxr" and "accepted" not in columns:
        shaped["accepted"] = pl.when(status == "synonym").then(text("parent")).otherwise(pl.lit(""))
    if kind == "ebird":
        shaped |= {
            "kingdom": pl.lit("Animalia"), "phylum": pl.lit("Chordata"), "class": pl.lit("Aves"),
            # "Struthionidae (Ostriches)"
            "family": text("family").str.replace(r"\s*\(.*$", ""),
            "genus": shaped["name"].str.extract(r"^([A-Z][a-z]+) [a-z]"),
        }  # fmt: skip
    rank = text("rank").str.to_lowercase()
    shaped["rank"] = rank.replace(_EBIRD_RANKS) if kind == "ebird" else rank
    if kind == "plain":
        shaped["key"] = pl.when(text("key") == "").then(text("canonical")).otherwise(text("key"))
    made = frame.select(**shaped).with_columns(pl.all().cast(pl.String).fill_null(""))
    return made.filter((pl.col("status") != "") & (pl.col("name") != "") & (pl.col("key") != ""))


def _name(text: Text) -> pl.Expr:
    """The canonical name: as stated, put together from its parts, or without its author."""
    import polars as pl

    parts = ("genericname", "specificepithet", "infraspecificepithet")
    joined = pl.concat_str([text(part) for part in parts], separator=" ")
    joined = joined.str.replace_all(r"\s+", " ").str.strip_chars()
    bare = text("full").str.strip_suffix(text("author"))
    plain = (
        pl.when(text("canonical") != "").then(text("canonical"))
        .when((text("genericname") != "") & (text("specificepithet") != "")).then(joined)
        .when(text("uninomial") != "").then(text("uninomial"))
        .otherwise(bare)
    )  # fmt: skip
    return plain.str.replace_all(r"[×†]\s*", "").str.strip_chars()


def _status(kind: str, text: Text) -> pl.Expr:
    import polars as pl

    stated = text("status").str.to_lowercase()
    if kind == "ebird":
        return pl.lit("accepted")
    if kind == "inat":
        active = stated.is_in(["true", "t", "1"])
        return pl.when(active).then(pl.lit("accepted")).otherwise(pl.lit(""))
    return (
        pl.when(stated.is_in(["accepted", "valid"])).then(pl.lit("accepted"))
        .when(stated.is_in(["doubtful", "provisionally accepted"])).then(pl.lit("doubtful"))
        .when(stated.str.contains("synonym")).then(pl.lit("synonym"))
        .when((stated == "") & (text("accepted") != "") & (text("accepted") != text("key")))
        .then(pl.lit("synonym"))
        .when(stated == "").then(pl.lit("accepted"))
        .otherwise(pl.lit(""))
    )  # fmt: skip
