"""`chorus prep download`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from dawnchorus.data_prep.commands.apps import STEPS, friendly_errors, prep_app

WHICH = "Which recordings (decided before any request)"
_LICENCES = (
    "cc0, pd, by, by-sa, by-nd, by-nc, by-nc-sa, by-nc-nd, other, unknown, all-rights-reserved; "
    "for several: cc, sa, nc, nd, none (unknown, all-rights-reserved), stated, all"
)


@prep_app.command("download", rich_help_panel=STEPS)
def download(
    *,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="recordings.parquet, or its folder.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the audio and its table.")
    ],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Limits per host: a shipped recipe or a YAML.")
    ] = "polite",
    contact: Annotated[
        str | None,
        typer.Option(
            envvar="CHORUS_CONTACT",
            help="E-mail address or page where the people of a server reach you; sent with each "
            "request.",
        ),
    ] = None,
    licences: Annotated[
        str | None,
        typer.Option(
            help=f"Take only these, separated by commas: {_LICENCES}. Default: stated.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    deny: Annotated[
        str | None,
        typer.Option(help="Leave these out, words as for --licences.", rich_help_panel=WHICH),
    ] = None,
    no_nc: Annotated[
        bool,
        typer.Option("--no-nc", help="Leave out non-commercial licences.", rich_help_panel=WHICH),
    ] = False,
    no_nd: Annotated[
        bool,
        typer.Option("--no-nd", help="Leave out no-derivatives licences.", rich_help_panel=WHICH),
    ] = False,
    no_sa: Annotated[
        bool,
        typer.Option("--no-sa", help="Leave out share-alike licences.", rich_help_panel=WHICH),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take only the first N of the recordings that the other options allow.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Take the first recordings up to this total length.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    max_gb: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop when DIR holds this much.", rich_help_panel=WHICH),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Also retry files that failed for good (404, not audio)."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print size and time per host, without any request.")
    ] = False,
    table_only: Annotated[
        bool,
        typer.Option(
            "--table-only", help="Write the table of the files on disk, without any request."
        ),
    ] = False,
) -> None:
    """Download the recordings of a table, politely, and write the table of what is on disk.

    Stopped at any moment, the same command continues: half files are continued where the server
    can, nothing is fetched twice, and a ledger keeps what failed and why. DIR/recordings.parquet
    then has the `path` of each file; DIR/rejected.parquet the others with their reasons.

    Exit codes: 0 done (also where files failed: see the table), 75 ended by SIGTERM or SIGUSR1,
    130 by Ctrl-C (both: the same command continues), 2 something to mend, a full disk too.

    Example: chorus prep download birds --out birds_audio --no-nd --contact me@example.org
    """
    with friendly_errors():
        from dawnchorus.data_prep.download import run_download as command
        from dawnchorus.data_prep.download.choice import make_choice
        from dawnchorus.data_prep.download.download_recipe import load_recipe

        limits = load_recipe(recipe, contact=contact)
        words = [w for w, given in (("nc", no_nc), ("nd", no_nd), ("sa", no_sa)) if given]
        choice = make_choice(
            licences=licences, deny=deny, no=words, limit=limit, max_hours=max_hours,
            unknown_duration_s=limits.estimate.unknown_duration_s,
        )  # fmt: skip
        if dry_run:
            typer.echo(command.dry_run(table, out, limits, choice))
            return
        ended = command.download(
            table, out, limits, choice, retry_failed=retry_failed, max_gb=max_gb,
            table_only=table_only, show=typer.echo,
        )  # fmt: skip
        if ended == signal.SIGINT:
            raise KeyboardInterrupt
        if ended is not None:
            typer.echo(f"ended by {ended.name}; the same command continues", err=True)
            raise typer.Exit(75)
        typer.echo(str(out / "recordings.parquet"))
