"""The `prep` and `data` apps that the command modules add to, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dawnchorus.data_prep.table.recording import Recording
    from dawnchorus.data_prep.table.recording_table import Rejected

prep_app = typer.Typer(
    name="prep",
    help="From archives to shards: read an archive's metadata as a table of recordings, download, "
    "name the labels, select, write shards. Or `folder`: all at once from a folder of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    name="data",
    help="Look at a dataset: check it, describe it, credit the people in it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ARCHIVES = "Archives: metadata -> recordings.parquet"
STEPS = "Steps: recordings.parquet -> shards"

TableOut = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", help="Folder for the table: recordings.parquet, rejected.parquet."
    ),
]


@prep_app.callback()
def _prep() -> None:
    """Prepare recordings as a dataset of shards that the trainer reads."""


@data_app.callback()
def _data() -> None:
    """Look at a dataset."""


@contextmanager
def friendly_errors(stopped: str = "stopped; the same command continues") -> Iterator[None]:
    """Turn errors that the user can mend into one line and their exit code, Ctrl-C into 130."""
    from dawnchorus.trainer.errors import ChorusError

    try:
        yield
    except ChorusError as err:
        typer.echo(f"error: {err}", err=True)
        raise typer.Exit(err.exit_code) from err
    except KeyboardInterrupt as err:
        typer.echo(stopped, err=True)
        raise typer.Exit(130) from err


def save_table(
    rows: Iterable[Recording | Rejected],
    out: Path,
    made_by: dict[str, Any],
    notes: Callable[[], Sequence[str]] = list,
) -> None:
    """Write what a reader yields as a recording table, and print its notes, summary and path.

    Args:
        rows: of one reader.
        out: the table's folder.
        made_by: the command and its options, for `summary.json`.
        notes: called when all rows are read; returns what a person should know.

    Raises:
        PrepError: as `write_table` and the reader raise it.
    """
    from dawnchorus.data_prep.archives.times import NOT_SUPPORTED, REASON
    from dawnchorus.data_prep.table.recording_table import RECORDINGS, write_table

    summary = write_table(rows, out, made_by=made_by)
    for note in notes():
        typer.echo(f"note: {note}", err=True)
    if timed := summary.rejected.get(REASON, 0):
        typer.echo(f"note: {timed:,} rows are left out ({REASON}). {NOT_SUPPORTED}.", err=True)
    typer.echo(summary.text)
    typer.echo(out / RECORDINGS)
