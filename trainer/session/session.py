"""A session is one start of a run: it claims the folder, runs a watchdog, and records its end.

<run>/lock.<n>.json    the job that works here now (see `lock`)
<run>/attempts.jsonl   a line per session
<run>/requeue.json     written by a session that asks for a restart; the job script looks for it
<run>/failures/        a note per failed rank; stacks of ranks that hung
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from dawnchorus.trainer.errors import ChorusError, Hung, Interrupted, Preempted, RunBusy
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.session.attempts import record_attempt
from dawnchorus.trainer.session.failures import note_failure
from dawnchorus.trainer.session.job import Job, in_slurm_step, prepare_rendezvous
from dawnchorus.trainer.session.lease import RunLock
from dawnchorus.trainer.session.watchdog import Watchdog

MARKER = "requeue.json"


class Session:
    """Context manager around all work of a rank in a run folder.

    Args:
        folder: the run folder.
        rank: global rank; only rank 0 claims the folder.
        hang_after_s: longest silence between steps; None for no watchdog.
    """

    def __init__(self, folder: Path, rank: int, *, hang_after_s: float | None) -> None:
        prepare_rendezvous()
        self.folder, self.rank = folder, rank
        self.job = Job.here()
        self.watchdog: Watchdog | None = None
        if hang_after_s is not None:
            stacks = folder / "failures" / f"{self.job.session}-rank{rank}.stacks"
            self.watchdog = Watchdog(hang_after_s, stacks, self._hung)
        self._stack = ExitStack()
        self._made: list[Path] = []
        self._accepted = False

    def __enter__(self) -> Session:
        """Claim the folder. Raises RunBusy if another job works in it."""
        if self.rank == 0:
            self._made = [p for p in (self.folder, *self.folder.parents) if not p.is_dir()]
            self._stack.enter_context(RunLock(self.folder, self.job))
        return self

    def begin(self, first_step: int) -> None:
        """Record the start at `first_step`. Raises NoProgress after three starts there."""
        self._accepted = True
        if self.rank == 0:
            (self.folder / MARKER).unlink(missing_ok=True)
            record_attempt(self.folder, self.job, first_step)

    def beat(self, what: str) -> None:
        """Something was finished."""
        if self.watchdog is not None:
            self.watchdog.beat(what)

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Write the note of a failure or the request for a restart, and release the folder."""
        if self.rank == 0 and isinstance(err, Preempted) and not isinstance(err, Interrupted):
            self.ask_to_come_back("preempted")
        # A mistake that is found before the run begins or is submitted leaves no folder behind.
        begun = any((self.folder / name).is_file() for name in ("recipe.yaml", "submitted.yaml"))
        # A refused command writes no note, because the run in the folder is not at fault. A job
        # that SLURM started does write one.
        refused = isinstance(err, ChorusError) and err.exit_code == 2 and not self._accepted
        refused = refused and not in_slurm_step() and "CHORUS_RUN" not in os.environ
        expected = refused or isinstance(err, Preempted | RunBusy)
        if begun and isinstance(err, Exception) and not expected:
            if self.rank == 0:
                (self.folder / MARKER).unlink(missing_ok=True)
            note_failure(self.folder, self.job, self.rank, err)
        self._stack.close()
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()  # succeeds only if it is empty

    def ask_to_come_back(self, reason: str) -> None:
        """Tell the job script to queue this job again."""
        marker = {"job": self.job.job_id, "restart": self.job.restart, "reason": reason}
        with suppress(OSError):
            write_whole(self.folder / MARKER, json.dumps(marker) + "\n")

    def _hung(self, message: str) -> None:
        note_failure(self.folder, self.job, self.rank, f"{Hung.__name__}: {message}")
        self.ask_to_come_back("hung")
