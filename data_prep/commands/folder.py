"""`chorus prep folder`: a folder of audio and a table, to shards in one command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from data_prep.columns import FIELDS, NOT_USED
from data_prep.commands.apps import friendly_errors, prep_app
from data_prep.options import BuildOptions, FolderOptions

if TYPE_CHECKING:
    from data_prep.folder import FolderTable

COLUMNS = f"Columns of the table, where they have unusual names ('{NOT_USED}': do not use one)"


def _with_options(*kinds: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per column and per field of the option classes.

    `data_prep.columns` and `data_prep.options` stay the only lists of them; the command receives
    all in its `**options`.
    """
    added = [
        _parameter(field.parameter, str | None, None, COLUMNS, field.option_help, "COLUMN")
        for field in FIELDS
    ]
    for kind in kinds:
        hints = get_type_hints(kind)
        added += [
            _parameter(
                item.name,
                hints[item.name],
                item.default,
                item.metadata["panel"],
                item.metadata["help"],
            )
            for item in dataclasses.fields(kind)
            if item.metadata
        ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]

        @functools.wraps(command)
        def with_options(**options: Any) -> None:
            command(**options)

        with_options.__dict__["__signature__"] = signature.replace(parameters=own + added)
        with_options.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return with_options

    return decorate


def _parameter(
    name: str, kind: Any, default: Any, panel: str, text: str, metavar: str | None = None
) -> inspect.Parameter:
    flag = [f"--{name.replace('_', '-')}"]  # without it typer adds a --no-… twin to switches
    option = typer.Option(*flag, help=text, rich_help_panel=panel, metavar=metavar)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


@prep_app.command(rich_help_panel="All at once")
@_with_options(FolderOptions, BuildOptions)
def folder(
    *,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with audio files of any format.")
    ],
    out: Annotated[Path, typer.Option(metavar="DATASET", help="Folder to write the dataset to.")],
    **options: Any,
) -> None:
    """Prepare a folder of audio and a table (metadata.csv) as a dataset.

    The audio becomes mono 16-bit FLAC at 16 kHz in tar files (WebDataset), in pieces of at most a
    minute, with an index, labels, licences and a dataset card beside them. Columns of the table
    are found by their usual names; what was taken for what is shown before anything starts. A run
    that was stopped is continued by the same command.

    Example: chorus prep folder my_birds --out datasets/my_birds --group-column recordist
    """
    from data_prep.folder import prepare_folder

    with friendly_errors():
        prepare_folder(directory, out, report=_report, **options)


def _report(table: FolderTable) -> None:
    """Show what was taken for what before anything starts."""
    recordings = table.recordings
    labels = {label.name for recording in recordings for label in recording.labels}
    typer.echo(f"{table.metadata}: {len(recordings)} recordings, {len(labels)} labels", err=True)
    for line in [*table.mapped.lines(), *(f"note: {note}" for note in table.notes)]:
        typer.echo(f"  {line}", err=True)
