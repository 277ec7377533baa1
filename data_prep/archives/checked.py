"""The last check of what a reader yields: rows that must not enter a table become rejections."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from dawnchorus.data_prep.archives.cells import number_in
from dawnchorus.data_prep.table.recording import Recording, tidy_name
from dawnchorus.data_prep.table.recording_table import Rejected

MAX_TEXT = 1 << 14
"""Longest text of a field, in characters. The table keeps thousands of rows in memory at a time,
so a cell of 10 MB must not get in; attributions and localities have a few hundred characters."""
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):?(\d\d))?)?)?")


def checked(rows: Iterable[Recording | Rejected]) -> Iterator[Recording | Rejected]:
    """Yield the rows; a recording that must not enter a table comes as `Rejected`.

    Reasons: `no_audio` (neither path nor address), `unsafe_path` (leads out of the audio folder),
    `field_too_long`, `bad_text` (NUL, or half a character), `no_id`. Details are shortened.
    """
    for row in rows:
        if isinstance(row, Rejected):
            yield dataclasses.replace(
                row, **{key: _printable(text) for key, text in dataclasses.asdict(row).items()}
            )
            continue
        reason, detail = _problem(row)
        if not reason:
            yield row
            continue
        yield Rejected(
            recording_id=_printable(row.id),
            reason=reason,
            detail=_printable(detail),
            path=_printable(row.path or row.url),
        )


def _problem(row: Recording) -> tuple[str, str]:
    """Return (reason, detail) where something is wrong with a recording, else two empty texts."""
    if not row.source_id:
        return "no_id", ""
    for name, text in _texts(row):
        if len(text) > MAX_TEXT:
            return "field_too_long", f"{name} has {len(text):,} characters: {text[:60]}…"
        if "\0" in text or not _encodes(text):
            return "bad_text", f"{name}: {text[:200]!r}"
    if not row.path and not row.url:
        return "no_audio", "neither a file nor an address"
    if ".." in PurePosixPath(row.path.replace("\\", "/")).parts:
        return "unsafe_path", row.path
    return "", ""


def _texts(row: Recording) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, str):
            yield field.name, value
    for label in row.labels:
        yield "label", label.name
        for key, value in label.ids:
            yield f"label id {key}", value


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell ("\\ud800")
        return False
    return True


def _printable(text: str) -> str:
    return text[:500].encode("utf-8", "replace").decode().replace("\0", "\\0")


def text_of(value: Any) -> str:
    """Return a cell as tidy text: '' for what is missing in JSON, CSV, numpy or parquet."""
    if value is None or isinstance(value, (dict, list, tuple, bool)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        value = int(value) if value.is_integer() else value
    text = str(value)
    # Normalising a text of megabytes takes minutes; `checked` rejects it by its length.
    if len(text) > MAX_TEXT:
        return text
    text = tidy_name(text)
    return "" if text.lower() in ("nan", "none", "null", "<na>") else text


def number_of(value: Any, limit: float) -> float | None:
    """Return a finite number within ±limit, also with a decimal comma; or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str):
        number = number_in(value)
    else:
        try:
            number = float(value)
        except OverflowError:
            return None
    return number if number is not None and math.isfinite(number) and abs(number) <= limit else None


def date_of(text: str) -> str:
    """Return "2015-06-23T07:17" or as much of it as `text` begins with; '' where it begins with
    none.

    Times stay local: the offset of a time zone is dropped.
    """
    found = _DATE.match(text)
    if found is None:
        return ""
    year, month, day, hour, minute = found.groups()
    if not month or not 1 <= int(month) <= 12:
        return year
    if not day or not 1 <= int(day) <= 31:
        return f"{year}-{month}"
    if not hour or int(hour) > 23 or int(minute) > 59:
        return f"{year}-{month}-{day}"
    return f"{year}-{month}-{day}T{hour}:{minute}"


def group_of(
    recordist: str, lat: float | None, lon: float | None, date: str, fallback: str, site: str = ""
) -> str:
    """Return the name of a group that must not be split: recordist, place (0.01°, about 1 km, or
    `site`) and day.

    Without a recordist the place and the day alone; without either, `fallback`.
    """
    place = f"{lat:.2f},{lon:.2f}" if lat is not None and lon is not None else site
    parts = [recordist, place, date[:10]]
    return "|".join(parts) if recordist or place else fallback


OBSCURED_M = 31_500.0
"""iNaturalist shows an obscured place as a random one in its cell of 0.2°: at most the diagonal."""
_FARTHEST_M = 20_037_508.0  # half the Earth's circumference
_DISTANCE = re.compile(r"(\d+(?:\.\d+)?)\s?(k?m)\b")


def uncertainty_of(stated: Any, *notes: str) -> float | None:
    """Return within how many metres the true place lies, or None where the archive does not say.

    Args:
        stated: the archive's number of metres.
        notes: sentences on what was done to the place, such as Darwin Core's `informationWithheld`
            ("Coordinate uncertainty increased to 28000m") and `dataGeneralizations`; the largest
            distance in them counts where no number is stated.
    """
    number = number_of(stated, _FARTHEST_M)
    if number is not None and number > 0:
        return number
    told = [
        float(distance) * (1000 if unit == "km" else 1)
        for note in notes
        for distance, unit in _DISTANCE.findall(note)
    ]
    return max(told, default=None)
