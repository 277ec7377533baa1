"""A bar on a terminal, plain lines anywhere else (log files, batch jobs)."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Self

LINE_EVERY_S = 10.0


class Progress:
    """Prints messages on standard error; results belong on standard output."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bar: Bar | None = None

    def say(self, text: str) -> None:
        """Print one line, above the bar where one is shown."""
        if self._bar is None or not self._bar.say(text):
            print(text, file=self.stream, flush=True)

    def hours(self, total_h: float, title: str) -> Bar:
        """Return a bar that counts hours of audio."""
        self._bar = Bar(total_h, title, stream=self.stream)
        return self._bar

    def files(self, total: int, title: str) -> Bar:
        """Return a bar that counts files."""
        self._bar = Bar(total, title, "files", stream=self.stream)
        return self._bar


class Bar(AbstractContextManager["Bar"]):
    """Shows the progress of long work: a bar on a terminal, else a plain line every ten seconds.

    Args:
        total: the whole amount of work, in `unit`s.
        title: name of the work.
        unit: "h" (hours of audio), "files", "steps", ...; all but hours are shown as whole numbers.
        stream: where it is shown; standard error where none is given.
        stays: whether the bar stays on the screen when it is done.
        done: amount that was done before.
    """

    def __init__(
        self,
        total: float,
        title: str,
        unit: str = "h",
        *,
        stream: IO[str] | None = None,
        stays: bool = True,
        done: float = 0.0,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.total, self.title, self.stream = total, title, stream or sys.stderr
        self.unit, self.digits = unit, ".2f" if unit == "h" else ",.0f"
        self.done = done
        self.terminal = self.stream.isatty()
        self.started = self.spoken = time.monotonic()
        self.bar: RichProgress | None = None
        if self.terminal:
            figures = f"{{task.completed:{self.digits}}}/{{task.total:{self.digits}}} {unit}  "
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn(figures + "{task.fields[note]}"),
                *([] if unit == "files" else [TimeRemainingColumn()]),
                console=Console(file=self.stream),
                transient=not stays,
            )
            self.task = self.bar.add_task(title, total=total, completed=int(done), note="")

    def advance(self, count: float) -> None:
        """Add `count` to the amount that is done."""
        self.update(self.done + count)

    def update(self, done: float, note: str = "", left_s: float | None = None) -> None:
        """Show how much is done, and `note` behind it.

        `left_s` where the time left is known better than by the mean rate so far.
        """
        self.done = done = min(done, self.total)
        if self.bar is not None:
            told = "" if left_s is None else f", {time_text(left_s)} left"
            self.bar.update(self.task, completed=done, note=note + told)
            return
        now = time.monotonic()
        if now - self.spoken >= LINE_EVERY_S:
            self.spoken = now
            rate = done / (now - self.started)
            if left_s is None:
                left_s = (self.total - done) / rate if rate > 0 else float("inf")
            figures = f"{done:{self.digits}}/{self.total:{self.digits}} {self.unit}"
            said = ", ".join(filter(None, (figures, note, f"{time_text(left_s)} left")))
            print(f"{self.title}: {said}", file=self.stream, flush=True)

    def say(self, text: str) -> bool:
        """Print one line above the bar; false where none is shown."""
        if self.bar is None or not self.bar.live.is_started:
            return False
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        return True

    def start(self) -> Self:
        """Show the bar; `with` does it as well."""
        if self.bar is not None:
            self.bar.start()
        return self

    def stop(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()


def time_text(seconds: float) -> str:
    """Return "95 s", "3.2 h", "12 days"; "?" where it is not known."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days" if seconds < float("inf") else "?"
