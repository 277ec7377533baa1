"""A bar on a terminal, plain lines anywhere else (log files, batch jobs)."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Self

LINE_EVERY_S = 10.0


class Progress:
    """Says things on standard error; results belong on standard output."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bar: Bar | None = None

    def say(self, text: str) -> None:
        """Print one line, above the bar where one is shown."""
        if self._bar is None or not self._bar.say(text):
            print(text, file=self.stream, flush=True)

    def hours(self, total_h: float, title: str) -> Bar:
        """Return a bar that counts hours of audio."""
        self._bar = Bar(total_h, title, self.stream)
        return self._bar

    def files(self, total: int, title: str) -> Bar:
        """Return a bar that counts files."""
        self._bar = Bar(total, title, self.stream, unit="files")
        return self._bar


class Bar(AbstractContextManager["Bar"]):
    """Progress through `total_h` hours of audio, or through as many files."""

    def __init__(self, total_h: float, title: str, stream: IO[str], *, unit: str = "h") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.total_h, self.title, self.stream = total_h, title, stream
        digits = ",.0f" if unit == "files" else ".2f"
        self.unit, self.digits = unit, digits
        self.terminal = stream.isatty()
        self.started = time.monotonic()
        self.spoken = self.started
        self.bar: RichProgress | None = None
        if self.terminal:
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn(
                    f"{{task.completed:{digits}}}/{{task.total:{digits}}} {unit}  "
                    "{task.fields[note]}"
                ),
                *([TimeRemainingColumn()] if unit == "h" else []),
                console=Console(file=stream),
            )
            self.task = self.bar.add_task(title, total=total_h, note="")

    def update(self, done_h: float, note: str, left_s: float | None = None) -> None:
        """Show where it is: the bar at once, a plain line every ten seconds.

        `left_s` where the time left is known better than by the mean rate so far.
        """
        done_h = min(done_h, self.total_h)
        if self.bar is not None:
            told = "" if left_s is None else f", {time_text(left_s)} left"
            self.bar.update(self.task, completed=done_h, note=note + told)
            return
        now = time.monotonic()
        if now - self.spoken >= LINE_EVERY_S:
            self.spoken = now
            rate = done_h / (now - self.started)
            if left_s is None:
                left_s = (self.total_h - done_h) / rate if rate > 0 else float("inf")
            print(
                f"{self.title}: {done_h:{self.digits}}/{self.total_h:{self.digits}} {self.unit}, "
                f"{note}, {time_text(left_s)} left",
                file=self.stream,
                flush=True,
            )

    def say(self, text: str) -> bool:
        """Print one line above the bar; false where none is shown."""
        if self.bar is None or not self.bar.live.is_started:
            return False
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        return True

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()


def time_text(seconds: float) -> str:
    """Return "95 s", "3.2 h", "12 days"; "?" where it is not known."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days" if seconds < float("inf") else "?"
