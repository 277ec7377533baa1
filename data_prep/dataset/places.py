"""How exactly a dataset says where and when something was recorded.

A nest of a rare bird is found again by its coordinates and the hour. Recording tables are private
and exact; what becomes of a table is published, so it is decided here, for every row, before any
file of a dataset is written.

exact   as the table has it.
coarse  coordinates rounded to 0.1 degrees (a cell of 11 km from south to north), times cut to the
        day. Rounding always gives the same cell for a place: there is no noise that many recordings
        of one place would average out, and within the cell every place gives the same figures.
none    no coordinates; of the time, the year.

Names tell places and times too. Where a file's name, which readers of folders make the id of,
holds a date with a time or coordinates, the recording is called by its row in the table
("recording-000012"). Groups that are made of recordist, place and day become numbers: the first row
of the group. A hash would not do: the places within one cell are few, and anybody can hash them
all. Groups that a person named keep their names, but for `none`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.trainer.public import public_recipe

EXACT = "exact"
COARSE = "coarse"
NONE = "none"
CHOICES = (EXACT, COARSE, NONE)
CELL_DEG = 0.1
_DECIMALS = 1  # of CELL_DEG
CELL_RADIUS_M = 7870.0
"""From the middle of a cell to its corners at the equator, where cells are largest."""
_DAY, _YEAR = 10, 4  # characters of "2021-05-03T05:22"
_STAMP = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
    r"[^0-9]{0,3}(?:[01]\d|2[0-3])[-_.:h]?[0-5]\d"
    r"|(?<!\d)\d{6}[-_](?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?!\d)"
)
"""A day and a time in a name: 20210503_052200, 2021-05-03T05:22, 210503_052200."""
_PAIR = re.compile(r"\d{1,3}\.\d{2,}[^0-9]{1,5}\d{1,3}\.\d{2,}")
"""Two numbers with two digits or more after the point: coordinates."""
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)-\d\d(?:-\d\d)?(?!\d)")
_HIDDEN = re.compile(r"recording-\d{6,}")
_TEXTS = ("attribution", "sound_type", "quality", "country", "licence_url")


def published(recording: Recording, places: str, number: int, first: int) -> Recording:
    """A recording as the dataset shows it; `path` still leads to the file (see `shown_path`).

    Args:
        recording: a row of the table.
        places: one of CHOICES.
        number: of the row.
        first: number of the first row of its group.
    """
    if places == EXACT:
        return recording
    figures = _own_figures(recording)
    changes: dict[str, Any] = {
        "datetime": recording.datetime[: _DAY if places == COARSE else _YEAR],
        "lat": coarse(recording.lat) if places == COARSE else None,
        "lon": coarse(recording.lon) if places == COARSE else None,
        "uncertainty_m": _uncertainty_m(recording) if places == COARSE else None,
        "url": "" if _tells(recording.url, figures) else recording.url,
    }
    if places == NONE or "|" in recording.group_id or _tells(recording.group_id, figures):
        changes["group_id"] = f"group-{first:06d}"
    if _hides_name(recording, places, figures):
        name = f"recording-{number:06d}"
        changes |= {"id": f"{recording.source}:{name}", "source_id": name}
        if recording.group_id == recording.id:
            changes["group_id"] = changes["id"]
    for field in _TEXTS:
        text = getattr(recording, field)
        for figure in figures:
            text = text.replace(figure, "…")
        changes[field] = _STAMP.sub("…", text)
    return dataclasses.replace(recording, **changes)


def coarse(degrees: float | None) -> float | None:
    """The middle of the cell that a coordinate lies in."""
    # Adding 0 makes 0 of -0.
    return None if degrees is None else round(degrees, _DECIMALS) + 0.0


def shown_path(recording: Recording, places: str) -> str:
    """What the tables of a dataset say of the file of a recording that `published` gave."""
    path = recording.path
    if places == EXACT or not path:
        return path
    plain = PurePosixPath(path)
    if _HIDDEN.fullmatch(recording.source_id) or _tells(path, ()):
        name = recording.source_id if _HIDDEN.fullmatch(recording.source_id) else "recording"
        return name + plain.suffix.lower()
    return plain.name if plain.is_absolute() else path


def finer_rows(table: Path, places: str) -> tuple[int, str]:
    """Return how many rows of a recording table are more exact than the card, and the first."""
    import pyarrow.parquet as pq

    count, example = 0, ""
    if places in (COARSE, NONE):
        columns = ["id", "lat", "lon", "datetime", "group_id"]
        with pq.ParquetFile(table) as file:
            for batch in file.iter_batches(1 << 14, columns=columns):
                for row in batch.to_pylist():
                    if found := finer_than(row, places):
                        count += 1
                        example = example or f"{row['id']}: {found}"
    return count, example


def finer_than(row: Mapping[str, Any], places: str) -> str:
    """What a row or a clip's record says more exactly than its card does; empty where nothing.

    Args:
        row: with `lat`, `lon`, `datetime`, `group_id` and `id`; numbers or texts, None or "" where
            nothing is known.
        places: what the card says.
    """
    if places not in (COARSE, NONE):
        return ""
    for name in ("lat", "lon"):
        value = row.get(name)
        if value in (None, ""):
            continue
        if places == NONE or float(value) != coarse(float(value)):
            return f"{name} is {value}"
    if len(row.get("datetime") or "") > (_DAY if places == COARSE else _YEAR):
        return f"datetime is {row['datetime']!r}"
    for name in ("id", "group_id"):
        if _tells(str(row.get(name) or ""), ()):
            return f"{name} is {row[name]!r}"
    return ""


def words(places: str | None) -> str:
    """What a card says about it."""
    return {
        EXACT: "exact: coordinates and times as the archives have them",
        COARSE: "coarse: coordinates to 0.1 degrees, times to the day",
        NONE: "none: no coordinates; of the time, the year",
        None: "exact (made before there was a choice)",
    }[places]


def _uncertainty_m(recording: Recording) -> float | None:
    if recording.lat is None:
        return recording.uncertainty_m
    return round((recording.uncertainty_m or 0.0) + CELL_RADIUS_M)


def _hides_name(recording: Recording, places: str, figures: tuple[str, ...]) -> bool:
    """Whether the id was made of a file's name, and that name may not be shown."""
    stem = PurePosixPath(recording.path).stem
    if not stem or (recording.source_id != recording.path and stem not in recording.source_id):
        return False
    if places == NONE and recording.source_id == recording.path:
        return True
    return any(_tells(text, figures) for text in (recording.id, recording.source_id))


def _tells(text: str, figures: tuple[str, ...]) -> bool:
    return bool(_STAMP.search(text) or _PAIR.search(text) or any(x in text for x in figures))


def _own_figures(recording: Recording) -> tuple[str, ...]:
    """How the exact place and time of a recording may be written in its other columns."""
    found = []
    for value in (recording.lat, recording.lon):
        if value is not None and coarse(value) != value:
            found += [f"{abs(value):.{digits}f}" for digits in range(6, 1, -1)]
            found.append(str(abs(value)))
    if len(recording.datetime) > _DAY:
        found += [recording.datetime, recording.datetime.replace("T", " ")]
    return tuple(sorted(set(found), key=len, reverse=True))


def companion(path: Path, places: str) -> bytes:
    """A file of `chorus prep select` that goes with the dataset, as it may be published.

    The recipe names datasets, not folders of this machine; names of recordings that tell a place or
    a time are left out of the tables, and so is what `places` does not allow.
    """
    data = path.read_bytes()
    if path.suffix == ".json":
        content = json.loads(data)
        if isinstance(content, dict) and isinstance(content.get("recipe"), dict):
            content["recipe"] = public_recipe(content["recipe"])
        return json.dumps(content, indent=1, ensure_ascii=False).encode()
    if places == EXACT:
        return data
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [_allowed(text, places) for text in table.column(place).to_pylist()]
            table = table.set_column(place, field, pa.array(texts, pa.string()))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _allowed(text: str | None, places: str) -> str | None:
    if text is None:
        return None
    if _tells(text, ()):
        return "(not told: it holds a place or a time)"
    return _DATE.sub(r"\1", text) if places == NONE else text
