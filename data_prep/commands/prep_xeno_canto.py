"""`chorus prep xeno-canto`, `gbif` and `animal-sound-archive`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dawnchorus.data_prep.commands.apps import (
    ARCHIVES,
    TableOut,
    friendly_errors,
    prep_app,
    save_table,
)

if TYPE_CHECKING:
    from dawnchorus.data_prep.archives.file_index import FileIndex, Keys

AudioFolder = Annotated[
    Path | None,
    typer.Option("--audio", metavar="DIR", help="Folder with audio that is on disk already."),
]


@prep_app.command("xeno-canto", rich_help_panel=ARCHIVES)
def xeno_canto(
    *,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SOURCE...]",
            help="Saved answers of the API (JSON), tables (CSV), GBIF downloads, publisher's "
            "archives, or folders of them.",
        ),
    ] = None,
    out: TableOut,
    query: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask the API, tags only: --query 'grp:birds cnt:\"Sri Lanka\" q:A'. Repeatable. "
            "The key is read from the environment variable XENO_CANTO_KEY."
        ),
    ] = None,
    audio: AudioFolder = None,
    api: Annotated[
        str, typer.Option(metavar="URL", help="Address of the API.")
    ] = "https://xeno-canto.org/api/3/recordings",
) -> None:
    """Read Xeno-canto's metadata: ask the API, or read what others saved of it.

    Answers are kept page by page in DIR/pages: the same command goes on where it was stopped, and
    asks nothing when all pages are there. At most one request a second. For more than some ten
    thousand recordings take the GBIF download instead (docs/archives/xeno-canto.md).

    Example: chorus prep xeno-canto --query 'grp:birds q:A area:europe' --out tables/xc
    """
    from dawnchorus.data_prep.archives.file_index import xeno_canto_key
    from dawnchorus.data_prep.archives.xeno_canto_sources import read_sources
    from dawnchorus.data_prep.errors import PrepError

    with friendly_errors():
        if not sources and not query:
            raise PrepError("Give a SOURCE to read or a --query to ask (or both).")
        # The queries come first: their answers are read like any other saved answer.
        pages = _fetched(query or [], out, api)
        rows = read_sources(
            [*(sources or []), *pages], scratch=out, audio=_files(audio, xeno_canto_key), say=_say
        )
        made_by = {
            "command": "xeno-canto",
            "sources": [str(source) for source in sources or []],
            "queries": list(query or []),
        }
        save_table(rows, out, made_by)


def _fetched(queries: list[str], out: Path, api: str) -> list[Path]:
    """Fetch the pages of the queries that are not there yet; return them all."""
    if not queries:
        return []
    import os

    from dawnchorus.data_prep.archives.xeno_canto_api import KEY_VARIABLE, XenoCanto
    from dawnchorus.data_prep.archives.xeno_canto_query import check_queries

    check_queries(queries)
    key = os.environ.get(KEY_VARIABLE, "")
    with XenoCanto(key, url=api, say=_say) as client:
        return [page for query in queries for page in client.pages(query, out / "pages")]


@prep_app.command("gbif", rich_help_panel=ARCHIVES)
def gbif(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="GBIF download, zip or unpacked.")
    ],
    *,
    out: TableOut,
    audio: AudioFolder = None,
) -> None:
    """Read any GBIF download with sounds (Darwin Core Archive).

    Recordings of Xeno-canto, iNaturalist and the Animal Sound Archive get the ids that their own
    commands give. The licence is that of the sound, not that of the occurrence.

    Example: chorus prep gbif 0012345-260601000000000.zip --out tables/gbif
    """
    from dawnchorus.data_prep.archives.file_index import any_key
    from dawnchorus.data_prep.archives.gbif import Asked, read_gbif

    with friendly_errors():
        asked = Asked(audio=_files(audio, any_key), say=_say)
        rows = read_gbif(source, scratch=out, asked=asked)
        made_by = {"command": "gbif", "sources": [str(source)]}
        save_table(rows, out, made_by, lambda: _notes(asked.notes["no_licence"]))


@prep_app.command("animal-sound-archive", rich_help_panel=ARCHIVES)
def animal_sound_archive(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="GBIF download, or a CSV, or a folder with CSV."),
    ],
    *,
    out: TableOut,
    audio: AudioFolder = None,
) -> None:
    """Read the Animal Sound Archive of Berlin: its GBIF download, or a folder of audio and a CSV.

    Many addresses of its GBIF download no longer work; give the folder of files you have with
    --audio, they are found by base name. Recordings that state no licence are BY-NC-SA 4.0.

    Example: chorus prep animal-sound-archive asa/ --audio asa/mp3 --out tables/asa
    """
    from dawnchorus.data_prep.archives.animal_sound_archive import read_animal_sound_archive
    from dawnchorus.data_prep.archives.file_index import asa_key
    from dawnchorus.data_prep.archives.gbif import Asked

    with friendly_errors():
        # A folder with a table usually holds the files too.
        beside = source if source.is_dir() else None
        asked = Asked(audio=_files(audio or beside, asa_key), say=_say)
        rows = read_animal_sound_archive(source, scratch=out, asked=asked)
        made_by = {"command": "animal-sound-archive", "sources": [str(source)]}
        save_table(rows, out, made_by, lambda: _notes(asked.notes["no_licence"]))


def _notes(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count:,} recordings of the Animal Sound Archive state no licence: taken as "
        "CC BY-NC-SA 4.0, which most of it has"
    ]


def _files(folder: Path | None, keys: Keys) -> FileIndex | None:
    """Return the index of a folder of audio, and print what is in it."""
    if folder is None:
        return None
    from dawnchorus.data_prep.archives.file_index import FileIndex

    index = FileIndex(folder, keys)
    typer.echo(f"{folder}: {index.count:,} files", err=True)
    if index.unnamable:
        typer.echo(f"  not used, names are not UTF-8: {', '.join(index.unnamable)}", err=True)
    return index


def _say(text: str) -> None:
    typer.echo(text, err=True)
