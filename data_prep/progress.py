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

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self.stream, flush=True)

    def hours(self, total_h: float, title: str) -> Bar:
        """Return a bar that counts hours of audio."""
        return Bar(total_h, title, self.stream)


class Bar(AbstractContextManager["Bar"]):
    """Progress through `total_h` hours of audio."""

    def __init__(self, total_h: float, title: str, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.total_h, self.title, self.stream = total_h, title, stream
        self.terminal = stream.isatty()
        self.started = time.monotonic()
        self.spoken = self.started
        self.bar: RichProgress | None = None
        if self.terminal:
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.2f}/{task.total:.2f} h  {task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(file=stream),
            )
            self.task = self.bar.add_task(title, total=total_h, note="")

    def update(self, done_h: float, note: str) -> None:
        """Show where it is: the bar at once, a plain line every ten seconds."""
        done_h = min(done_h, self.total_h)
        if self.bar is not None:
            self.bar.update(self.task, completed=done_h, note=note)
            return
        now = time.monotonic()
        if now - self.spoken >= LINE_EVERY_S:
            self.spoken = now
            rate = done_h / (now - self.started)
            left_s = (self.total_h - done_h) / rate if rate > 0 else float("inf")
            print(
                f"{self.title}: {done_h:.2f}/{self.total_h:.2f} h, {note}, {left_s:.0f} s left",
                file=self.stream,
                flush=True,
            )

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
