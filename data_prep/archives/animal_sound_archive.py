"""Animal Sound Archive (Tierstimmenarchiv, Museum für Naturkunde Berlin).

Its GBIF download is read by `data_prep.archives.gbif`; this module reads the other form in which
people pass it on, a folder of MP3s with a CSV (tsa_id, originals_path, scientificName, eventDate,
soundType, soundQuality, duration_seconds, backgroundSpecies, …). The paths in the table are those
of another computer, so files are found by their base name. The remarks are in German and are not
read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dawnchorus.data_prep.archives import xeno_canto
from dawnchorus.data_prep.archives.cells import is_absent, is_nothing
from dawnchorus.data_prep.archives.checked import MAX_TEXT, checked, date_of, group_of
from dawnchorus.data_prep.archives.delimited import BadRow, picker, plain_key, read_rows, sniff
from dawnchorus.data_prep.archives.dwca import Row, is_archive
from dawnchorus.data_prep.archives.file_index import FileIndex, asa_key
from dawnchorus.data_prep.archives.gbif import ASA, ASA_LICENCE, HIGHER, Asked, read_gbif
from dawnchorus.data_prep.archives.text_files import as_utf8, text_form
from dawnchorus.data_prep.archives.times import REASON, label_times, time_columns, unless_all_timed
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, RANKS, Label, Recording, tidy_name
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence

_TABLES = (".csv", ".tsv", ".txt")
# Field -> columns that may hold it, as letters and digits.
_COLUMNS = {
    "id": ("tsaid", "catalognumber", "id"),
    "path": ("originalspath", "path", "filename", "filepath", "file", "localpath", "audio"),
    "name": ("scientificname", "canonicalname", "speciesscientific", "species", "taxonname"),
    "rank": ("taxonrank", "rank"),
    "recordist": ("recordedby", "recordist", "creator", "author"),
    "licence": ("license", "licence", "licenseurl", "licenceurl", "rights"),
    "date": ("eventdate", "date"),
    "time": ("eventtime", "time"),
    "type": ("soundtype", "behavior", "type"),
    "quality": ("soundquality", "quality"),
    "duration": ("durationseconds", "durations", "duration"),
    "also": ("backgroundspecies", "associatedtaxa"),
    "lat": ("decimallatitude", "latitudedecimal", "latitude", "lat"),
    "lon": ("decimallongitude", "longitudedecimal", "longitude", "lon", "lng"),
    "country": ("country", "countrycode"),
    "site": ("locality", "location"),
    "url": ("identifier", "url", "accessuri"),
}


def read_animal_sound_archive(
    source: Path, *, scratch: Path, asked: Asked
) -> Iterator[Recording | Rejected]:
    """Yield the recordings of a GBIF download, of a CSV, or of the CSV in a folder of audio.

    `asked.audio` (with `asa_key`) gives the files on disk; a recording of a CSV without a file is
    left out as `no_audio` unless the table has its address. Where no licence is stated, it is
    BY-NC-SA 4.0 and counted in `asked.notes["no_licence"]`. Raises PrepError when the source is
    neither, or broken.
    """
    if is_archive(source):
        asked.only = ASA
        yield from read_gbif(source, scratch=scratch, asked=asked)
        return
    for table in _tables(source):
        yield from unless_all_timed(checked(_rows(table, asked)), table)


def _tables(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise PrepError(f"There is nothing at {source}.")
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in _TABLES and p.is_file())
    if not found:
        raise PrepError(
            f"{source} holds neither a GBIF download (meta.xml) nor a table (.csv) of the archive."
        )
    return found


def _rows(table: Path, asked: Asked) -> Iterator[Recording | Rejected]:
    name = str(table)
    try:
        with table.open("rb") as stream:
            form = text_form(stream, name)
        with table.open("rb") as stream:
            header, dialect = sniff(as_utf8(stream, name, form), name)
        plain = [plain_key(column) for column in header]
        columns: list[tuple[str, int | None, str]] = [
            (field, plain.index(column), "")
            for field, usual in _COLUMNS.items()
            for column in usual
            if column in plain
        ]
        columns += [(rank, plain.index(rank), "") for rank in HIGHER if rank in plain]
        if {"genus", "specificepithet"} <= set(plain):
            columns += [(k, plain.index(k), "") for k in ("genus", "specificepithet")]
        fields = {field for field, _, _ in columns}
        if not fields & {"id", "path"} or not fields & {"name", "genus"}:
            raise PrepError(
                f"{table} has no column for the recording (tsa_id, originals_path) or none for the "
                f"name (scientificName). Columns: {', '.join(x[:40] for x in header[:20])}."
            )
        pick = picker(columns)
        times = time_columns(header)
        with table.open("rb") as stream:
            for row in read_rows(as_utf8(stream, name, form), name, dialect, len(header)):
                if isinstance(row, BadRow):
                    yield Rejected(recording_id="asa:?", reason=row.problem, detail=row.detail)
                    continue
                found = _recording(pick(row), asked)
                span = label_times(dict(zip(header, row, strict=False)), times) if times else ""
                if span and isinstance(found, Recording):
                    found = Rejected(
                        recording_id=found.id, reason=REASON, detail=span, path=found.path
                    )
                yield found
    except OSError as err:
        raise PrepError(f"{table} cannot be read: {err}.") from err


def _recording(row: Row, asked: Asked) -> Recording | Rejected:
    # "NA" is Namibia there.
    row = {key: "" if key != "country" and is_absent(text) else text for key, text in row.items()}

    def text(field: str) -> str:
        return row.get(field, "")

    if any(len(value) > MAX_TEXT for value in row.values()):
        return Rejected(recording_id="asa:?", reason="field_too_long", detail=text("id")[:60])
    base = PurePosixPath(text("path").replace("\\", "/")).name
    source_id = tidy_name(text("id").removeprefix("TSA:")) or asa_key(base)[0]
    stated = text("name") or f"{text('genus')} {text('specificepithet')}"
    label = _label(stated, text("rank"), row)
    path = _find(base, text("id").removeprefix("TSA:"), asked.audio)
    if label is None or not source_id or not (path or text("url")):
        reason = "no_id" if not source_id else "no_name" if label is None else "no_audio"
        return Rejected(
            recording_id=f"{ASA}:{source_id or '?'}",
            reason=reason,
            detail=tidy_name(stated) if label is None else f"no file {base or source_id}",
            path=text("path"),
        )
    licence = read_licence(text("licence")).url
    if not licence:
        asked.notes["no_licence"] += 1
    lat, lon = xeno_canto.coordinates(row.get("lat"), row.get("lon"))
    date = date_of(text("date"))
    date = xeno_canto.when(date, text("time")) if len(date) == 10 else date
    recordist = tidy_name(text("recordist"))
    who = recordist or "unknown recordist"
    return Recording(
        id=f"{ASA}:{source_id}",
        source=ASA,
        source_id=source_id,
        path=path,
        url=text("url"),
        licence_url=licence or ASA_LICENCE,
        attribution=f"{who}, Tierstimmenarchiv {source_id}, Museum für Naturkunde Berlin",
        recordist=recordist,
        labels=(label, *_background(text("also"), label.name)),
        quality=text("quality"),
        sound_type=text("type"),
        datetime=date,
        lat=lat,
        lon=lon,
        country=text("country"),
        duration_s=xeno_canto.seconds(text("duration")),
        group_id=group_of(recordist, lat, lon, date, f"{ASA}:{source_id}", text("site")),
    )


def _label(stated: str, rank: str, row: Row) -> Label | None:
    found = xeno_canto.read_name(stated)
    if not found.canonical or is_nothing(stated):
        return None
    ids = tuple((key, row[key]) for key in HIGHER if row.get(key))
    if found.doubt and found.doubt != "undetermined":
        return Label(tidy_name(stated), ids=ids)
    above = rank.lower() if rank.lower() in RANKS - {"species", "subspecies"} else "genus"
    return Label(found.canonical, ("", above, "species", "subspecies")[found.words], ids=ids)


def _background(text: str, foreground: str) -> tuple[Label, ...]:
    """Return the labels of "Parus major; Turdus merula"; words that are not scientific names are
    left out.
    """
    found: dict[str, Label] = {}
    for part in xeno_canto.names_in(text):
        name = xeno_canto.read_name(part)
        if name.words >= 2 and not name.doubt and name.canonical != foreground:
            rank = ("", "genus", "species", "subspecies")[name.words]
            found[name.canonical] = Label(name.canonical, rank, BACKGROUND)
    return tuple(found.values())


def _find(base: str, number: str, audio: FileIndex | None) -> str:
    """Return the file of a recording: by the table's base name, else by its number."""
    if audio is None:
        return ""
    names = [*(asa_key(base) if base else ()), *(asa_key(number) if number else ())]
    return next((path for name in names if (path := audio.find(name))), "")
