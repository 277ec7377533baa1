"""Read `metrics.jsonl`, also while a run writes it and after a run was killed.

Each line is one flat JSON object: `kind` ("train", "valid" or "event"), `step` (optimiser steps
done), `samples_seen` (clips consumed by all ranks), `wall_s` (seconds of training so far, all
sessions of the run together), then the figures. The last line of a run that is still going may be
incomplete, and a run that was killed and resumed took some steps twice. `read_lines` gives the
lines as they are. `read_log` gives each step once: where the run went back to a checkpoint, it
drops the abandoned steps (lines that say `superseded`, and earlier lines of the same or later
steps). It never drops an event.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLACE = frozenset({"step", "samples_seen", "wall_s"})
"""Keys of every line that say where in the run it is; every other number is a figure."""
_WORDS = frozenset({"kind", "event", "message", "superseded"})
# Part of an event's name -> the kind that the page shows. The first part that is found decides.
_EVENT_KINDS = {
    "resum": "resume", "preempt": "pre-emption", "interrupt": "stop", "finite": "non-finite",
    "broken": "broken clip", "finish": "finish", "start": "start", "damaged": "damaged checkpoint",
    "checkpoint": "checkpoint",
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One figure over optimiser steps. Both arrays are float64; steps rise strictly."""

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
    """One of the kinds in `_EVENT_KINDS`, or the event's own name."""
    text: str
    """The message of the event, or its figures, on one line."""


@dataclass
class Log:
    """The content of `metrics.jsonl`."""

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
        """Whether no line could be read."""
        return not (self.train or self.valid or self.events)

    def series(self, *names: str, kind: str = "train") -> Series | None:
        """Return the first of the named figures that was logged."""
        logged = self.train if kind == "train" else self.valid
        return next((logged[n] for n in names if n in logged), None)


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number from 1, line) for every line that is not empty; None if it is unreadable.

    A readable line is an object with a finite `step`. An event without a `step` gets that of the
    line before it. Raises OSError where the file cannot be opened.
    """
    step = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                if line.get("kind") == "event":
                    line.setdefault("step", step)
                step = int(line["step"])
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                yield number, None
                continue
            yield number, line


def standing_lines(path: Path) -> list[dict[str, Any]]:
    """Return the readable lines that are not superseded. Without a file the list is empty."""
    if not path.is_file():
        return []
    return [line for _, line in read_lines(path) if line and not line.get("superseded")]


def read_log(path: Path) -> Log:
    """Read the log of a run. Unreadable lines raise nothing: `problems` describes them.

    Raises:
        OSError: the file cannot be opened.
    """
    log = Log()
    columns: dict[str, _Columns] = {"train": _Columns(), "valid": _Columns()}
    bad: list[int] = []
    number = 0
    for number, line in read_lines(path):
        if line is None:
            bad.append(number)
            continue
        step, kind = int(line["step"]), line.get("kind")
        if kind == "event":
            log.events.append(_event(line, step))
        if line.get("superseded"):
            continue
        if step < log.step and (kind != "event" or log.events[-1].kind == "resume"):
            for column in columns.values():
                column.forget_from(step + (kind == "event"))
        if kind != "event":
            columns["valid" if kind == "valid" else "train"].add(line, step)
        log.step = step
        seen, wall_s = _number(line.get("samples_seen")), _number(line.get("wall_s"))
        log.samples_seen = log.samples_seen if math.isnan(seen) else int(seen)
        log.wall_s = log.wall_s if math.isnan(wall_s) else wall_s
    log.train, log.valid = columns["train"].series(), columns["valid"].series()
    if bad and bad[-1] == number:
        bad.pop()
        log.problems.append(
            f"the last line of metrics.jsonl (line {number}) is torn and was left out: the run was "
            "writing it, or was killed while it did"
        )
    if bad:
        were = "line of metrics.jsonl could not be read and was" if len(bad) == 1 else (
            "lines of metrics.jsonl could not be read and were"
        )  # fmt: skip
        log.problems.append(f"{len(bad)} {were} left out (the first: line {bad[0]})")
    return log


class _Columns:
    """Columns of (step, value) that grow; compact enough for millions of points."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[array[float], array[float]]] = {}

    def add(self, line: dict[str, Any], step: int) -> None:
        """Add the numbers of a line; null is a gap. A repeated step replaces the earlier one."""
        # Several validation sets write one line each, which names its set.
        owner = next((str(line[k]) for k in ("dataset", "source", "set") if line.get(k)), "")
        for name, value in line.items():
            # There may be half a million lines, so the usual case takes one comparison.
            if name in _PLACE or not (
                value.__class__ is float or value is None or value.__class__ is int
            ):
                continue
            key = f"{name} · {owner}" if owner else name
            column = self.by_name.get(key)
            if column is None:
                column = self.by_name[key] = (array("d"), array("d"))
            steps, values = column
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(step)
            values.append(value if value.__class__ is float else _number(value))

    def forget_from(self, step: float) -> None:
        for steps, values in self.by_name.values():
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()

    def series(self) -> dict[str, Series]:
        return {
            name.removeprefix("valid/").removeprefix("train/"): Series(
                np.frombuffer(steps, np.float64), np.frombuffer(values, np.float64)
            )
            for name, (steps, values) in self.by_name.items()
            if steps
        }


def _number(value: object) -> float:
    """Return a number as a float, and NaN for anything else."""
    try:
        return float(value) if value.__class__ in (float, int) else math.nan
    except OverflowError:
        return math.nan


def _event(line: dict[str, Any], step: int) -> Event:
    word = str(line.get("event") or "event")
    low = word.lower().replace("-", "")
    kind = next((kind for stem, kind in _EVENT_KINDS.items() if stem in low), word)
    text = str(line.get("message") or "")
    if not text:
        rest = {k: v for k, v in line.items() if k not in _PLACE | _WORDS}
        text = "; ".join(f"{k} {_said(v)}" for k, v in rest.items() if v not in (None, "", [], {}))
    return Event(step, kind, text)


def _said(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(_said(v) for v in value[:4])
        return shown if len(value) <= 4 else f"{shown} and {len(value) - 4} more"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_said(v)}" for k, v in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
