"""`chorus prep …`: from archives to shards. Heavy modules are imported only when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from data_prep.folder import FolderTable

app = typer.Typer(
    name="prep",
    help="Prepare recordings as a dataset of shards that the trainer reads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COLUMNS = "Columns (found by their usual names where not given; 'none' leaves one out)"
LABELS = "Labels"
AUDIO = "Audio and shards"
RUNNING = "Running"


@app.callback()
def main() -> None:
    """Prepare recordings as a dataset of shards that the trainer reads."""


def _column(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel=COLUMNS, metavar="COLUMN")


@app.command()
def folder(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with audio files of any format.")
    ],
    out: Annotated[Path, typer.Option(metavar="DATASET", help="Folder to write the dataset to.")],
    metadata: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="Table of the recordings: CSV (comma, semicolon or tab) or Parquet. "
            "Default: DIR/metadata.csv.",
        ),
    ] = None,
    path_column: Annotated[
        str | None, _column("File, relative to DIR or to the table (filename, file, path ...).")
    ] = None,
    label_column: Annotated[
        str | None, _column("What is heard (label, species, scientific_name ...).")
    ] = None,
    rank_column: Annotated[
        str | None, _column("Rank of each label, in parallel with the labels (rank ...).")
    ] = None,
    background_column: Annotated[
        str | None, _column("What else is heard, faintly (background, secondary_labels ...).")
    ] = None,
    group_column: Annotated[
        str | None,
        _column(
            "What must stay together when data is split, such as the recordist (group, group_id). "
            "Default: each recording by itself."
        ),
    ] = None,
    fold_column: Annotated[str | None, _column("Fold for cross-validation (fold).")] = None,
    split_column: Annotated[
        str | None, _column("Part of the dataset, such as train or valid (split).")
    ] = None,
    licence_column: Annotated[
        str | None, _column("Licence of the audio, URL or name (licence_url, license ...).")
    ] = None,
    recordist_column: Annotated[
        str | None, _column("Who recorded it (recordist, author ...).")
    ] = None,
    attribution_column: Annotated[
        str | None, _column("Credit line that the licence asks for (attribution).")
    ] = None,
    id_column: Annotated[
        str | None, _column("The archive's own number of the recording (id). Default: the file.")
    ] = None,
    url_column: Annotated[str | None, _column("Page of the recording (url, source ...).")] = None,
    datetime_column: Annotated[str | None, _column("When (datetime, date ...).")] = None,
    lat_column: Annotated[str | None, _column("Latitude in degrees (lat, latitude ...).")] = None,
    lon_column: Annotated[str | None, _column("Longitude in degrees (lon, lng ...).")] = None,
    quality_column: Annotated[str | None, _column("The archive's rating (quality, q ...).")] = None,
    sound_type_column: Annotated[
        str | None, _column("Song, call, ... (sound_type, type ...).")
    ] = None,
    duration_column: Annotated[
        str | None, _column("Length in seconds, only to plan with (duration_s).")
    ] = None,
    label_separator: Annotated[
        str,
        typer.Option(
            help="Between several labels in one cell. '' takes every cell as one label. Python "
            "lists (['a', 'b']) are understood as well.",
            rich_help_panel=LABELS,
        ),
    ] = ";",
    rank: Annotated[
        str,
        typer.Option(
            help="Rank of labels without one (species, genus ...). A label can also carry its "
            "rank: 'species:Parus major;genus:Parus'.",
            rich_help_panel=LABELS,
        ),
    ] = "",
    taxonomy: Annotated[
        str,
        typer.Option(
            help="Name and version of the taxonomy of the names, such as 'ebird-2021'.",
            rich_help_panel=LABELS,
        ),
    ] = "",
    split: Annotated[
        str, typer.Option(help="Split of recordings without one.", rich_help_panel=LABELS)
    ] = "train",
    licence: Annotated[
        str, typer.Option(help="Licence of recordings without one.", rich_help_panel=LABELS)
    ] = "",
    source_name: Annotated[
        str,
        typer.Option(
            help="Name of the archive, first part of every recording's id. Default: DIR's name.",
            rich_help_panel=LABELS,
        ),
    ] = "",
    codec: Annotated[
        str,
        typer.Option(
            help="flac, or wav: twice the size, 30 times faster to decode.", rich_help_panel=AUDIO
        ),
    ] = "flac",
    sample_rate_hz: Annotated[
        int, typer.Option(help="Sample rate to store.", rich_help_panel=AUDIO)
    ] = 16000,
    max_piece_s: Annotated[
        float,
        typer.Option(
            help="Longer recordings are stored in equal pieces of at most this many seconds.",
            rich_help_panel=AUDIO,
        ),
    ] = 60.0,
    max_hours: Annotated[
        float, typer.Option(help="Longer recordings are left out.", rich_help_panel=AUDIO)
    ] = 24.0,
    shard_size_mb: Annotated[
        float, typer.Option(help="About the largest size of a tar.", rich_help_panel=AUDIO)
    ] = 256.0,
    seed: Annotated[
        int, typer.Option(help="Of the order of the clips.", rich_help_panel=AUDIO)
    ] = 0,
    name: Annotated[
        str,
        typer.Option(
            help="Name of the dataset in its card. Default: DATASET's name.", rich_help_panel=AUDIO
        ),
    ] = "",
    jobs: Annotated[
        int, typer.Option(help="Processes; 0: one per CPU core.", rich_help_panel=RUNNING)
    ] = 0,
    max_broken: Annotated[
        float,
        typer.Option(
            help="Stop when more than this share of the recordings is unusable.",
            rich_help_panel=RUNNING,
        ),
    ] = 0.01,
    allow_broken: Annotated[
        bool,
        typer.Option(
            "--allow-broken",
            help="Never stop for unusable recordings; they are listed in rejected.parquet.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
) -> None:
    """Prepare a folder of audio and a table (metadata.csv) as a dataset.

    The audio becomes mono 16-bit FLAC at 16 kHz in tar files (WebDataset), in pieces of at most a
    minute, with an index, labels, licences and a dataset card beside them. A run that was stopped
    is continued by the same command.

    Example: chorus prep folder my_birds --out datasets/my_birds --group-column recordist
    """
    options = dict(locals())
    for handled in ("directory", "out"):
        options.pop(handled)
    options["source"] = options.pop("source_name")
    _run(directory, out, options)


def _run(directory: Path, out: Path, options: dict[str, Any]) -> None:
    """Run, and end with one message and the error's exit code where it is the user's to mend."""
    from data_prep.errors import PrepError
    from data_prep.folder import prepare_folder

    try:
        prepare_folder(directory, out, report=_report, **options)
    except PrepError as err:
        typer.echo(f"error: {err}", err=True)
        raise typer.Exit(err.exit_code) from err
    except KeyboardInterrupt as err:
        typer.echo("stopped; the same command continues", err=True)
        raise typer.Exit(130) from err


def _report(table: FolderTable) -> None:
    """Show what was taken for what before anything starts."""
    recordings = table.recordings
    labels = {label.name for recording in recordings for label in recording.labels}
    typer.echo(f"{table.metadata}: {len(recordings)} recordings, {len(labels)} labels", err=True)
    for line in table.mapped.lines():
        typer.echo(f"  {line}", err=True)
    for note in table.notes:
        typer.echo(f"  note: {note}", err=True)
    if not all(recording.licence_url for recording in recordings):
        without = sum(not recording.licence_url for recording in recordings)
        typer.echo(f"  note: {without} recordings state no licence (--licence sets one)", err=True)


if __name__ == "__main__":
    app()
