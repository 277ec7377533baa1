"""Read `metrics.jsonl`, whatever state it is in.

A run that was killed and resumed took some steps twice; one that is still going may have half a
last line. What is returned is the run as it counts: where it went back to a checkpoint, the
abandoned steps are forgotten (lines that say `superseded`, and earlier lines of the same or later
steps). Events are never forgotten.
"""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Columns of every line that say where it stands; everything else numeric is a metric.
_PLACE = frozenset({"step", "samples_seen", "wall_s"})

_EVENT_WORDS = frozenset(
    {"kind", "event", "name", "type", "what", "message", "text", "detail", "superseded"}
)

# What a writer may call an event -> the kinds the page draws. The first match wins.
_EVENT_KINDS = (
    ("resume", ("resum", "continu")),
    ("pre-emption", ("preempt", "pre-empt", "signal", "requeue")),
    ("stop", ("interrupt",)),
    ("non-finite", ("finite", "nan")),
    ("broken clip", ("broken", "corrupt", "decod")),
    ("finish", ("finish", "done", "complete")),
    ("start", ("start", "begin")),
    ("damaged checkpoint", ("damaged",)),
    ("checkpoint", ("checkpoint", "saved")),
)


@dataclass(frozen=True)
class Series:
    """One metric over optimiser steps; both arrays float64, steps strictly rising."""

    step: NDArray[np.float64]
    value: NDArray[np.float64]

    @property
    def last(self) -> float | None:
        """The newest finite value, or None."""
        finite = self.value[np.isfinite(self.value)]
        return float(finite[-1]) if finite.size else None


@dataclass(frozen=True)
class Event:
    """Something that happened to the run."""

    step: int
    kind: str
    """One of the kinds above, or the writer's own word."""
    text: str
    """What the writer said about it, in one line."""


@dataclass
class Log:
    """All that `metrics.jsonl` says."""

    train: dict[str, Series] = field(default_factory=dict)
    valid: dict[str, Series] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    step: int = 0
    samples_seen: int | None = None
    wall_s: float = 0.0
    """Seconds of training, all sessions of the run together."""
    problems: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """No line that could be read."""
        return not (self.train or self.valid or self.events)

    def series(self, *names: str, kind: str = "train") -> Series | None:
        """The first of the named metrics that was logged."""
        table = self.train if kind == "train" else self.valid
        return next((table[n] for n in names if n in table), None)


class _Columns:
    """Growing (step, value) columns, compact enough for millions of points."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[array[float], array[float]]] = {}

    def add_row(self, row: dict[str, Any], step: int) -> None:
        """Add the numbers of a line (null is a gap); the same step again replaces the earlier."""
        # Several validation sets write one line each and say which.
        owner = next((str(row[k]) for k in ("dataset", "source", "set") if row.get(k)), "")
        columns = self._columns
        for name, value in row.items():
            # Half a million lines come through here: the common case is told by one look.
            if name in _PLACE or not (value.__class__ is float or _is_gap_or_int(value)):
                continue
            key = f"{name} · {owner}" if owner else name
            column = columns.get(key)
            if column is None:
                column = columns[key] = (array("d"), array("d"))
            steps, values = column
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(step)
            values.append(value if value.__class__ is float else _number(value))

    def forget_from(self, step: float) -> None:
        for steps, values in self._columns.values():
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()

    def series(self) -> dict[str, Series]:
        return {
            name.removeprefix("valid/").removeprefix("train/"): Series(
                np.frombuffer(steps, np.float64), np.frombuffer(values, np.float64)
            )
            for name, (steps, values) in self._columns.items()
            if steps
        }


def read_log(path: Path) -> Log:
    """Read the log of a run; unreadable lines are counted in `problems`, never raised.

    Raises:
        OSError: the file cannot be opened.
    """
    log = Log()
    columns = {"train": _Columns(), "valid": _Columns()}
    bad: list[int] = []
    number = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _row(line, log.step)
            if row is None:
                bad.append(number)
                continue
            step, kind = int(row["step"]), row.get("kind")
            if kind == "event":
                log.events.append(_event(row, step))
            if row.get("superseded"):
                continue
            if step < log.step and (kind != "event" or log.events[-1].kind == "resume"):
                for column in columns.values():
                    column.forget_from(step + (kind == "event"))
            if kind != "event":
                columns["valid" if kind == "valid" else "train"].add_row(row, step)
            log.step = step
            seen, wall_s = _number(row.get("samples_seen")), _number(row.get("wall_s"))
            log.samples_seen = log.samples_seen if math.isnan(seen) else int(seen)
            log.wall_s = log.wall_s if math.isnan(wall_s) else wall_s
    log.train, log.valid = columns["train"].series(), columns["valid"].series()
    _tell_bad_lines(log, bad, number)
    return log


def _row(line: str, step: int) -> dict[str, Any] | None:
    """The object of a line, or None; an event that names no step happened at the current one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    if row.get("kind") == "event":
        row.setdefault("step", step)
    return row if math.isfinite(_number(row.get("step"))) else None


def _number(value: object) -> float:
    if value.__class__ is float:
        return value
    try:
        return float(value) if value.__class__ is int else math.nan
    except OverflowError:
        return math.nan


def _is_gap_or_int(value: object) -> bool:
    return value is None or value.__class__ is int


def _event(row: dict[str, Any], step: int) -> Event:
    word = next((str(row[k]) for k in ("event", "name", "type", "what") if row.get(k)), "event")
    low = word.lower()
    kind = next((k for k, stems in _EVENT_KINDS if any(s in low for s in stems)), word)
    text = next((str(row[k]) for k in ("message", "text", "detail") if row.get(k)), "")
    if not text:
        rest = {k: v for k, v in row.items() if k not in _PLACE | _EVENT_WORDS}
        parts = [f"{k} {_plain(v)}" for k, v in rest.items() if v not in (None, "", [], {})]
        text = "; ".join(parts)
    return Event(step, kind, text)


def _plain(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(_plain(v) for v in value[:4])
        return shown if len(value) <= 4 else f"{shown} and {len(value) - 4} more"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _tell_bad_lines(log: Log, bad: list[int], lines: int) -> None:
    if bad and bad[-1] == lines:
        bad.pop()
        log.problems.append(
            f"the last line of metrics.jsonl (line {lines}) is torn and was left out: the run was "
            "writing it, or was killed while it did"
        )
    if bad:
        count = f"{len(bad)} line{'s' if len(bad) > 1 else ''}"
        log.problems.append(
            f"{count} of metrics.jsonl could not be read and {'were' if len(bad) > 1 else 'was'} "
            f"left out (the first: line {bad[0]})"
        )
