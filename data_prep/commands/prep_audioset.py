"""`chorus prep audioset`."""

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


@prep_app.command("audioset", rich_help_panel=ARCHIVES)
def audioset(
    *,
    segments: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SEGMENTS.csv...", help="Segment lists, of either dialect; also gzipped."
        ),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="Folder with the clips: files, tars or parquet. May be repeated."
        ),
    ] = None,
    out: TableOut,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="class_labels_indices.csv: the 527 names.")
    ] = None,
    ontology: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="ontology.json: names, and the classes below each class."
        ),
    ] = None,
    strong: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TSV",
            help="Strong labels, added to the clips; needs --ignore-times. May be repeated.",
        ),
    ] = None,
    ignore_times: Annotated[
        bool,
        typer.Option(
            "--ignore-times",
            help="Take strong labels for their whole clips, whenever the sound begins and ends.",
        ),
    ] = False,
    mid_names: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="mid_to_display_name.tsv: names of the strong labels."),
    ] = None,
    only_below: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MID",
            help="Take only clips with this class or one below it: /m/0jbk or Animal. "
            "May be repeated.",
        ),
    ] = None,
) -> None:
    """Read AudioSet's segment lists and find the clips in your copy of the audio.

    Files are found by the video's id in their names, in any of the usual layouts. Clips in tars
    and parquet are written to DIR/audio once. Clips that are not on disk are listed in
    rejected.parquet.

    Example: chorus prep audioset eval_segments.csv --audio audioset/eval --labels
    class_labels_indices.csv --ontology ontology.json --only-below Animal --out tables/audioset
    """
    with friendly_errors():
        from dawnchorus.data_prep.archives.audioset import AudioSet, AudioSetOptions

        options = AudioSetOptions(
            segments=segments or (),
            audio=audio or (),
            out=out,
            labels=labels,
            ontology=ontology,
            strong=strong or (),
            ignore_times=ignore_times,
            mid_names=mid_names,
            only_below=only_below or (),
        )
        archive = AudioSet(options)
        made_by = {
            "command": "chorus prep audioset",
            "segments": [str(path) for path in options.segments],
            "strong": [str(path) for path in options.strong],
            "ignore_times": options.ignore_times,
            "only_below": list(options.only_below),
        }
        save_table(archive.rows(), out, made_by, archive.notes)
