"""`chorus data report`, `credits` and `card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dawnchorus.data_prep.commands.apps import data_app, friendly_errors

Dataset = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET|TABLE", help="A dataset folder, or a recording table (folder or file)."
    ),
]
Selection = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of `chorus prep select`: the page tells its duplicates, leakage and "
        "selection.json too. Not needed where they lie beside the table.",
    ),
]


@data_app.command("report")
def report(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    selection: Selection = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the paths of a recording table start; its own folder by default.",
        ),
    ] = None,
    clips: Annotated[
        int, typer.Option(min=0, max=24, help="Clips to listen to, with spectrograms.")
    ] = 8,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="A page for yourself: clips whatever their licence, and where none is stated. Do "
            "not publish it.",
        ),
    ] = False,
) -> None:
    """Write a self-contained page about a dataset or table: contents, origins, licences.

    Hours and species by source, taxon, licence, country and year; a map; lengths and rates; the
    long tail; what was left out and why; a few clips to listen to. One HTML file that needs no
    network.
    """
    with friendly_errors():
        from dawnchorus.data_prep.report.page import write_report

        page = write_report(
            dataset, out, selection=selection, audio=audio, count=clips, private=private
        )
        size = page.stat().st_size
        told = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
        typer.echo(f"Wrote {page.resolve()} ({told}).")


@data_app.command("credits")
def credits(
    dataset: Dataset,
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="text, markdown, csv (a row per licence and recordist), bibtex (the archives).",
        ),
    ] = "text",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write; default: the screen.")
    ] = None,
) -> None:
    """Print whom to credit: by licence and recordist, with counts and links, and the archives."""
    with friendly_errors():
        from dawnchorus.data_prep.report.credits import write_credits
        from dawnchorus.data_prep.tools.whole_text import write_lines

        lines = write_credits(dataset, format)
        if out is None:
            for line in lines:
                typer.echo(line)
            return
        write_lines(out, lines)
        typer.echo(f"Wrote {out}.")


@data_app.command("card")
def card(dataset: Dataset, selection: Selection = None) -> None:
    """Write a dataset's card (README.md) anew, also from the files of a selection beside it."""
    with friendly_errors():
        from dawnchorus.data_prep.report.card import write_card

        typer.echo(f"Wrote {write_card(dataset, selection)}.")
