"""`chorus prep inaturalist`."""

from __future__ import annotations

from collections.abc import Iterator
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
    from dawnchorus.data_prep.archives.inaturalist_api import ApiOptions
    from dawnchorus.data_prep.table.recording import Recording
    from dawnchorus.data_prep.table.recording_table import Rejected
    from dawnchorus.trainer.progress import Progress

API = "The API"


@prep_app.command("inaturalist", rich_help_panel=ARCHIVES)
def inaturalist(
    *,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Saved API pages (JSON), the research-grade archive (gbif-observations-dwca.zip), "
            "or iNatSounds' train.json; each a file or the folder it is in. None: ask the API.",
            show_default=False,
        ),
    ] = None,
    out: TableOut,
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the sounds that are on disk: 263113.wav anywhere in it."
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What to ask the API for, such as taxon_id=3; may be repeated. Asked besides: "
            "sounds=true, quality_grade=research.",
            rich_help_panel=API,
        ),
    ] = None,
    licences: Annotated[
        str,
        typer.Option(
            metavar="CODES",
            help="Licences to ask for, with commas; 'all' for every sound. Default: all that let "
            "the file be copied (CC0 and all of Creative Commons).",
            rich_help_panel=API,
            show_default=False,
        ),
    ] = "",
    api: Annotated[str, typer.Option(help="Version: v1 or v2.", rich_help_panel=API)] = "v1",
    per_page: Annotated[int, typer.Option(help="1 to 200.", rich_help_panel=API)] = 200,
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="Where it is.", rich_help_panel=API)
    ] = "https://api.inaturalist.org",
    pause_s: Annotated[
        float, typer.Option(help="Least seconds between two requests.", rich_help_panel=API)
    ] = 1.0,
) -> None:
    """Read iNaturalist: its API, its research-grade archive, or iNatSounds 2024.

    Pages of the API are saved in DIR/pages as they come, one request per second; a query that was
    stopped goes on with the same command. Sounds that were hidden, moderated or flagged are left
    out; those with all rights reserved stay in the table under that licence, for the selection to
    refuse.

    Example: chorus prep inaturalist --query taxon_id=20979 --out tables/frogs
    """
    from dawnchorus.data_prep.archives.inaturalist_api import LICENCES, ApiOptions
    from dawnchorus.trainer.progress import Progress

    with friendly_errors():
        progress = Progress()
        options = ApiOptions(
            version=api,
            base_url=base_url,
            per_page=per_page,
            licences=licences or LICENCES,
            pause_s=pause_s,
        )
        found = _sources(sources or [], query or [], out, options, progress)
        notes = _notes(found)
        made_by = {
            "command": "inaturalist",
            "sources": [str(source) for source in sources or []],
            "query": query or [],
            "notes": notes,
        }
        save_table(_rows(found, audio, out, progress), out, made_by, lambda: notes)


def _sources(
    sources: list[Path], query: list[str], out: Path, options: ApiOptions, progress: Progress
) -> list[tuple[str, Path]]:
    """Return (kind, path) of everything to read, after asking the API where that is wanted."""
    from dawnchorus.data_prep.archives.inaturalist_api import parse_query, walk
    from dawnchorus.data_prep.archives.inaturalist_sources import classify
    from dawnchorus.data_prep.errors import PrepError

    if sources and query:
        raise PrepError("Either SOURCE or --query: files are read as they are.")
    if sources:
        return [found for source in sources for found in classify(source)]
    if not query:
        raise PrepError(
            "Nothing to read: name saved pages or an archive, or what to ask the API for "
            "(--query taxon_id=3; all sounds of the site: --query quality_grade=research)."
        )
    return [("api", page) for page in walk(parse_query(query), out, options, progress)]


def _rows(
    found: list[tuple[str, Path]], audio: Path | None, out: Path, progress: Progress
) -> Iterator[Recording | Rejected]:
    from dawnchorus.data_prep.archives.file_index import FileIndex
    from dawnchorus.data_prep.archives.inaturalist import sound_key
    from dawnchorus.data_prep.archives.inaturalist_sources import read

    kinds = {kind for kind, _ in found}
    local = FileIndex(audio, sound_key) if audio and kinds & {"api", "dwca"} else None
    for kind, path in found:
        yield from read(kind, path, local=local, audio=audio, scratch=out, progress=progress)


def _notes(found: list[tuple[str, Path]]) -> list[str]:
    from dawnchorus.data_prep.archives.inatsounds import TERMS

    return [TERMS] if any(kind == "inatsounds" for kind, _ in found) else []
