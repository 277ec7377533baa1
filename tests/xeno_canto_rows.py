"""Recordings as Xeno-canto's API gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected


def v3(number: int = 254462, **changes: Any) -> dict[str, Any]:
    """A recording in the shape of API v3; every scalar is text."""
    return {
        "id": str(number), "gen": "Passerina", "sp": "amoena", "ssp": "", "grp": "birds",
        "en": "Lazuli Bunting", "rec": "Ada Lovelace", "cnt": "United States",
        "loc": "Prairie Trail, South Dakota", "lat": "43.6571", "lon": "-103.4143", "alt": "1300",
        "type": "song", "sex": "male, female", "stage": "", "method": "field recording",
        "url": f"https://xeno-canto.org/{number}",
        "file": f"https://xeno-canto.org/{number}/download",
        "file-name": f"XC{number}-JMJ-Lazuli.mp3",
        "sono": {"small": "…", "full": None}, "osci": {"small": None},
        "lic": "https://creativecommons.org/licenses/by-sa/4.0/", "q": "A", "length": "4:13",
        "time": "07:17", "date": "2015-06-23", "uploaded": "2015-06-29",
        "also": ["Pipilo maculatus"], "rmk": "…", "animal-seen": "yes", "playback-used": "no",
        "temp": None, "regnr": "", "auto": "no", "dvc": "", "mic": "", "smp": "48000",
        "annotation-set": [],
    } | changes  # fmt: skip


def v2(number: int = 254462, **changes: Any) -> dict[str, Any]:
    """The same as API v2 gave it: `lng`, `group`, addresses without a scheme."""
    row = v3(number)
    for key in ("lon", "grp", "animal-seen", "temp", "annotation-set"):
        del row[key]
    return row | {
        "group": "birds", "lng": "-103.4143", "bird-seen": "yes",
        "url": f"//www.xeno-canto.org/{number}",
        "file": f"//www.xeno-canto.org/{number}/download", "also": [""],
        "lic": "//creativecommons.org/licenses/by-sa/4.0/",
    } | changes  # fmt: skip


def page(rows: list[dict[str, Any]], number: int = 1, total: int = 1, count: int = 0) -> dict:
    """A page of an answer."""
    return {
        "numRecordings": str(count or len(rows)),
        "numSpecies": "1",
        "page": number,
        "numPages": total,
        "recordings": rows,
    }


def good(rows: Iterator[Recording | Rejected]) -> list[Recording]:
    """All rows, none of which may be left out."""
    found = list(rows)
    assert not [row for row in found if isinstance(row, Rejected)]
    return [row for row in found if isinstance(row, Recording)]
