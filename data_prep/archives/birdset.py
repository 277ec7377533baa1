"""BirdSet and BirdCLEF: recordings of Xeno-canto (and others) under eBird's species codes.

A row that names a recording of Xeno-canto or a sound of iNaturalist gets that archive's id
("xc:128013", "inat:1216197"), so that de-duplication and the removal of evaluation sets find it.
A code has a meaning only in eBird's taxonomy of a certain year, so the year is kept with it.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dawnchorus.data_prep.archives.birdset_names import CodeNames, code_names, is_birdclef
from dawnchorus.data_prep.archives.cells import UnreadableList, values_of
from dawnchorus.data_prep.archives.checked import checked, date_of, group_of, number_of, text_of
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.inaturalist import bare_url, credit, sound_number
from dawnchorus.data_prep.archives.table_rows import RowTable, audio_in, open_table, write_audio
from dawnchorus.data_prep.archives.times import REASON, label_times, time_columns, unless_all_timed
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence

SOURCE = "birdset"
MAX_SOUNDSCAPES = 2_000_000
"""Most files without an id of another archive: they are gathered in memory."""
_CONFIG = re.compile(r"(?:HSN|NBP|NES|PER|POW|SNE|SSW|UHH|XCM|XCL)")
_XENO_CANTO = re.compile(r"XC(\d+)")
_INATURALIST = re.compile(r"iNat(\d+)", re.IGNORECASE)
_SEGMENT = re.compile(r"(?:_start)?_\d{1,4}(?:\.\d+)?(?:_end)?_\d{1,4}(?:\.\d+)?$")


def read_birdset(
    source: Path, audio: Path | None, out: Path, *, year: str = "2021", config: str = ""
) -> Iterator[Recording | Rejected]:
    """Yield the recordings of BirdSet's tables (parquet, CSV, JSON lines) or of BirdCLEF's CSV.

    Audio inside a parquet file is written to `out/audio`; else it is looked for below `audio` by
    its name; recordings of Xeno-canto without a file keep their address. Rows of one soundscape
    become one recording with the labels of all. Rejected: labels of a part of a soundscape (and all
    other labels of it), codes that are numbers without names, rows without a file name, soundscapes
    that are not on disk. Raises PrepError when the source is not such a table, when all its labels
    have times, or when `year` is not a year.
    """
    if not re.fullmatch(r"20\d\d", year):
        raise PrepError(f"--ebird-year is the year of eBird's taxonomy, such as 2021, not {year!r}")
    tables = _tables(source)
    index = FileIndex(audio) if audio is not None else None
    names = code_names(source if source.is_dir() else source.parent, tables, year)
    read = _read_all(
        _Reader(table, names, index, out, config or _config_of(table.path)) for table in tables
    )
    yield from unless_all_timed(read, source)


def _read_all(readers: Iterable[_Reader]) -> Iterator[Recording | Rejected]:
    soundscapes: dict[str, Recording] = {}
    timed: set[str] = set()
    for reader in readers:
        yield from checked(_split_off(reader.rows(), soundscapes, timed))
    for identity, recording in soundscapes.items():
        if identity in timed:
            yield Rejected(
                recording_id=identity,
                reason=REASON,
                detail="other labels of it hold for parts",
                path=recording.path,
            )
        else:
            yield from checked([recording])


def _split_off(
    rows: Iterator[Recording | Rejected], soundscapes: dict[str, Recording], timed: set[str]
) -> Iterator[Recording | Rejected]:
    """Yield the rows of other archives; gather those of soundscapes, one per file. The set `timed`
    receives the ids of soundscapes with a label that holds for a part only.
    """
    for row in rows:
        if isinstance(row, Rejected) and row.reason == REASON:
            timed.add(row.recording_id)
        if isinstance(row, Rejected) or row.source != SOURCE:
            yield row
            continue
        # Texts that are too long are rejected now; whether the file is there is checked once, at
        # the end.
        fit = next(checked([dataclasses.replace(row, path=row.path or "?")]))
        if isinstance(fit, Rejected):
            yield fit
            continue
        known = soundscapes.setdefault(row.id, row)
        if len(soundscapes) > MAX_SOUNDSCAPES:
            raise PrepError(f"More than {MAX_SOUNDSCAPES:,} soundscapes: is this BirdSet?")
        if known is not row:
            labels = tuple(dict.fromkeys(known.labels + row.labels))
            if len(labels) != len(known.labels):
                soundscapes[row.id] = dataclasses.replace(known, labels=labels)


def _tables(source: Path) -> list[RowTable]:
    """Return the tables of a file or folder that have species codes."""
    if not source.exists():
        raise PrepError(f"There is nothing at {source}.")
    if source.is_file():
        paths = [source]
    else:
        paths = sorted(p for p in source.rglob("*") if p.suffix in (".parquet", ".jsonl", ".csv"))
    found = [open_table(path) for path in paths if path.is_file() and path.stat().st_size]
    good = [t for t in found if is_birdclef(t) or "ebird_code" in t.columns]
    if not good:
        raise PrepError(
            f"{source} holds no table of BirdSet (columns filepath, ebird_code, …) or BirdCLEF "
            "(train_metadata.csv or train.csv with filename, primary_label, …)."
        )
    return good


def _config_of(path: Path) -> str:
    """Return BirdSet's configuration that a path names ("HSN/test-00000.parquet"), or ''."""
    for part in reversed(path.parts):
        found = _CONFIG.match(part)
        if found:
            return found.group()
    return ""


@dataclass(frozen=True)
class _Reader:
    """One table."""

    table: RowTable
    names: CodeNames
    index: FileIndex | None
    out: Path
    config: str

    def rows(self) -> Iterator[Recording | Rejected]:
        read = self._birdclef if is_birdclef(self.table) else self._birdset
        times = time_columns(self.table.columns)
        for row in self.table.rows():
            if isinstance(row, BadRow):
                yield Rejected(
                    recording_id="", reason=row.problem, detail=row.detail, path=row.file
                )
                continue
            name = text_of(row.get("filepath") or row.get("filename"))
            try:
                found = read(row)
            except UnreadableList as err:
                yield Rejected(
                    recording_id="", reason="unreadable_list", detail=str(err), path=name
                )
                continue
            span = label_times(row, times, _length_s(row)) if times else ""
            if span and isinstance(found, Recording):
                found = Rejected(recording_id=found.id, reason=REASON, detail=span, path=name)
            yield found

    def _birdset(self, row: Mapping[str, Any]) -> Recording | Rejected:
        content, inside = audio_in(row.get("audio"))
        name = text_of(row.get("filepath")) or inside
        identity, xc = self._identity(name)
        if not identity:
            return Rejected(recording_id="", reason="no_id", detail=str(self.table.path))
        try:
            first = self._codes(row, "ebird_code")
            others = [c for c in self._codes(row, "ebird_code_multilabel") if c not in first]
        except _Unnamed as err:
            return Rejected(
                recording_id=identity, reason="unnamed_code", detail=str(err), path=name
            )
        order = self._classes(row.get("order"), "order")
        # In recordings of Xeno-canto the other species are in the background; in soundscapes all
        # count.
        role = BACKGROUND if xc and first else FOREGROUND
        labels = [self.names.label(code, FOREGROUND, order=order) for code in first]
        labels += [self.names.label(code, role) for code in others]
        lat, lon = number_of(row.get("lat"), 90.0), number_of(row.get("long"), 180.0)
        date = date_of(text_of(row.get("local_time"))) if "-" in str(row.get("local_time")) else ""
        recordist = text_of(row.get("recordist"))
        return self._recording(
            identity,
            name,
            content=content,
            inside=inside,
            labels=tuple(labels),
            licence=text_of(row.get("license")),
            recordist=recordist,
            quality=text_of(row.get("quality")),
            sound_type=", ".join(values_of(row.get("call_type"))),
            date=date,
            position=(lat, lon),
            duration_s=number_of(row.get("length"), 1e7) or 0.0,
            split=self._split(row),
        )

    def _birdclef(self, row: Mapping[str, Any]) -> Recording | Rejected:
        name = text_of(row.get("filename"))
        url = text_of(row.get("url"))
        identity, _ = self._identity(name, url)
        codes = values_of(row.get("primary_label"), ";")
        if not identity or not codes:
            return Rejected(recording_id=identity, reason="no_id", detail=str(self.table.path))
        labels = [self.names.label(code, FOREGROUND) for code in codes] + [
            self.names.label(other, BACKGROUND)
            for other in values_of(row.get("secondary_labels"))
            if other not in codes
        ]
        lat, lon = number_of(row.get("latitude"), 90.0), number_of(row.get("longitude"), 180.0)
        date = date_of(text_of(row.get("date")))
        clock = text_of(row.get("time"))
        if len(date) == 10:
            date = date_of(f"{date}T{clock:0>5}") or date
        return self._recording(
            identity,
            name,
            url=url,
            labels=tuple(labels),
            licence=text_of(row.get("license")),
            recordist=text_of(row.get("author")),
            quality=letter_of(row.get("rating")),
            sound_type=", ".join(values_of(row.get("type"))),
            date=date,
            position=(lat, lon),
        )

    def _recording(
        self,
        identity: str,
        name: str,
        *,
        labels: tuple[Label, ...],
        licence: str,
        recordist: str,
        quality: str,
        sound_type: str,
        date: str,
        position: tuple[float | None, float | None],
        content: bytes = b"",
        inside: str = "",
        url: str = "",
        duration_s: float = 0.0,
        split: str = "train",
    ) -> Recording:
        source, _, source_id = identity.partition(":")
        stem = PurePosixPath(name.replace("\\", "/")).stem
        path = self.index.find(stem) if self.index else ""
        if content and not path:
            path = str(write_audio(content, inside or name, self.out / "audio"))
        if source == "xc":
            line = f"{recordist or 'unknown recordist'}, XC{source_id}, xeno-canto.org/{source_id}"
            url = f"https://xeno-canto.org/{source_id}/download"
        elif source == "inat":
            line = credit(recordist, source_id, "")
            url = bare_url(url) if _is_sound(url) else ""
        else:
            line = ", ".join(filter(None, (recordist, f"BirdSet {source_id}")))
            url = ""
        fallback = f"{SOURCE}:{self.config}/{_SEGMENT.sub('', stem)}"
        return Recording(
            id=identity,
            source=source,
            source_id=source_id,
            path=path,
            url=url,
            licence_url=read_licence(licence).url,
            attribution=line,
            recordist=recordist,
            labels=labels,
            quality="" if quality == "no score" else quality,
            sound_type=sound_type,
            datetime=date,
            lat=position[0],
            lon=position[1],
            duration_s=max(0.0, duration_s),
            group_id=group_of(recordist, *position, date, fallback),
            split=split,
        )

    def _identity(self, name: str, url: str = "") -> tuple[str, bool]:
        """Return (id, whether it is Xeno-canto's) of a file name."""
        stem = PurePosixPath(name.replace("\\", "/")).stem
        if found := _XENO_CANTO.fullmatch(stem):
            return f"xc:{int(found.group(1))}", True
        if found := _INATURALIST.fullmatch(stem):
            number = sound_number(url) if _is_sound(url) else ""
            return f"inat:{number or int(found.group(1))}", False
        return (
            (f"{SOURCE}:{self.config}/{stem}" if self.config else f"{SOURCE}:{stem}", False)
            if (stem)
            else ("", False)
        )

    def _codes(self, row: Mapping[str, Any], column: str) -> list[str]:
        """Return the codes of a column; numbers through the names of the table's classes."""
        value = row.get(column)
        codes = []
        for item in [value] if isinstance(value, int) else _items(value):
            code = self._classes(item, column)
            if code.lstrip("-").isdigit():
                raise _Unnamed(
                    f"{column} holds {code}, a number without its name: take the parquet files of "
                    "Hugging Face as they are, or a table with codes"
                )
            if code:
                codes.append(code)
        return list(dict.fromkeys(codes))

    def _classes(self, value: Any, column: str) -> str:
        names = self.table.classes.get(column)
        if names and isinstance(value, int) and 0 <= value < len(names):
            return text_of(names[value])
        return text_of(value)

    def _split(self, row: Mapping[str, Any]) -> str:
        """Return "test" for what BirdSet evaluates on, else "train"."""
        words = re.split(r"[^a-z0-9]+", f"{text_of(row.get('split'))} {self.table.path.name}")
        return "test" if "test" in words else "train"


def _length_s(row: Mapping[str, Any]) -> float:
    """Return the length of a row's file: of the audio inside the table, else as it is stated."""
    content, _ = audio_in(row.get("audio"))
    if content:
        import soundfile

        try:
            return float(soundfile.info(io.BytesIO(content)).duration)
        except (RuntimeError, OSError):
            pass
    return number_of(row.get("length"), 1e7) or 0.0


class _Unnamed(Exception):
    """A code that is a number without a name."""


def _is_sound(url: str) -> bool:
    return "inaturalist.org/sounds/" in url and bool(sound_number(url))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else values_of(value)


def letter_of(rating: Any) -> str:
    """Return Xeno-canto's letter for BirdCLEF's rating (5 is A; half a point less means that other
    species are in the background).
    """
    number = number_of(rating, 5.0)
    if number is None or number < 0.5:
        return ""
    return "EDCBA"[min(4, max(0, round(number + 0.25) - 1))]
