"""Being asked to stop: signals stay blocked, one thread waits for them, and a flag is all it sets.

No Python signal handler runs anywhere. A handler that saves a checkpoint runs between two
arbitrary instructions of one rank and can dead-lock with another rank's collective; here every rank
looks at the flag at a step boundary and all agree (one all-reduce) before any of them stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})


class StopRequest:
    """Set once a signal asked this process to stop.

    SIGUSR1 comes from SLURM ahead of the time limit, SIGTERM at pre-emption, SIGINT from Ctrl-C.
    A second SIGINT ends the process at once, for a person who does not want to wait.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self.signal_name: str | None = None

    def set(self, signal_name: str) -> None:
        """Ask to stop; the first reason is kept."""
        if self.signal_name is None:
            self.signal_name = signal_name
        self._flag.set()

    @property
    def by_hand(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.signal_name == "SIGINT"

    def is_set(self) -> bool:
        """Whether this process (not yet every rank) was asked to stop."""
        return self._flag.is_set()


_request: StopRequest | None = None


def watch_signals() -> StopRequest:
    """Block the signals in this thread and start the one that waits for them; idempotent.

    Call it before any other thread exists (before torch is imported): threads and child processes
    inherit the mask, so a signal is neither lost nor deadly during the imports.
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
