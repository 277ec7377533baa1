"""The Watkins Marine Mammal Sound Database: BEANS' table, a folder per species, or parquet.

Labels are English names, some with a comma ("Beluga,_White_Whale"): they are never split. The
table `watkins_names.csv` beside this file translates them. Cuts of one tape are one group: the
first five digits of a cut's name are the year and the tape (59030023: cut 023 of tape 59030), so
the random splits that circulate put the cuts of a tape into train and test. They are not kept.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dawnchorus.data_prep.archives.checked import checked, text_of
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.table_rows import RowTable, audio_in, open_table, write_audio
from dawnchorus.data_prep.archives.times import REASON, label_times, time_columns, unless_all_timed
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected

LICENCE = "LicenseRef-WHOI-Public"
"""Free for personal or academic use, not a Creative Commons licence."""
CREDIT = (
    "Watkins Marine Mammal Sound Database, Woods Hole Oceanographic Institution and the New "
    "Bedford Whaling Museum"
)
TERMS = "Watkins: free for personal or academic use; commercial use needs the owners' permission."
NAMES = Path(__file__).with_name("watkins_names.csv")
SOURCE, TAXONOMY = "watkins", "watkins"
_AUDIO = frozenset((".aif", ".aiff", ".flac", ".mp3", ".ogg", ".wav"))
_TAPE = re.compile(r"\d{5}(?=\d|[0-9A-Za-z])")
_SPELLINGS = {"grey": "gray", "harbour": "harbor"}
MAX_ROWS = 1_000_000
"""The database has about 15,000 cuts; they are gathered in memory."""
_CANDIDATES, _NEAR = 3, 60.0


def plain_name(name: str) -> str:
    """Return what spellings of a name have in common: "Fin,_Finback_Whale" -> "fin finback whale".

    Underscores, hyphens, commas, brackets and apostrophes do not count, nor does grey for gray.
    """
    text = re.sub(r"['’`´]", "", name.lower())
    words = re.findall(r"[a-z0-9]+", text)
    return " ".join(_SPELLINGS.get(word, word) for word in words)


@cache
def name_table() -> dict[str, Label]:
    """Return {plain name: label} of the shipped table."""
    table: dict[str, Label] = {}
    with NAMES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            label = Label(
                row["scientific_name"],
                row["rank"],
                taxonomy=TAXONOMY,
                ids=(
                    ("kingdom", "Animalia"),
                    ("phylum", "Chordata"),
                    ("class", "Mammalia"),
                    ("family", row["family"]),
                ),
            )
            spellings = [row["name"], *filter(None, row["also"].split(";"))]
            if row["rank"] == "species":
                spellings.append(row["scientific_name"])
            for spelling in spellings:
                key = plain_name(spelling)
                if table.setdefault(key, label) != label:
                    raise ValueError(f"{NAMES}: {spelling!r} means two things")
    return table


def label_of(name: str) -> Label | None:
    """Return the label of an English (or scientific) name, or None where the table does not have
    it.
    """
    return name_table().get(plain_name(name))


def nearest(name: str) -> list[str]:
    """Return up to three names of the table that are spelt most alike."""
    from rapidfuzz import fuzz, process

    found = process.extract(
        plain_name(name)[:200], list(name_table()), scorer=fuzz.WRatio, limit=_CANDIDATES,
        score_cutoff=_NEAR,
    )  # fmt: skip
    return [key for key, _, _ in found]


def group_of_cut(cut: str) -> str:
    """Return the tape of a cut ("59030023" -> "watkins:tape 59030"), else the cut itself."""
    tape = _TAPE.match(cut)
    return f"{SOURCE}:tape {tape.group()}" if tape else f"{SOURCE}:{cut}"


def read_watkins(source: Path, audio: Path | None, out: Path) -> Iterator[Recording | Rejected]:
    """Yield the cuts of a table (annotations.csv, parquet) or of a folder with one per species.

    Audio is looked for below `audio` (default: where the source is); what is inside a parquet
    file is written to `out/audio`. Rejected: names that the table lacks (with the nearest ones),
    files that are not there. A cut that is listed under two species has both labels. Raises
    PrepError when the source is not this collection.
    """
    if audio is not None and not audio.is_dir():
        raise PrepError(f"The folder of the audio, {audio}, is not there (--audio).")
    tables = _tables(source)
    if tables:
        base = audio or (source if source.is_dir() else source.parent)
        yield from unless_all_timed(checked(_merged(_table_cuts(tables, base, out))), source)
    else:
        yield from checked(_merged(_folder_cuts(source)))


def _tables(source: Path) -> list[RowTable]:
    """Return the tables of a source; none where it is a folder of folders."""
    if source.is_file():
        return [_known(open_table(source))]
    if not source.is_dir():
        raise PrepError(f"There is nothing at {source}.")
    if (source / "annotations.csv").is_file():
        return [_known(open_table(source / "annotations.csv"))]
    found = sorted(source.rglob("*.parquet"))
    return [_known(open_table(path)) for path in found]


def _known(table: RowTable) -> RowTable:
    columns = set(table.columns)
    if not columns & {"species", "label"} or not columns & {"path", "file", "audio"}:
        raise PrepError(
            f"{table.path} has the columns {', '.join(table.columns)[:200]}; a table of Watkins "
            "has path and species (BEANS' annotations.csv), or file, audio, species and label."
        )
    return table


def _table_cuts(tables: list[RowTable], base: Path, out: Path) -> Iterator[_Cut | Rejected]:
    index: FileIndex | None = None
    for table in tables:
        times = time_columns(table.columns)
        for row in table.rows():
            if isinstance(row, BadRow):
                yield Rejected(
                    recording_id="", reason=row.problem, detail=row.detail, path=row.file
                )
                continue
            if span := label_times(row, times):
                name = text_of(row.get("path")) or text_of(row.get("file"))
                yield Rejected(recording_id="", reason=REASON, detail=span, path=name)
                continue
            content, inside = audio_in(row.get("audio"))
            name = text_of(row.get("path")) or text_of(row.get("file")) or inside
            species = _species(row, table)
            if not name:
                yield Rejected(recording_id="", reason="no_id", detail=species, path="")
                continue
            cut = PurePosixPath(name.replace("\\", "/")).stem
            path = ""
            if label_of(species) is None:
                pass  # it is rejected below, so its audio is not written
            elif content:
                path = str(write_audio(content, inside or name, out / "audio"))
            else:
                index = index or FileIndex(base)
                path = index.find(cut)
            yield _Cut(cut, species, path, name)


def _species(row: dict[str, Any], table: RowTable) -> str:
    """Return the English name of a row; a class label is a number with a name elsewhere."""
    for column in ("species", "label"):
        value, names = row.get(column), table.classes.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            if names and 0 <= value < len(names):
                return text_of(names[value])
            continue
        if text := text_of(value):
            return text
    return ""


def _folder_cuts(source: Path) -> Iterator[_Cut | Rejected]:
    """Yield the files of a folder that has one folder per species."""
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    if not any(label_of(folder.name) for folder in folders):
        raise PrepError(
            f"{source} holds neither annotations.csv, nor parquet files, nor a folder per species "
            "(Humpback_Whale/…)."
        )
    for folder in folders:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _AUDIO and p.is_file())
        for path in files:
            yield _Cut(path.stem, folder.name, str(path.absolute()), str(path))


class _Cut(NamedTuple):
    """A cut as a source lists it: its name, its species, its file, and its name in the source."""

    cut: str
    species: str
    path: str
    listed: str


def _merged(cuts: Iterator[_Cut | Rejected]) -> Iterator[Recording | Rejected]:
    """Yield one recording per cut, with the labels of all species that it is listed under."""
    found: dict[str, tuple[str, list[Label]]] = {}
    for count, row in enumerate(cuts):
        if count == MAX_ROWS:
            raise PrepError(f"More than {MAX_ROWS:,} rows: this is not the Watkins database.")
        if isinstance(row, Rejected):
            yield row
            continue
        cut, species, path, listed = row
        label = label_of(species)
        if label is None:
            near = ", ".join(repr(name) for name in nearest(species))
            yield Rejected(
                recording_id=f"{SOURCE}:{cut}",
                reason="unknown_name",
                detail=f"{species[:100]!r} is not in {NAMES.name}; nearest: {near or 'none'}",
                path=listed,
            )
        elif not path:
            yield Rejected(recording_id=f"{SOURCE}:{cut}", reason="missing_file", path=listed)
        else:
            _, labels = found.setdefault(cut, (path, []))
            if label not in labels:
                labels.append(label)
    for cut, (path, labels) in found.items():
        yield Recording(
            id=f"{SOURCE}:{cut}",
            source=SOURCE,
            source_id=cut,
            path=path,
            licence_url=LICENCE,
            attribution=f"{CREDIT}, cut {cut}",
            labels=tuple(labels),
            group_id=group_of_cut(cut),
        )
