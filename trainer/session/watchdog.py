"""Ends a run that stands still, after writing down where every thread of every rank stood.

A rank that waits for another in a collective waits for ever (or for NCCL's half hour). Every rank
watches itself: all of them notice within a step of each other, so each writes its own stacks.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dawnchorus.trainer.errors import Hung

GRACE_S = 10.0
"""Between the stacks and the end: the first rank to end takes the others with it."""


class Watchdog:
    """Call `beat` whenever something was finished; use as a context manager around training.

    Args:
        limit_s: the longest silence.
        stacks: file for this rank's stacks.
        on_hang: called with a sentence before the process ends (to leave a note).
        end: how the process ends; `os._exit` because a thread that hangs in C code cannot be
            unwound.
    """

    def __init__(
        self, limit_s: float, stacks: Path, on_hang: Callable[[str], None], *,
        grace_s: float = GRACE_S, end: Callable[[int], None] = os._exit,
    ) -> None:  # fmt: skip
        self.limit_s = limit_s
        self.stacks = stacks
        self._on_hang, self._grace_s, self._end = on_hang, grace_s, end
        self._last = time.monotonic()
        self._what = "start"
        self._armed = 0.0
        self._over = threading.Event()

    def beat(self, what: str) -> None:
        """Something was finished: `what` says what, for the message."""
        self._last, self._what = time.monotonic(), what
        if self._last - self._armed > self.limit_s / 4:
            self._arm()

    def __enter__(self) -> Watchdog:
        """Begin to watch."""
        self.stacks.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.stacks.open("w")
        self._last = time.monotonic()
        self._arm()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching; without a hang no file stays."""
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self.stacks.unlink(missing_ok=True)

    def _arm(self) -> None:
        """The backstop in C, for a thread that hangs while it holds the interpreter's lock."""
        self._armed = time.monotonic()
        backstop_s = 1.5 * self.limit_s + 2 * self._grace_s
        faulthandler.dump_traceback_later(backstop_s, exit=True, file=self._file)

    def _watch(self) -> None:
        while not self._over.wait(min(self.limit_s / 20, 5.0)):
            silent_s = time.monotonic() - self._last
            if silent_s > self.limit_s:
                self._bark(silent_s)
                return

    def _bark(self, silent_s: float) -> None:
        message = (
            f"nothing was finished for {silent_s:.0f} s after {self._what}: this rank hangs, or "
            f"waits for one that does. Where all its threads stood is in {self.stacks}"
        )
        faulthandler.dump_traceback(file=self._file, all_threads=True)
        self._file.flush()
        print(f"chorus: hung: {message}", file=sys.stderr, flush=True)
        self._on_hang(message)
        if not self._over.wait(self._grace_s):
            self._end(Hung.exit_code)
