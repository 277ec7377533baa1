"""Start and end of a data-loading process.

The signals that ask a run to stop reach every process of a job step, or of a terminal's foreground
group, including loader workers. A worker that such a signal killed would break the run before it
could save; a worker that ignored SIGTERM altogether would outlive the run. So a worker blocks these
signals and one thread waits for them. It obeys only a SIGTERM from the parent, by which
multiprocessing ends a child. The same thread notices when the parent is gone.
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
    # The parent was killed (SIGKILL) and could not end us: nobody is left to take a batch.
    os._exit(1)
