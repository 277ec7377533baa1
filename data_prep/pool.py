"""Writes shards in several processes that end with their parent, whatever ends it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import PrepError
from data_prep.rows import RowStore
from data_prep.shards import ShardSummary, ShardTask, write_shard
from trainer.runtime.allocation import keep_freed_memory

if TYPE_CHECKING:
    from data_prep.progress import Bar, Progress

POLL_S = 0.2
_NAMED = 10
_AHEAD = 4  # tasks per process that wait in line
_counter: Any = None  # seconds of audio done, shared by the processes of a pool


class Gate:
    """Counts unusable recordings and stops when they are too many."""

    def __init__(self, plan: Path, recordings: int, share: float) -> None:
        self.plan = plan
        self.recordings = recordings
        self.limit = share * recordings
        self.rejected = 0
        self._first: list[dict[str, Any]] = []

    def count(self, summary: ShardSummary) -> None:
        """Count a shard's rejects."""
        self.rejected += len(summary.rejected)
        self._first += summary.rejected[: _NAMED - len(self._first)]

    def add(self, summary: ShardSummary) -> None:
        """Count a shard's rejects; raise PrepError beyond the limit."""
        self.count(summary)
        self.check()

    def check(self) -> None:
        """Raise PrepError where there are more than the limit."""
        if self.rejected > self.limit:
            with RowStore(self.plan) as rows:
                shown = "\n  ".join(
                    f"{rows[r['recording']].path or rows[r['recording']].id}: "
                    f"{r['reason']}: {r['detail']}"
                    for r in self._first
                )
            raise PrepError(
                f"{self.rejected} of {self.recordings} recordings are unusable so far, "
                f"more than --max-broken allows ({self.limit:g}):\n  {shown}\n"
                "Mend or remove them, or go on without them by --allow-broken (what has been "
                "prepared is kept)."
            )


def run_shards(tasks: Sequence[ShardTask], *, gate: Gate, jobs: int, progress: Progress) -> None:
    """Write the shards; what is in them lies in the work folder.

    Raises PrepError as soon as too many recordings are unusable, or when a process died.
    """
    jobs = min(jobs or len(os.sched_getaffinity(0)), max(1, len(tasks)))
    seconds = sum(task.shard.seconds for task in tasks)
    with progress.hours(seconds / 3600, "preparing") as bar:
        if jobs == 1:
            _run_here(tasks, gate, bar)
        else:
            _run_pool(tasks, gate, bar, jobs)


def _run_here(tasks: Sequence[ShardTask], gate: Gate, bar: Bar) -> None:
    seconds = 0.0
    for done, task in enumerate(tasks, start=1):

        def advance(more: float, shard: int = done) -> None:
            nonlocal seconds
            seconds += more
            bar.update(seconds / 3600, f"shard {shard}/{len(tasks)}")

        gate.add(write_shard(task, advance))


def _run_pool(tasks: Sequence[ShardTask], gate: Gate, bar: Bar, jobs: int) -> None:
    # Spawned, not forked: a forked child of a process with threads (Polars, Arrow) can hang.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("d", 0.0)
    log = tasks[0].work / "decoder.log"
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_worker, initargs=(counter, str(log))
    )
    waiting = iter(tasks)
    pending: set[Future[ShardSummary]] = set()
    done = 0
    try:
        while True:
            pending.update(_submit(pool, waiting, _AHEAD * jobs - len(pending)))
            if not pending:
                break
            finished, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                gate.add(future.result())
                done += 1
            bar.update(counter.value / 3600, f"shard {done}/{len(tasks)}")
    except BrokenProcessPool as err:
        raise PrepError(
            "A process died while it was decoding (out of memory, or a decoder that crashed on a "
            f"file; see {log}). The same command continues; --jobs 1 shows where."
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, waiting: Iterable[ShardTask], count: int
) -> list[Future[ShardSummary]]:
    """Hand the next few tasks to the pool."""
    return [pool.submit(_work, task) for _, task in zip(range(count), waiting, strict=False)]


def _start_worker(counter: Any, log: str) -> None:
    """Set up a process of the pool."""
    global _counter
    _counter = counter
    start_worker(log)


def start_worker(log: str = "") -> None:
    """Set up a process that decodes: it ends with its parent, and `log` gets what it prints."""
    if log:
        # libmpg123 writes its warnings straight to the terminal, across the progress bar.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    # The same few blocks again and again: given back each time, they cost a tenth in page faults.
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent has ended: a killed run must not go on writing."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(task: ShardTask) -> ShardSummary:
    return write_shard(task, _advance)


def _advance(seconds: float) -> None:
    with _counter.get_lock():
        _counter.value += seconds
