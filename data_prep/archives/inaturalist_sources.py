"""Which of iNaturalist's formats a file or folder has, judged by its content, and its reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.inatsounds import read_inatsounds
from dawnchorus.data_prep.archives.inaturalist import kind_of, read_pages
from dawnchorus.data_prep.archives.inaturalist_api import PAGES, saved_pages
from dawnchorus.data_prep.archives.inaturalist_dwca import is_research_grade, read_research_grade
from dawnchorus.data_prep.archives.json_files import documents, looks_like_json_file
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.progress import Progress

HINT = (
    "saved API pages ({'results': [...]}), the research-grade archive (observations.csv and "
    "media.csv) or iNatSounds (train.json)"
)


def classify(source: Path) -> list[tuple[str, Path]]:
    """Return (kind, file or folder) of what is there: "dwca", "api" or "inatsounds".

    Raises PrepError when it is none of these, or a folder without any of them.
    """
    if source.is_dir():
        if is_research_grade(source):
            return [("dwca", source)]
        folder = source / PAGES if (source / PAGES).is_dir() else source
        names = [path for path in saved_pages(folder) if looks_like_json_file(path)]
        # A release holds the same table twice, plain and compressed.
        plain = {path.name for path in names}
        found = [
            (kind, path)
            for path in names
            if not (path.name.endswith(".gz") and _unpacked(path.name) in plain)
            and (kind := _kind_of_json(path))
        ]
        if not found:
            raise PrepError(f"{source} holds none of iNaturalist's formats: {HINT}.")
        return found
    if not source.is_file():
        raise PrepError(f"There is nothing at {source}.")
    with source.open("rb") as file:
        if file.read(2) == b"PK" and is_research_grade(source):
            return [("dwca", source)]
    kind = _kind_of_json(source)
    if not kind:
        raise PrepError(f"{source} is not in a format of iNaturalist: {HINT}.")
    return [(kind, source)]


def _unpacked(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".tar")


def _kind_of_json(path: Path) -> str:
    kinds = {kind for document in documents(path) if (kind := kind_of(document))}
    if len(kinds) > 1:
        raise PrepError(f"{path} holds both API pages and iNatSounds: give them one by one.")
    return kinds.pop() if kinds else ""


def read(
    kind: str,
    path: Path,
    *,
    local: FileIndex | None,
    audio: Path | None,
    scratch: Path,
    progress: Progress,
) -> Iterator[Recording | Rejected]:
    """Yield the recordings of one source. `audio` defaults to its folder for iNatSounds."""
    if kind == "dwca":
        yield from read_research_grade(path, local, scratch, progress)
        return
    for document in documents(path):
        if kind == "inatsounds":
            yield from read_inatsounds(document, audio or path.parent)
        else:
            yield from read_pages(document, local)
