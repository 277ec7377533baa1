"""`chorus prep watkins` and `birdset`: collections that others put together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dawnchorus.data_prep.commands.apps import (
    ARCHIVES,
    TableOut,
    friendly_errors,
    prep_app,
    save_table,
)

Audio = Annotated[
    Path | None,
    typer.Option("--audio", metavar="DIR", help="Folder of the audio that is on disk."),
]


@prep_app.command("watkins", rich_help_panel=ARCHIVES)
def watkins(
    *,
    source: Annotated[
        Path,
        typer.Argument(
            help="BEANS' annotations.csv, the folder of it, a folder with one folder per species, "
            "or parquet files with the audio inside."
        ),
    ],
    out: TableOut,
    audio: Audio = None,
) -> None:
    """Read the Watkins Marine Mammal Sound Database.

    English names become scientific ones by a table that comes with the program; names it lacks
    are left out and listed with the nearest ones. Cuts of one tape stay together.

    Example: chorus prep watkins watkins/ --out tables/watkins
    """
    from dawnchorus.data_prep.archives.watkins import TERMS, read_watkins

    with friendly_errors():
        made_by = {"command": "watkins", "source": str(source), "notes": [TERMS]}
        save_table(read_watkins(source, audio, out), out, made_by, lambda: [TERMS])


@prep_app.command("birdset", rich_help_panel=ARCHIVES)
def birdset(
    *,
    source: Annotated[
        Path,
        typer.Argument(
            help="BirdSet's parquet, CSV or JSON lines, or BirdCLEF's train_metadata.csv or "
            "train.csv; a file or the folder it is in."
        ),
    ],
    out: TableOut,
    audio: Audio = None,
    ebird_year: Annotated[
        str, typer.Option(metavar="YEAR", help="Year of eBird's taxonomy that the codes are of.")
    ] = "2021",
    config: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="BirdSet's configuration (HSN, XCM …), where no path names it."
        ),
    ] = "",
) -> None:
    """Read BirdSet, or the training data of BirdCLEF 2021 to 2025.

    Recordings of Xeno-canto and iNaturalist get the ids of those archives. Codes of eBird stay
    codes where no scientific name is beside them; `chorus prep labels` resolves them.

    Example: chorus prep birdset BirdSet/XCM --out tables/xcm
    """
    from dawnchorus.data_prep.archives.birdset import read_birdset

    with friendly_errors():
        rows = read_birdset(source, audio, out, year=ebird_year, config=config)
        notes = [f"codes of eBird {ebird_year}"]
        made_by = {"command": "birdset", "source": str(source), "notes": notes}
        save_table(rows, out, made_by, lambda: notes)
