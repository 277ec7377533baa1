"""Writes shards in several processes that end with their parent, whatever ends it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from data_prep.errors import PrepError
from data_prep.shards import ShardResult, ShardTask, write_shard

if TYPE_CHECKING:
    from data_prep.options import BuildOptions
    from data_prep.progress import Bar, Progress
    from data_prep.recordings import Recording

POLL_S = 0.2
_counter: Any = None  # seconds of audio done, shared by the processes of a pool


def run_shards(
    tasks: Sequence[ShardTask],
    *,
    done: Sequence[ShardResult],
    recordings: Sequence[Recording],
    options: BuildOptions,
    progress: Progress,
) -> list[ShardResult]:
    """Write the shards; return their results in any order.

    Raises PrepError as soon as too many recordings are unusable (`done` ones included), or when a
    process died.
    """
    gate = _Gate(recordings, options)
    for result in done:
        gate.add(result)
    jobs = min(options.jobs or len(os.sched_getaffinity(0)), max(1, len(tasks)))
    seconds = sum(task.seconds for task in tasks)
    with progress.hours(seconds / 3600, "preparing") as bar:
        if jobs == 1:
            return _run_here(tasks, gate, bar)
        return _run_pool(tasks, gate, bar, jobs)


class _Gate:
    """Counts unusable recordings and stops when they are too many."""

    def __init__(self, recordings: Sequence[Recording], options: BuildOptions) -> None:
        self.recordings = recordings
        share = 1.0 if options.allow_broken else options.max_broken
        self.limit = share * len(recordings)
        self.rejected: list[dict[str, Any]] = []

    def add(self, result: ShardResult) -> None:
        """Count a shard's rejects; raise PrepError beyond the limit."""
        self.rejected.extend(result.rejected)
        if len(self.rejected) > self.limit:
            shown = "\n  ".join(
                f"{self.recordings[r['recording']].path}: {r['reason']}: {r['detail']}"
                for r in self.rejected[:10]
            )
            raise PrepError(
                f"{len(self.rejected)} of {len(self.recordings)} recordings are unusable so far, "
                f"more than --max-broken allows ({self.limit:g}):\n  {shown}\n"
                "Mend or remove them, or go on without them by --allow-broken (what has been "
                "prepared is kept)."
            )


def _run_here(tasks: Sequence[ShardTask], gate: _Gate, bar: Bar) -> list[ShardResult]:
    results: list[ShardResult] = []
    seconds = 0.0

    def advance(more: float) -> None:
        nonlocal seconds
        seconds += more
        bar.update(seconds / 3600, f"shard {len(results) + 1}/{len(tasks)}")

    for task in tasks:
        results.append(write_shard(task, advance))
        gate.add(results[-1])
    return results


def _run_pool(tasks: Sequence[ShardTask], gate: _Gate, bar: Bar, jobs: int) -> list[ShardResult]:
    # Spawned, not forked: a forked child of a process with threads (Polars, Arrow) can hang.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("d", 0.0)
    log = tasks[0].work / "decoder.log"
    results: list[ShardResult] = []
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_worker, initargs=(counter, str(log))
    )
    try:
        pending: set[Future[ShardResult]] = {pool.submit(_work, task) for task in tasks}
        while pending:
            finished, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                results.append(future.result())
                gate.add(results[-1])
            bar.update(counter.value / 3600, f"shard {len(results)}/{len(tasks)}")
    except BrokenProcessPool as err:
        raise PrepError(
            "A process died while it was decoding (out of memory, or a decoder that crashed on a "
            f"file; see {log}). The same command continues; --jobs 1 shows where."
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _start_worker(counter: Any, log: str) -> None:
    """Set up a process of the pool."""
    global _counter
    _counter = counter
    # libmpg123 writes its warnings straight to the terminal, across the progress bar.
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended: a killed run must not go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(task: ShardTask) -> ShardResult:
    return write_shard(task, _advance)


def _advance(seconds: float) -> None:
    with _counter.get_lock():
        _counter.value += seconds
