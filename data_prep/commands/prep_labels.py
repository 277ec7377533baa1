"""`chorus prep labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dawnchorus.data_prep.commands.apps import STEPS, TableOut, friendly_errors, prep_app


@prep_app.command("labels", rich_help_panel=STEPS)
def labels(
    *,
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE...", help="Recording tables, or the folders they are in."),
    ],
    out: TableOut,
    taxonomy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="GBIF backbone or Catalogue of Life (Taxon.tsv, NameUsage.tsv or their zip), "
            "eBird taxonomy CSV, iNaturalist's taxa.csv.gz. May be repeated: the first counts "
            "most. The table that comes with the program is always the last.",
        ),
    ] = None,
    overrides: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Your own table of names (columns name, use); it is used before all taxonomies.",
        ),
    ] = None,
    ancestors: Annotated[
        str,
        typer.Option(
            metavar="RANKS",
            help="Add higher taxa as labels of their own: genus,family,order,class.",
        ),
    ] = "",
    ontology: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="AudioSet's ontology.json: add the sounds above a sound."
        ),
    ] = None,
    bridges: Annotated[
        bool,
        typer.Option("--bridges", help="Add the sound that a taxon makes: a bird is a 'Bird'."),
    ] = False,
    keep_subspecies: Annotated[
        bool, typer.Option("--keep-subspecies", help="Do not go from a subspecies to its species.")
    ] = False,
    higher_rank: Annotated[
        bool,
        typer.Option("--higher-rank", help="A species that no taxonomy knows becomes its genus."),
    ] = False,
    kingdom: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Kingdom of labels that state none: Animalia settles most homonyms.",
        ),
    ] = "",
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder that paths are relative to, once or once per table: they become absolute.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop with exit code 2 when a name is not resolved.")
    ] = False,
) -> None:
    """Resolve the labels of one or several tables into one table with one label space.

    Scientific names lose their authors, synonyms become the accepted name, homonyms are told apart
    by what the archive says of them, eBird codes are read in their own year. What nothing knows
    stays as it is, and is listed in unresolved.csv with the nearest names. taxa.parquet says what
    every label is; names.csv what every name became.

    Example: chorus prep labels tables/xc tables/audioset --taxonomy backbone.zip --out tables/all
    """
    from dawnchorus.data_prep.taxonomy.label_options import LabelOptions, ranks_of
    from dawnchorus.data_prep.taxonomy.relabel import relabel

    with friendly_errors():
        options = LabelOptions(
            taxonomies=tuple(taxonomy or ()),
            overrides=overrides,
            ancestors=ranks_of(ancestors),
            ontology=ontology,
            bridges=bridges,
            keep_subspecies=keep_subspecies,
            higher_rank=higher_rank,
            kingdom=kingdom,
            audio=tuple(audio or ()),
            strict=strict,
        )
        for line in relabel(tables, out, options):
            typer.echo(line)
        typer.echo(str(out / "recordings.parquet"))
