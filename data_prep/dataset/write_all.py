"""Writes shards in several processes, and stops where too many recordings are unusable."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.audio.processes import each
from dawnchorus.data_prep.dataset.row_store import RowStore
from dawnchorus.data_prep.dataset.write_shard import ShardSummary, ShardTask, write_shard
from dawnchorus.data_prep.errors import PrepError

if TYPE_CHECKING:
    from dawnchorus.trainer.progress import Progress

NAMED = 10
"""Number of rejects that an error names."""
NOT_BROKEN = ("too_short",)
"""Reasons for leaving out a recording that is not broken."""
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
        """Count a shard's rejects, those of `NOT_BROKEN` apart."""
        broken = [row for row in summary.rejected if row["reason"] not in NOT_BROKEN]
        self.rejected += len(broken)
        self._first += broken[: NAMED - len(self._first)]

    def add(self, summary: ShardSummary) -> None:
        """Count a shard's rejects; raise PrepError beyond the limit."""
        self.count(summary)
        self.check()

    def check(self) -> None:
        """Raise PrepError where there are more than the limit."""
        if self.rejected > self.limit:
            shown = name_rejects(self.plan, self._first)
            raise PrepError(
                f"{self.rejected} of {self.recordings} recordings are unusable so far, "
                f"more than --max-broken allows ({self.limit:g}):\n{shown}"
                "Mend or remove them, or go on without them by --allow-broken (what has been "
                "prepared is kept)."
            )


def name_rejects(plan: Path, rejected: Iterable[Mapping[str, Any]]) -> str:
    """Return a line for each of these rejects: its file and what is wrong with it."""
    with RowStore(plan) as rows:
        return "".join(
            f"  {rows[r['recording']].path or rows[r['recording']].id}: {r['reason']}: "
            f"{r['detail']}\n"
            for r in rejected
        )


def run_shards(tasks: Sequence[ShardTask], *, gate: Gate, jobs: int, progress: Progress) -> None:
    """Write the shards; their results are kept in the work folder.

    Raises PrepError as soon as too many recordings are unusable.
    """
    if not tasks:
        return
    # No lock, because a killed process would keep it: at worst the bar misses a recording.
    counter = multiprocessing.get_context("spawn").RawValue("d", 0.0)
    done, log = 0, tasks[0].work / "decoder.log"
    with progress.hours(sum(task.shard.seconds for task in tasks) / 3600, "preparing") as bar:

        def show() -> None:
            bar.update(counter.value / 3600, f"shard {done}/{len(tasks)}")

        summaries = each(
            _work, tasks, jobs=jobs, log=log, say=progress.say, idle=show,
            setup=_share, setup_args=(counter,),
        )  # fmt: skip
        with closing(summaries):
            for summary in summaries:
                gate.add(summary)
                done += 1
                show()


def _share(counter: Any) -> None:
    """Count the seconds of audio of this process with those of all others."""
    global _counter
    _counter = counter


def _work(task: ShardTask) -> ShardSummary:
    return write_shard(task, _advance)


def _advance(seconds: float) -> None:
    _counter.value += seconds
