"""From rows with times to the events of recordings: which columns hold what, and what is refused.

An event must lie within its file, end after it begins, and have a band that the file can hold.
Single rows that do not are left out and counted; many of them mean that the table is misread (other
units, other files), and are an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dawnchorus.data_prep.archives.cells import number_in
from dawnchorus.data_prep.archives.columns import plain_name
from dawnchorus.data_prep.archives.times import TimeColumns, seconds_in, unit_of
from dawnchorus.data_prep.audio.decode import header_length_s
from dawnchorus.data_prep.dataset.options import TIME_UNITS, FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Event, Label, Recording

Row = Mapping[str, Any]
_LOW = ("low_hz", "low_freq", "low_frequency", "low_f", "low_freq_(hz)", "freq_low", "freq_min",
        "min_freq", "f_min", "fmin", "min_frequency", "low_frequency_(hz)", "lowfreq", "min_hz",
        "frequency_min", "frequencymin", "low_khz", "low_freq_(khz)", "freq_low_hz")  # fmt: skip
_HIGH = tuple(
    name.replace("low", "high").replace("min", "max") for name in _LOW
)  # the same words for the other edge
_CONFIDENCE = ("confidence", "score", "probability", "conf")
_MAX_WRONG = 0.05
"""A larger share of impossible rows means that the table is misread."""
_BEYOND_S = 0.05
"""An end this far behind the file's is rounding; more is cut and told."""


class FileFacts(NamedTuple):
    """Length and sample rate of a sound by its header; 0 where they cannot be told."""

    length_s: float
    rate_hz: int


def facts_of(path: Path) -> FileFacts:
    """Read a header."""
    import soundfile

    try:
        found = soundfile.info(str(path))
        return FileFacts(float(found.duration), int(found.samplerate))
    except (RuntimeError, OSError):
        return FileFacts(header_length_s(path), 0)


@dataclass(frozen=True)
class EventColumns:
    """The columns of a table that say when and how high; '' where there is none."""

    times: TimeColumns
    low: str = ""
    high: str = ""
    confidence: str = ""
    offset: str = ""
    """Raven's begin within its file, where the begin counts from the first of several files."""

    @classmethod
    def of(cls, header: Sequence[str], times: TimeColumns) -> EventColumns:
        """Find them by their usual names."""
        plain = {plain_name(name): name for name in reversed(header)}

        def first(names: Iterable[str]) -> str:
            return next((plain[name] for name in names if name in plain), "")

        return cls(times, first(_LOW), first(_HIGH), first(_CONFIDENCE),
                   first(("file_offset_(s)",)))  # fmt: skip

    @property
    def are_enough(self) -> bool:
        """Whether begin and end are known."""
        return bool(self.times.start and (self.times.end or self.times.duration))


class Found(NamedTuple):
    """An event as its row says it, with the place of the row."""

    start_s: float
    end_s: float
    low_hz: float | None
    high_hz: float | None
    labels: tuple[Label, ...]
    where: str


@dataclass
class Events:
    """The events of a folder's recordings, checked against the files."""

    options: FolderOptions
    facts: Callable[[str], FileFacts]
    """Of a file, by the path that its recording has."""
    of_file: dict[str, list[Event]] = field(default_factory=dict)
    labels: dict[str, dict[str, Label]] = field(default_factory=dict)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """Places of impossible rows by what is wrong."""
    total: int = 0
    cut: int = 0
    doubtful: int = 0
    unlabelled: int = 0
    twice: int = 0
    in_ms: int = 0
    _ends: dict[str, dict[tuple[float, float, str], int]] = field(default_factory=dict)

    def listened_to(self, path: str) -> None:
        """Note that a recording is annotated, whatever is heard in it."""
        self.of_file.setdefault(path, [])

    def add_row(
        self, path: str, row: Row, columns: EventColumns, labels: tuple[Label, ...], where: str,
        source: str = "",
    ) -> None:  # fmt: skip
        """Add the event of a row. A row without times and label says that nothing is heard."""
        self.listened_to(path)
        times = [row.get(name) for name in (columns.times.start, columns.times.end) if name]
        if not labels and all(str("" if t is None else t).strip().lower() in _NONE for t in times):
            return
        if columns.confidence and self._is_doubtful(row, columns.confidence, where):
            return
        start_s, end_s = self._times(row, columns, self.facts(path).rate_hz)
        if start_s is None or end_s is None:
            self.total += 1
            self._reject("no times that can be read", where)
            return
        low_hz, high_hz = (_hertz(row, name) for name in (columns.low, columns.high))
        self.add(path, Found(start_s, end_s, low_hz, high_hz, labels, where), source)

    def add(self, path: str, found: Found, source: str = "") -> None:
        """Check an event and keep it, or count what is wrong with it."""
        self.listened_to(path)
        self.total += 1
        length_s, rate_hz = self.facts(path)
        if what := self._problem(found, length_s, rate_hz):
            self._reject(what, found.where)
            return
        end_s = found.end_s
        if length_s > 0 and end_s > length_s:
            self.cut += end_s > length_s + _BEYOND_S
            end_s = length_s
        low_hz, high_hz = found.low_hz, found.high_hz
        if low_hz is None or high_hz is None:
            low_hz = high_hz = None
        self.unlabelled += not found.labels
        start_s = max(0.0, found.start_s)
        for label in found.labels or (Label(""),):
            event = Event(
                round(start_s, 6), max(round(start_s, 6), round(end_s, 6)), low_hz, high_hz,
                label.name, label.role, source,
            )  # fmt: skip
            if self._known(path, event):
                continue
            self.of_file[path].append(event)
            if label.name:
                self.labels.setdefault(path, {}).setdefault(label.name, label)

    def _known(self, path: str, event: Event) -> bool:
        """Whether the event is there: Raven lists a selection once for each view and channel."""
        known = self._ends.setdefault(path, {})
        key = (event.start_s, event.end_s, event.label)
        if key not in known:
            known[key] = len(self.of_file[path])
            return False
        self.twice += 1
        place = known[key]
        old = self.of_file[path][place]
        if old.low_hz is not None and event.low_hz is not None:
            low_hz = min(old.low_hz, event.low_hz)
            high_hz = max(old.high_hz or 0.0, event.high_hz or 0.0)
            self.of_file[path][place] = dataclasses.replace(old, low_hz=low_hz, high_hz=high_hz)
        return True

    def _problem(self, found: Found, length_s: float, rate_hz: int) -> str:
        if found.start_s < -_BEYOND_S:
            return "begins before the file"
        if found.end_s < found.start_s:
            return "ends before it begins"
        if length_s > 0 and found.start_s >= length_s:
            self.in_ms += found.start_s / 1000 < length_s and found.end_s / 1000 <= length_s + 1
            return "begins behind the file's end"
        low_hz, high_hz = found.low_hz, found.high_hz
        if low_hz is not None and high_hz is not None:
            if low_hz > high_hz or high_hz < 0:
                return "low frequency above the high one"
            if rate_hz and low_hz > rate_hz / 2:
                return "band above half the file's sample rate"
        return ""

    def _reject(self, what: str, where: str) -> None:
        self.wrong.setdefault(what, []).append(where)

    def _is_doubtful(self, row: Row, column: str, where: str) -> bool:
        if self.options.min_confidence is None:
            raise PrepError(
                f"{where}: the column {column!r} says how sure a detector was. --min-confidence "
                "says from where on its events are believed (such as 0.5; 0 takes all)."
            )
        value = number_in(str(row.get(column)))
        if value is None:
            raise PrepError(f"{where}: {row.get(column)!r} in {column!r} is no number.")
        self.doubtful += value < self.options.min_confidence
        return value < self.options.min_confidence

    def _times(
        self, row: Row, columns: EventColumns, rate_hz: int
    ) -> tuple[float | None, float | None]:
        times = columns.times
        start_s = self._seconds(row, times.start, rate_hz)
        end_s = self._seconds(row, times.end, rate_hz) if times.end else None
        if not times.end and times.duration and start_s is not None:
            length_s = self._seconds(row, times.duration, rate_hz)
            end_s = None if length_s is None else start_s + length_s
        if columns.offset and columns.offset not in (times.start, times.end):
            inside_s = self._seconds(row, columns.offset, rate_hz)
            if inside_s is not None and start_s is not None and end_s is not None:
                start_s, end_s = inside_s, inside_s + (end_s - start_s)
        return start_s, end_s

    def _seconds(self, row: Row, column: str, rate_hz: int) -> float | None:
        unit = unit_of(column)
        if unit == "frames":
            raise PrepError(
                f"The column {column!r} counts frames, whose length is not known. Write a column "
                "with seconds."
            )
        found = seconds_in(row.get(column), column)
        if found is None:
            return None
        if unit == "samples":
            return found / rate_hz if rate_hz else None
        return found * (1.0 if unit else TIME_UNITS[self.options.time_unit])

    def check(self) -> None:
        """Raise PrepError where so many rows are impossible that the table is misread."""
        count = sum(map(len, self.wrong.values()))
        if count <= _MAX_WRONG * self.total:
            return
        lines = [
            f"{what}: {len(places)}, such as {places[0]}" for what, places in self.wrong.items()
        ]
        hint = "Correct or delete them."
        if self.in_ms > count / 2:
            hint = "They look like milliseconds: --time-unit ms."
        elif "band above half the file's sample rate" in self.wrong:
            hint += " Are the frequencies in Hz, and are these the original files?"
        raise PrepError(
            f"{count} of {self.total} events cannot be right:\n  "
            + "\n  ".join(lines)
            + f"\n{hint}"
        )

    def attach(self, recordings: Iterable[Recording]) -> list[Recording]:
        """Return the recordings with their events and the labels of these; without any annotation
        they are left out, or have no events, as `unannotated` says.
        """
        kept = []
        for recording in recordings:
            if recording.path not in self.of_file and self.options.unannotated == "leave":
                continue
            events = sorted(
                self.of_file.get(recording.path, ()), key=lambda e: (e.start_s, e.end_s, e.label)
            )
            labels = tuple(self.labels.get(recording.path, {}).values())
            kept.append(dataclasses.replace(recording, events=tuple(events), labels=labels))
        if not kept:
            raise PrepError(
                "No recording has an annotation. Are these the annotations of these files?"
            )
        return kept

    def notes(self, recordings: int, kept: int) -> list[str]:
        """Return what a person should know about the events."""
        events = sum(map(len, self.of_file.values()))
        quiet = sum(not found for found in self.of_file.values())
        notes = [
            f"{events:,} events in {kept - quiet:,} recordings: labels hold where they are heard, "
            "and the windows without any are negatives"
        ]
        if quiet:
            notes.append(f"{quiet:,} annotated recordings have no event")
        if missing := recordings - len(self.of_file):
            done = "left out (--unannotated negative says that nothing is heard in them)"
            if self.options.unannotated == "negative":
                done = "taken as negatives"
            notes.append(f"{missing:,} recordings have no annotation and are {done}")
        for what, places in self.wrong.items():
            notes.append(f"{len(places):,} events are left out: {what}, such as {places[0]}")
        for count, text in (
            (self.twice, "rows repeat an event (views and channels of Raven), taken once"),
            (self.cut, "events end behind their file and are cut there"),
            (self.unlabelled, "events have no label: windows that they touch are no negatives"),
            (self.doubtful, f"detections below --min-confidence {self.options.min_confidence}"),
        ):
            if count:
                notes.append(f"{count:,} {text}")
        return notes


_NONE = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))


def _hertz(row: Row, column: str) -> float | None:
    value = number_in(str(row.get(column))) if column else None
    if value is None or value == -1:  # Audacity's and opensoundscape's "not given"
        return None
    return value * (1000.0 if "khz" in column.lower() else 1.0)
