"""Writes `metrics.jsonl`; the progress bar and the loggers (`loggers/`) show the same figures.

`trainer.metrics_log` describes the lines of `metrics.jsonl` and reads them.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.metrics_log import read_lines
from dawnchorus.trainer.progress import Bar

_ETA_LINES = 50
"""The end of a run is predicted from this many log lines; some validations are among them."""


class Sink(Protocol):
    """Receives a copy of every line."""

    def write(self, line: dict[str, Any]) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class MetricsFile:
    """Appends to `metrics.jsonl` and passes each line on.

    Args:
        path: the file.
        resume_step: lines of later steps are marked `superseded`, and readers skip them: a killed
            run had gone on after its last checkpoint, and repeats those steps now.
    """

    def __init__(self, path: Path, *, resume_step: int = 0, sinks: tuple[Sink, ...] = ()) -> None:
        self.path = path
        self.sinks = sinks
        earlier, last_step = _mark_superseded(path, resume_step)
        self.repeated = max(last_step - resume_step, 0)
        """Logged steps that an earlier session did after its last checkpoint."""
        self._wall_before_s = max((line.get("wall_s", 0.0) for line in earlier), default=0.0)
        self._start = time.monotonic()
        self._file = path.open("a", encoding="utf-8")

    @property
    def wall_s(self) -> float:
        """Seconds of training so far, including earlier sessions of this run."""
        return self._wall_before_s + time.monotonic() - self._start

    def write(self, kind: str, step: int, samples_seen: int, **figures: Any) -> None:
        """Add a line; figures that are not finite are written as null (JSON knows no NaN)."""
        clean = {k: _finite(v) for k, v in figures.items()}
        line = {"kind": kind, "step": step, "samples_seen": samples_seen,
                "wall_s": round(self.wall_s, 3), **clean}  # fmt: skip
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        for sink in self.sinks:
            sink.write(line)

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        for sink in self.sinks:
            sink.close()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _mark_superseded(path: Path, resume_step: int) -> tuple[list[dict[str, Any]], int]:
    """Rewrite the file: mark the lines after `resume_step`, and drop unreadable ones.

    Returns:
        The unmarked lines, and the last step of the lines that were marked now (0: none).
    """
    if not path.is_file():
        return [], 0
    lines, changed, last_step = [], False, 0
    for _, line in read_lines(path):
        if line is None:
            changed = True  # the process was killed while it wrote this line
            continue
        if line["step"] > resume_step and not line.get("superseded"):
            line["superseded"] = changed = True
            last_step = max(last_step, line["step"])
        lines.append(line)
    if changed:
        write_whole(path, "".join(f"{json.dumps(x, ensure_ascii=False)}\n" for x in lines))
    return [line for line in lines if not line.get("superseded")], last_step


class ProgressSink:
    """Shows a bar on a terminal, or plain lines in a log file."""

    SHOWN = ("loss", "masked_accuracy", "unigram_accuracy", "map", "auroc", "top1", "lr",
             "clips_per_s", "data_wait")  # fmt: skip

    def __init__(self, total_steps: int, first_step: int, title: str) -> None:
        self._title = title
        self._total = total_steps
        self._recent: deque[tuple[int, float]] = deque(maxlen=_ETA_LINES)
        self._figures = ""
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            self._bar = Bar(total_steps, title, "steps", done=first_step).start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(step, self._figures)

    def write(self, line: dict[str, Any]) -> None:
        """Show a line's figures."""
        figures = "  ".join(
            f"{k} {line[k]:.4g}" for k in self.SHOWN if isinstance(line.get(k), int | float)
        )
        if line["kind"] == "train" and self._bar is not None:
            self._figures = figures
            return
        text = figures or line.get("message", "")
        if line["kind"] == "train":
            text += self._time_left(line)
        kind = "" if line["kind"] == "train" else f" {line.get('event', line['kind'])}:"
        message = f"{self._title} {line['step']}/{self._total}{kind}  {text}"
        if self._bar is None or not self._bar.say(message):
            print(message, file=sys.stderr, flush=True)

    def _time_left(self, line: dict[str, Any]) -> str:
        """Text `  eta 1:23:45`, from the last lines, including validations and checkpoints."""
        self._recent.append((line["step"], line["wall_s"]))
        (first_step, first_s), (step, now_s) = self._recent[0], self._recent[-1]
        if step <= first_step or step >= self._total:
            return ""
        left_s = (self._total - step) * (now_s - first_s) / (step - first_step)
        return f"  eta {timedelta(seconds=round(left_s))}"

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
