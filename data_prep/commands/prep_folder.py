"""`chorus prep folder`: a folder of audio and a table, to shards in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dawnchorus.data_prep.commands.apps import friendly_errors, prep_app
from dawnchorus.data_prep.commands.generated_options import with_options
from dawnchorus.data_prep.dataset.options import BuildOptions, FolderOptions

if TYPE_CHECKING:
    from dawnchorus.data_prep.archives.own_folder import FolderTable


@prep_app.command(rich_help_panel="All at once")
@with_options(FolderOptions, BuildOptions, columns=True)
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
    from dawnchorus.data_prep.archives.own_folder import prepare_folder

    with friendly_errors():
        prepare_folder(directory, out, report=_report, **options)


def _report(table: FolderTable) -> None:
    """Show which column fills which field, before anything starts."""
    recordings = table.recordings
    labels = {label.name for recording in recordings for label in recording.labels}
    typer.echo(f"{table.metadata}: {len(recordings)} recordings, {len(labels)} labels", err=True)
    for line in [*table.mapped.lines(), *(f"note: {note}" for note in table.notes)]:
        typer.echo(f"  {line}", err=True)
