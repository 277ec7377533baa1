"""Times in tables: labels that hold for a part of a recording only.

A label from 0.1 to 0.2 s is not a label of the whole recording. `chorus prep folder` reads such
labels as events (`annotations`); readers that do not refuse them. `time_columns` finds the columns
by the names that are in use (Raven, Audacity, BirdNET, Praat, BEANS, BirdSet, ...), their values
decide: a column `start` that holds dates, or times that span each whole file, are none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.archives.cells import number_in
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected

NOT_SUPPORTED = (
    "Labels of parts of a recording are not supported yet, and giving them to the whole recording "
    "would be wrong"
)
_OF = (
    "clip|segment|seg|event|call|label|annotation|annot|ann|bbox|box|song|syllable|syl|note|"
    "vocali[sz]ation|voc|selection|sel|roi|chunk|window|audio|file|recording|rec|sound|snippet|"
    "detection|det|element|s|samples?|frames?|phrase|bout|interval|tier|relative|rel"
)
_UNIT = (
    "(?:in)?(?P<unit>seconds?|secs?|s|milliseconds?|millis|msecs?|ms|minutes?|min|hours?|h|"
    "samples?|samp|frames?)"
)
_WORDS = {
    "start": "start|starts|starting|begin|begins|beginning|onset|onsets|beg|anfang|beginn|debut|"
    "inicio|inizio|comienzo|poczatek|zacatek",
    "end": "end|ends|ending|stop|stops|finish|ende|fin|fine|fim|terminate",
    "duration": "duration|dur|length|len|dauer|duree|duracion|durata",
}
_NAME = {
    kind: re.compile(
        f"(?:{_OF})?(?:time|zeit|t|ts)?(?:{words})(?:time|times|zeit|zeitpunkt|punkt|point|timestamp|ts|pos|position|offset)?"
        f"(?:{_UNIT})?"
    )
    for kind, words in _WORDS.items()
}
# One moment: only the unit distinguishes it from a time of day.
_POINT = re.compile(
    f"(?:{_OF}|peak|cent(?:er|re)|mid)?(?:(?:time|t|timestamp|position|moment)"
    "(?:in)?(?P<unit>seconds?|secs?|s|milliseconds?|msecs?|ms)|seconds?|secs?)"
)
_BARE_UNIT = re.compile("seconds?|secs?")
# Names that mean a time only beside their counterpart.
_PAIRS = (
    ("timemin", "timemax"), ("tmin", "tmax"), ("mintime", "maxtime"), ("t0", "t1"), ("t1", "t2"),
    ("xmin", "xmax"), ("from", "to"), ("left", "right"), ("st", "ed"), ("st", "et"),
    ("lefttime", "righttime"), ("fromtime", "totime"),
)  # fmt: skip
_OFFSET = re.compile(f"(?:{_OF})?(?:time)?offset(?:time)?(?:{_UNIT})?")
_SCALES = {"mi": 60.0, "h": 3600.0, "ms": 1e-3, "mil": 1e-3}
_CLOCK = re.compile(r"(?:(\d+) days?,? )?(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_EVENT_IN_TEXT = re.compile(r"\s*\[\s*\{[^}]*[\"'](?:st|start|onset|begin)\w*[\"']\s*:")
_YEARS = (1900.0, 2100.0)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class TimeColumns:
    """The columns of a table with begin, end and length of labels; '' where there is none."""

    start: str = ""
    end: str = ""
    duration: str = ""

    def __bool__(self) -> bool:
        return bool(self.start or self.end)

    def __str__(self) -> str:
        shown = [repr(name) for name in (self.start, self.end) if name]
        if not self.end and self.duration:
            shown.append(repr(self.duration))
        return f"column{'s' * (len(shown) > 1)} {' and '.join(shown)}"


def time_columns(header: Iterable[str]) -> TimeColumns:
    """Return the columns whose names are those of times within a recording."""
    plain: dict[str, str] = {}
    for name in header:
        plain.setdefault(_plain(name), name)
    found = {
        kind: next((name for key, name in plain.items() if pattern.fullmatch(key)), "")
        for kind, pattern in _NAME.items()
    }
    offset = next((name for key, name in plain.items() if _OFFSET.fullmatch(key)), "")
    if offset and found["start"]:
        found["end"] = found["end"] or offset
    elif offset:
        found["start"] = offset
    if not (found["start"] or found["end"]):
        found["start"] = next((name for key, name in plain.items() if _POINT.fullmatch(key)), "")
    for first, second in _PAIRS:
        if not (found["start"] or found["end"]) and first in plain and second in plain:
            found |= {"start": plain[first], "end": plain[second]}
    return TimeColumns(**found)


def _plain(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if c.isascii() and c.isalnum())


class TimesOfLabels(PrepError):
    """A table gives times of labels: in columns, or as lists of events in the cells of one."""

    def __init__(self, what: str, columns: TimeColumns, cells: str = "") -> None:
        super().__init__(_refusal(what))
        self.columns, self.cells = columns, cells


@dataclass(frozen=True)
class Span:
    """When a label begins and ends, in seconds as far as its column says the unit."""

    start: float | None
    end: float | None
    is_clock: bool = False
    """Whether it is written as 6:30, which may be a time of day."""

    def covers(self, length_s: float) -> bool:
        """Return whether it spans all of a recording of this length."""
        near = _near(length_s)
        if self.start is None:
            return self.end is not None and self.end >= length_s - near
        return self.start <= near and (self.end is None or self.end >= length_s - near)

    def is_cut(self, length_s: float) -> bool:
        """Return whether the times name the recording itself as a part of something longer."""
        if self.start is None or self.end is None:
            return False
        scales = (1.0, 60.0) if self.is_clock else (1.0,)
        return any(abs((self.end - self.start) * k - length_s) <= _near(length_s) for k in scales)

    def is_within(self, length_s: float) -> bool:
        """Return whether it begins (without a begin: ends) inside a recording of this length."""
        at = self.end if self.start is None else self.start
        return at is not None and at < length_s - _near(length_s)

    @property
    def are_years(self) -> bool:
        """Return whether these are whole numbers that look like years."""
        given = [t for t in (self.start, self.end) if t is not None]
        return all(t.is_integer() and _YEARS[0] <= t <= _YEARS[1] for t in given)

    def __str__(self) -> str:
        if self.start is None:
            return f"up to {self.end:g} s"
        return f"from {self.start:g} s" + ("" if self.end is None else f" to {self.end:g} s")


def _near(length_s: float) -> float:
    return min(0.05 + 0.01 * length_s, 0.25 * length_s)


def span_of(row: Row, columns: TimeColumns) -> Span | None:
    """Return the times of a row; None where it has none: the cells are empty, dates or words."""
    start, clock = _time(row.get(columns.start), columns.start) if columns.start else (None, False)
    end, clock_end = _time(row.get(columns.end), columns.end) if columns.end else (None, False)
    if end is None and start is not None and columns.duration:
        length, _ = _time(row.get(columns.duration), columns.duration)
        end = None if length is None else start + length
    return None if start is None and end is None else Span(start, end, clock or clock_end)


def _time(value: Any, column: str) -> tuple[float | None, bool]:
    """Return (seconds or None, whether it is written as on a clock)."""
    if value is None or isinstance(value, (bool, dict, list)):
        return None, False
    text = str(value).strip()
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, rest = clock.groups()
        seconds = 60.0 * int(minutes) + float(rest.replace(",", "."))
        return 86400.0 * int(days or 0) + 3600.0 * int(hours or 0) + seconds, not days
    number = number_in(re.sub(r"(?<=\d)\s*s(?:ec)?\.?$", "", text))
    return (None if number is None else number * _scale(column)), False


def _scale(column: str) -> float:
    key = _plain(column)
    for pattern in (*_NAME.values(), _OFFSET, _POINT):
        found = pattern.fullmatch(key)
        if found:
            unit = found["unit"] or ""
            return next((k for start, k in _SCALES.items() if unit.startswith(start)), 1.0)
    return 1.0


def seconds_in(value: Any, column: str) -> float | None:
    """Return the time in a cell, in seconds as far as its column says the unit; None: no time."""
    return _time(value, column)[0]


def unit_of(column: str) -> str:
    """Return the unit that a column's name says ("ms", "samples", "frames", ...); '' for none."""
    key = _plain(column)
    for word in ("sample", "frame"):
        if word in key:
            return f"{word}s"
    for pattern in (*_NAME.values(), _OFFSET, _POINT):
        found = pattern.fullmatch(key)
        if found:
            return found["unit"] or ""
    return ""


def times_in_cells(row: Row) -> str:
    """Return the name of a column that lists events with times, as BEANS' `annotations` do."""
    for name, cell in row.items():
        if isinstance(cell, str):
            if _EVENT_IN_TEXT.match(cell):
                return name
        elif isinstance(cell, (list, tuple)) and cell:
            first = cell[0]
            if isinstance(first, Mapping) and time_columns(first):
                return name
    return ""


def label_times(row: Row, columns: TimeColumns, length_s: float = 0.0) -> str:
    """Return "from 3 s to 6 s" for a row whose label is of a part; '' for one of the whole.

    `length_s` is the length of the row's file, 0 where it is not known: then any time counts.
    """
    if inside := times_in_cells(row):
        return f"events in {inside!r}"
    span = span_of(row, columns) if columns else None
    if span is None or span.are_years or (span.start == 0.0 and span.end is None):
        return ""
    if length_s > 0 and (span.covers(length_s) or span.is_cut(length_s)):
        return ""
    return str(span)


REASON = "label_times"


def unless_all_timed(
    rows: Iterable[Recording | Rejected], source: Path
) -> Iterator[Recording | Rejected]:
    """Yield the rows. Raises PrepError at the end where all rows were rejected because of times."""
    timed = first = None
    any_good = False
    for row in rows:
        if isinstance(row, Recording):
            any_good = True
        elif row.reason == REASON:
            timed = (timed or 0) + 1
            first = first or row.detail
        yield row
    if timed and not any_good:
        raise PrepError(
            f"{source}: the labels hold for parts of recordings ({first}; {timed:,} rows). "
            f"{NOT_SUPPORTED}."
        )


def refuse_times(
    table: str,
    header: Sequence[str],
    rows: Sequence[tuple[int, Row]],
    file_of: Callable[[Row], str],
    length_of: Callable[[str], float],
) -> list[str]:
    """Raise PrepError where a table gives times of labels; return notes on columns that are none.

    Args:
        table: what messages call it.
        header: its columns that nothing else uses.
        rows: (number, row).
        file_of: the file that a row is about.
        length_of: its length in seconds, 0 where it cannot be told.
    """
    for number, row in rows:
        if name := times_in_cells(row):
            what = f"{table}, row {number}: column {name!r} lists events."
            raise TimesOfLabels(what, TimeColumns(), name)
    left = list(header)
    while columns := time_columns(left):
        spans = [(number, row, span) for number, row in rows if (span := span_of(row, columns))]
        if columns.start and spans and all(span.start is None for _, _, span in spans):
            left.remove(columns.start)  # of dates
            continue
        if spans and not all(span.are_years for _, _, span in spans):
            return _judge(table, columns, spans, file_of, length_of)
        left = [name for name in left if name not in (columns.start, columns.end)]
    if pair := _unnamed_times(header, rows, file_of, length_of):
        raise PrepError(
            _refusal(
                f"{table}: several rows name one file, and the columns {pair[0]!r} and {pair[1]!r} "
                "look like times within it."
            )
        )
    return []


def _judge(
    table: str,
    columns: TimeColumns,
    spans: Sequence[tuple[int, Row, Span]],
    file_of: Callable[[Row], str],
    length_of: Callable[[str], float],
) -> list[str]:
    """Decide whether the values of time columns are times of labels."""
    files = [file_of(row) for _, row, _ in spans]
    alone = len(set(files)) == len(files)
    if alone and all(span.start == 0.0 and span.end is None for _, _, span in spans):
        return [f"{columns}: 0 in every row, so the labels hold for the whole files"]
    if alone and all(span.is_clock and span.end is None for _, _, span in spans):
        return [f"{columns}: taken for a time of day, not for a time within the file"]
    if alone and not columns.end and _BARE_UNIT.fullmatch(_plain(columns.start)):
        return [f"{columns}: one for each file, so taken for its length and not used"]
    cuts: dict[str, Span] = {}
    outside = []
    for (number, _, span), name in zip(spans, files, strict=True):
        length_s = length_of(name)
        is_whole = length_s > 0 and span.covers(length_s)
        is_cut = length_s > 0 and span.is_cut(length_s) and cuts.setdefault(name, span) == span
        if is_whole or is_cut:
            continue
        # If all values lie beyond the end, they may be times of day, an epoch or places on a tape.
        scales = (1.0, 1e-3, 1 / 16000) if not span.is_clock and span.end is not None else (1.0,)
        if length_s > 0 and not any(_scaled(span, k).is_within(length_s) for k in scales):
            outside.append(number)
            continue
        lasts = f", which lasts {length_s:.3g} s" if length_s > 0 else ""
        raise TimesOfLabels(
            f"{table} gives times of labels in the {columns} (row {number}: {span}"
            + (f" of {name}{lasts}" if name else "")
            + ").",
            columns,
        )
    if outside and len(outside) < len(spans):
        what = f"{table}, row {outside[0]}: the {columns} give a time beyond the file's end."
        raise TimesOfLabels(what, columns)
    if outside:
        return [f"{columns}: no times within the files, so not used"]
    return [f"{columns}: each row spans its whole file, so the labels hold for it"]


def _scaled(span: Span, factor: float) -> Span:
    return Span(
        None if span.start is None else span.start * factor,
        None if span.end is None else span.end * factor,
    )


def _unnamed_times(
    header: Sequence[str],
    rows: Sequence[tuple[int, Row]],
    file_of: Callable[[Row], str],
    length_of: Callable[[str], float],
) -> tuple[str, str] | None:
    """Return two columns that lie within the files, the first below the second, where several
    rows name one file and differ in both.
    """
    by_file: dict[str, list[Row]] = {}
    for _, row in rows:
        by_file.setdefault(file_of(row), []).append(row)
    several = {name: these for name, these in by_file.items() if len(these) > 1}
    if not several:
        return None
    values = {name: [number_in(str(row.get(name))) for _, row in rows] for name in header}
    numeric = [n for n in header if all(v is not None and v >= 0 for v in values[n])]
    for first, second in combinations(numeric, 2):
        pairs = zip(values[first], values[second], strict=True)
        if not all(a is not None and b is not None and a < b for a, b in pairs):
            continue
        differ = all(
            len({str(row.get(column)) for row in these}) == len(these)
            for these in several.values()
            for column in (first, second)
        )
        if differ and all(
            0 < (number_in(str(row.get(second))) or 0.0) <= length_of(name) * 1.01
            for name, these in several.items()
            for row in these
        ):
            return first, second
    return None


def _refusal(what: str) -> str:
    return (
        f"{what} Labels of parts of a recording need a begin and end: columns such as start and "
        "end (or duration). Where the columns mean something else, `chorus prep folder "
        "--ignore-times` takes every label for its whole file."
    )
