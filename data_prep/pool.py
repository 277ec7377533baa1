"""Writes shards in several processes, and stops where too many recordings are unusable."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import PrepError
from data_prep.processes import each
from data_prep.rows import RowStore
from data_prep.shards import ShardSummary, ShardTask, write_shard

if TYPE_CHECKING:
    from data_prep.progress import Bar, Progress

_NAMED = 10
_ONE_SHARD_S = 600.0  # of audio: sooner done than a process has started
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

    With `jobs` 1, and where there is little to do, this process decodes itself, and what crashes a
    decoder crashes it. Raises PrepError as soon as too many recordings are unusable.
    """
    seconds = sum(task.shard.seconds for task in tasks)
    little = len(tasks) <= 1 and seconds < _ONE_SHARD_S
    with progress.hours(seconds / 3600, "preparing") as bar:
        if jobs == 1 or little:
            _run_here(tasks, gate, bar)
        else:
            _run_pool(tasks, gate, bar, jobs, progress.say)


def _run_here(tasks: Sequence[ShardTask], gate: Gate, bar: Bar) -> None:
    seconds = 0.0
    for done, task in enumerate(tasks, start=1):

        def advance(more: float, shard: int = done) -> None:
            nonlocal seconds
            seconds += more
            bar.update(seconds / 3600, f"shard {shard}/{len(tasks)}")

        gate.add(write_shard(task, advance))


def _run_pool(
    tasks: Sequence[ShardTask], gate: Gate, bar: Bar, jobs: int, say: Callable[[str], None]
) -> None:
    # Without a lock, which a killed process would keep: at worst the bar misses a recording.
    counter = multiprocessing.get_context("spawn").RawValue("d", 0.0)
    done = 0

    def show() -> None:
        bar.update(counter.value / 3600, f"shard {done}/{len(tasks)}")

    summaries = each(
        _work, tasks, jobs=jobs, log=tasks[0].work / "decoder.log", say=say, idle=show,
        setup=_share, setup_args=(counter,),
    )  # fmt: skip
    with closing(summaries):
        for summary in summaries:
            gate.add(summary)
            done += 1


def _share(counter: Any) -> None:
    """Count the seconds of audio of this process with those of all others."""
    global _counter
    _counter = counter


def _work(task: ShardTask) -> ShardSummary:
    return write_shard(task, _advance)


def _advance(seconds: float) -> None:
    _counter.value += seconds
