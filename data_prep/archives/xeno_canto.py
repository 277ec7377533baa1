"""Xeno-canto: what the API gives (v3, and v2 until 2025), saved as JSON or as a CSV of its fields.

Formats: https://xeno-canto.org/explore/api. Everything is text there, the length "4:13" too; there
is no field for the whole name; the licence is that of the audio. Xeno-canto's data sets at GBIF are
read by `archives.gbif`, with functions of this module.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from dawnchorus.data_prep.archives.cells import UnreadableList, is_nothing, values_of
from dawnchorus.data_prep.archives.checked import (
    MAX_TEXT,
    checked,
    date_of,
    group_of,
    number_of,
    text_of,
)
from dawnchorus.data_prep.archives.delimited import BadRow, picker, read_rows, sniff
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.json_files import broken_file, documents, items, top_level_keys
from dawnchorus.data_prep.archives.text_files import as_utf8, text_form
from dawnchorus.data_prep.archives.times import (
    REASON,
    TimeColumns,
    label_times,
    time_columns,
    unless_all_timed,
)
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, Label, Recording, tidy_name
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.data_prep.taxonomy.names import NO_NAME, ScientificName, parse_name
from dawnchorus.trainer.licences import read_licence

SOURCE = "xc"
TAXONOMY = "xeno-canto"
MAX_RECORDING_BYTES = 16 << 20
"""A recording has about 2 kB, with a long remark some 20 kB."""
QUESTIONED = "id?:yes"
_NUMBER = re.compile(r"(?:XC)?0*(\d{1,9})", re.IGNORECASE)
_LENGTH = re.compile(r"(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2}(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d{1,7}(?:\.\d{1,9})?)\s*(?:s|sec|secs|seconds)?\.?", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2})[:.](\d\d)")
_USED = (
    "id", "gen", "sp", "ssp", "grp", "group", "en", "rec", "cnt", "loc", "type", "url", "file",
    "lic", "q", "length", "time", "date", "also", "smp", "lat", "lon", "lng",
)  # fmt: skip
_QUALITIES = frozenset("ABCDE")
# The higher taxa of Xeno-canto's groups.
_GROUPS: dict[str, tuple[tuple[str, str], ...]] = {
    "birds": (("kingdom", "Animalia"), ("class", "Aves")),
    "grasshoppers": (("kingdom", "Animalia"), ("class", "Insecta"), ("order", "Orthoptera")),
    "bats": (("kingdom", "Animalia"), ("class", "Mammalia"), ("order", "Chiroptera")),
    "frogs": (("kingdom", "Animalia"), ("class", "Amphibia"), ("order", "Anura")),
    "land mammals": (("kingdom", "Animalia"), ("class", "Mammalia")),
}


def read_dump(path: Path, audio: FileIndex | None = None) -> Iterator[Recording | Rejected]:
    """Yield the recordings of a saved answer or table: JSON, JSON lines, CSV, each also as .gz,
    JSON also in a zip.

    JSON: a page of the API, several, a list of pages, or a list of recordings; fields of v2 or v3.
    `audio` (with `xeno_canto_key`) gives the files that are on disk. Rejected: labels of parts of
    recordings. Raises PrepError when the file is none of these, breaks off, or all its labels have
    times.
    """
    start = _start(path)
    if start[:1] in (b"{", b"[") or start[:2] == b"PK":
        rows = _json_rows(path)
    elif start[:1] == b"<":
        raise PrepError(f"{path} is a web page (HTML or XML), no answer of the API. Get it again.")
    else:
        rows = _csv_rows(path)
    yield from unless_all_timed(_read(rows, audio), path)


def _read(
    rows: Iterable[dict[str, Any] | Rejected], audio: FileIndex | None
) -> Iterator[Recording | Rejected]:
    """Turn rows into recordings; tables of others may add times, of which the API has none."""
    times_of: dict[tuple[str, ...], TimeColumns] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield from checked([row])
            continue
        found = from_api(row, audio)
        if isinstance(found, Recording):
            times = times_of.setdefault((names := tuple(row)), time_columns(names))
            if span := label_times(row, times, found.duration_s):
                found = Rejected(recording_id=found.id, reason=REASON, detail=span)
        yield from checked([found])


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    with broken_file(path), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file


def _start(path: Path) -> bytes:
    """Return the first bytes of text."""
    with _unpacked(path) as stream:
        return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()


def _json_rows(path: Path) -> Iterator[dict[str, Any] | Rejected]:
    for document in documents(path):
        keys = top_level_keys(document)
        if "recordings" not in keys and "error" in keys:
            answer = next(items(document, "item" if "[" in keys else "", MAX_RECORDING_BYTES))
            raise PrepError(f"{document.name} is an error of the API: {error_text(answer)}.")
        if "recordings" not in keys and "id" not in keys:
            shown = ", ".join(sorted(keys)[:8]) or "nothing"
            raise PrepError(
                f"{document.name} is JSON, but no answer of Xeno-canto's API: it begins with "
                f"{shown} instead of recordings."
            )
        prefix = "item" if "[" in keys else ""
        if "recordings" in keys:
            prefix = f"{prefix}.recordings.item".lstrip(".")
        for number, item in enumerate(items(document, prefix, MAX_RECORDING_BYTES), start=1):
            if isinstance(item, dict):
                yield item
            else:
                detail = f"{document.name}, recording {number}: no object"
                yield Rejected(recording_id="xc:?", reason="unreadable_row", detail=detail)


def _csv_rows(path: Path) -> Iterator[dict[str, Any] | Rejected]:
    with _unpacked(path) as stream:
        form = text_form(stream, str(path))
    with _unpacked(path) as stream:
        header, dialect = sniff(as_utf8(stream, str(path), form), str(path))
    names = [_field_name(column) for column in header]
    missing = [name for name in ("id", "gen", "sp") if name not in names]
    if missing:
        hint = ""
        if "gbifid" in names:
            hint = " It looks like GBIF's 'Simple' download: choose 'Darwin Core Archive' there."
        raise PrepError(
            f"{path} has no column {', '.join(missing)}, so it is no table of the API's fields "
            f"(columns: {', '.join(header[:12])}).{hint}"
        )
    pick = picker([(name, i, "") for i, name in enumerate(names) if name])
    with _unpacked(path) as stream:
        text = as_utf8(stream, str(path), form)
        for row in read_rows(text, str(path), dialect, len(names)):
            if isinstance(row, BadRow):
                yield Rejected(recording_id="xc:?", reason=row.problem, detail=row.detail)
            else:
                yield pick(row)


def _field_name(column: str) -> str:
    """Return a column's name as the API spells it: "file_name" -> "file-name"."""
    return column.strip().lower().replace("_", "-").replace(" ", "-")


def error_text(answer: Any) -> str:
    """Return the message of an API error; they come as {"error": {"code", "message"}} and as
    {"error": "client_error", "message": …}.
    """
    if not isinstance(answer, Mapping):
        return ""
    error = answer.get("error")
    inner = error if isinstance(error, Mapping) else answer
    code = inner.get("code") if isinstance(error, Mapping) else error
    parts = [text_of(code), text_of(inner.get("message"))]
    return ": ".join(part for part in parts if part)[:500]


def from_api(row: Mapping[str, Any], audio: FileIndex | None = None) -> Recording | Rejected:
    """Turn a recording as API v2 or v3 gives it into ours.

    Left out: `restricted` (its file is withheld to protect the species), `unidentified`
    (Xeno-canto's "Mystery mystery"), `soundscape` ("Sonus naturalis"), `identity_questioned`
    ("id?:yes"), `no_name`, `no_id`.
    """
    get = {str(key).lower(): value for key, value in row.items()}

    def text(*names: str) -> str:
        return next((found for name in names if (found := text_of(get.get(name)))), "")

    number = _NUMBER.fullmatch(text("id", "nr"))
    source_id = number[1] if number else ""
    if too_long := next((name for name in _USED if is_too_long(get.get(name))), ""):
        return Rejected(
            recording_id=f"{SOURCE}:{source_id or '?'}", reason="field_too_long", detail=too_long
        )
    url = full_url(text("file"))
    if "file" not in get and source_id:  # a table of some of the fields
        url = f"https://xeno-canto.org/{source_id}/download"
    label = name_label(text("gen"), text("sp"), text("ssp"), text("grp", "group"))
    reason = why_not(text("gen"), text("sp"), text("en"))
    if not reason and (not url or url.lower() == "restricted_species"):
        reason = "restricted"
    if not reason and (text("id?").lower() == "yes" or QUESTIONED in text("rmk").replace(" ", "")):
        reason = "identity_questioned"
    if not source_id or reason or label is None:
        return Rejected(
            recording_id=f"{SOURCE}:{source_id or '?'}",
            reason=reason or ("no_name" if source_id else "no_id"),
            detail=tidy_name(f"{text('gen')} {text('sp')}") if source_id else text("id"),
            path=full_url(text("url")),
        )
    also = background_labels(names_in(get.get("also")), label.name)
    lat, lon = coordinates(get.get("lat"), get.get("lon", get.get("lng")))
    date = when(text("date"), text("time"))
    recordist = text("rec")
    return Recording(
        id=f"{SOURCE}:{source_id}",
        source=SOURCE,
        source_id=source_id,
        path=audio.find(f"XC{source_id}") if audio else "",
        url=url,
        licence_url=read_licence(text("lic")).url,
        attribution=credit(recordist, source_id),
        recordist=recordist,
        labels=(label, *also),
        quality=quality(text("q")),
        sound_type=text("type"),
        datetime=date,
        lat=lat,
        lon=lon,
        country=text("cnt"),
        sample_rate_hz=max(0, int(number_of(text("smp"), 10e6) or 0)),
        duration_s=seconds(text("length")),
        group_id=group_of(recordist, lat, lon, date, f"{SOURCE}:{source_id}", text("loc")),
    )


def is_too_long(value: Any) -> bool:
    """Return whether a text (or one in a list) is longer than a table should hold."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and len(text) > MAX_TEXT for text in texts)


def why_not(genus: str, species: str, english: str = "") -> str:
    """Return why this is no animal with a name: "unidentified", "soundscape" or ''."""
    if genus.lower() == "mystery" or english.lower() == "identity unknown":
        return "unidentified"
    return "soundscape" if (genus.lower(), species.lower()) == ("sonus", "naturalis") else ""


@lru_cache(1 << 14)  # a few thousand species, hundreds of thousands of recordings
def read_name(text: str) -> ScientificName:
    """Return the parsed name, as `parse_name` does, from a cache."""
    try:
        return parse_name(text)
    except UnicodeEncodeError:  # half a character, which JSON can spell ("\\ud800")
        return NO_NAME


def name_label(genus: str, species: str, subspecies: str, group: str = "") -> Label | None:
    """Return the label of a recording; None without a genus.

    A subspecies counts when it is one plain word: "alba/yarrellii" and "cf. alba" are doubts.
    Hybrids and other marked names stay as they are written, without a rank.
    """
    name = tidy_name(f"{genus} {species}")
    if is_nothing(genus):
        return None
    found = read_name(name)
    rank = ("", "genus", "species", "subspecies")[found.words]
    if found.doubt and found.doubt != "undetermined":
        rank = ""
    elif found.canonical:
        name = found.canonical
        if found.words == 2 and subspecies.isalpha():
            below = read_name(f"{name} {subspecies}")
            if below.words == 3 and not below.doubt:
                name, rank = below.canonical, "subspecies"
    return Label(name, rank, taxonomy=TAXONOMY, ids=_GROUPS.get(group.lower(), ()))


def names_in(cell: Any) -> list[str]:
    """Return the species of a cell: a list in any spelling, or "A b; C d". A list that cannot be
    read gives none: a recording is not rejected for its background.
    """
    try:
        return values_of(cell, ";", ",", "|")
    except UnreadableList:
        return []


def background_labels(names: Iterable[str], foreground: str) -> tuple[Label, ...]:
    """Return labels of the species in the background, each once, without the foreground's."""
    found: dict[str, Label] = {}
    for text in names:
        words = tidy_name(text).split(" ")
        if not words[0] or why_not(words[0], words[-1], text):
            continue
        parsed = read_name(text)
        rank = ("", "genus", "species", "subspecies")[parsed.words] if not parsed.doubt else ""
        name = parsed.canonical if rank else " ".join(words)
        if name != foreground:
            found[name] = Label(name, rank, BACKGROUND, TAXONOMY)
    return tuple(found.values())


def full_url(url: str) -> str:
    """Return an address with its scheme; the old API left it out ("//xeno-canto.org/…")."""
    return f"https:{url}" if url.startswith("//") else url


def credit(recordist: str, number: str) -> str:
    """Return the line that credits a recording."""
    return tidy_name(f"{recordist or 'unknown recordist'}, XC{number}, xeno-canto.org/{number}")


def quality(text: str) -> str:
    """Return A (best) to E; "no score" and others are ''. GBIF's copy rates 5 (best) to 1."""
    number = number_of(text, 5)
    if number is not None:
        return " EDCBA"[int(number)].strip() if number >= 0 else ""
    return text if text in _QUALITIES else ""


def seconds(text: str) -> float:
    """Return a length in seconds: "4:13", "1:02:03", "24 s", "24"; 0 where it says none."""
    if found := _LENGTH.fullmatch(text):
        hours, minutes, rest = found.groups()
        return 3600.0 * int(hours or 0) + 60.0 * int(minutes) + float(rest)
    found = _SECONDS.fullmatch(text)
    return float(found[1]) if found else 0.0


def when(date: str, time: str) -> str:
    """Return "2015-06-23T07:17", or as much as is known; times like "?" and "am" are not."""
    found = _CLOCK.match(time)
    date = date_of(date)
    if date.startswith("0000"):
        return ""
    if found and len(date) == 10:
        return date_of(f"{date}T{int(found[1]):02d}:{found[2]}")
    return date


def coordinates(lat: Any, lon: Any) -> tuple[float | None, float | None]:
    """Return latitude and longitude in degrees, both or none; 0, 0 in the Atlantic is none."""
    north, east = number_of(lat, 90.0), number_of(lon, 180.0)
    if north is None or east is None or (north == 0 and east == 0):
        return None, None
    return north, east
