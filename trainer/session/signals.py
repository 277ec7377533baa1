"""Requests to stop: signals stay blocked, one thread waits for them, and all it does is set a flag.

No Python signal handler runs anywhere. A handler that saves a checkpoint would run between two
arbitrary instructions of one rank, and could dead-lock with a collective of another rank. Here
every rank looks at the flag at a step boundary, and all ranks agree (with one all-reduce) before
any of them stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})


class StopRequest:
    """A flag that is set when a signal asks this process to stop.

    SLURM sends SIGUSR1 before the time limit and SIGTERM at pre-emption; Ctrl-C sends SIGINT.
    A second SIGINT ends the process at once, for a person who does not want to wait.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self.signal_name: str | None = None

    def set(self, signal_name: str) -> None:
        """Set the flag; the first signal is kept as the reason."""
        if self.signal_name is None:
            self.signal_name = signal_name
        self._flag.set()

    @property
    def by_hand(self) -> bool:
        """Whether Ctrl-C set the flag."""
        return self.signal_name == "SIGINT"

    def is_set(self) -> bool:
        """Whether this process was asked to stop; other ranks may not know it yet."""
        return self._flag.is_set()


_request: StopRequest | None = None


def watch_signals() -> StopRequest:
    """Block the signals in this thread and start the thread that waits for them; idempotent.

    Call it before any other thread exists (before torch is imported). Threads and child processes
    inherit the blocked signals, so a signal during the imports is not lost and kills nothing.
    """
    global _request
    if _request is not None:
        return _request
    _request = StopRequest()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_wait, args=(_request,), name="signals", daemon=True).start()
    return _request


def _wait(request: StopRequest) -> None:
    interrupts = 0
    while True:
        number = signal.sigwait(_SIGNALS)
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            os._exit(130)
        if not request.is_set():
            name = signal.Signals(number).name
            again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            print(f"{name}: saving at the next step boundary{again}", file=sys.stderr, flush=True)
        request.set(signal.Signals(number).name)
