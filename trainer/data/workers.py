"""How a data-loading process lives and dies.

A run is asked to stop by signals that reach every process of a job step, or of a terminal's
foreground group, loader workers included. A worker that died of one would break the run before it
could save; a worker that ignored SIGTERM altogether would outlive the run. So in a worker these
signals are blocked and one thread looks at them: only the parent's SIGTERM (how multiprocessing
ends a child) counts. The same thread notices when the parent is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import torch

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
_LOOK_S = 1.0


def start_worker(worker_id: int) -> None:
    """Set up a loader worker; for `DataLoader(worker_init_fn=...)`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        thread = threading.Thread(target=_watch, args=(parent.pid,), name="signals", daemon=True)
        thread.start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait(_SIGNALS, _LOOK_S)
        if received and received.si_signo == signal.SIGTERM and received.si_pid == parent:
            os._exit(0)
    # The parent died without saying so (SIGKILL): nobody is left to take a batch.
    os._exit(1)
