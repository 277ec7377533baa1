"""Decides whether SLURM should queue a job that ended again.

The job script calls `python -m dawnchorus.slurm.verdict RUN CODE` after srun. The exit status is 0
for yes and 1 for no. The standard output is the code that the job should end with: the one of the
rank that failed first, not the 137 of the ranks that srun killed afterwards. A sentence on the
standard error says why. If a rank failed, its note follows, so that the job's log ends with the
reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from dawnchorus.trainer.session.failures import (
    failure_notes,
    first_failure,
    lost_a_peer,
    noted_exit_code,
)
from dawnchorus.trainer.session.job import Job

_FINAL = {
    2: "the recipe or the data is wrong",
    76: "the loss was not finite",
    78: "restarts led nowhere",
}


@dataclass(frozen=True)
class Verdict:
    """Whether to queue the job again, and why."""

    again: bool
    reason: str
    code: int
    """The exit code that the job ends with."""


def verdict(run: Path, code: int, job: Job, max_requeues: int) -> Verdict:
    """Decide by the marker that rank 0 left, the exit code, and the notes of the ranks.

    The exit code alone is not enough: when one rank ends, srun kills the others and reports the
    highest code among them.
    """
    if code == 0:
        return Verdict(False, "done", 0)
    notes = failure_notes(run, job.session)
    reason = _marker(run, job)
    causes = [note for note in notes if not lost_a_peer(note)]
    if reason is None and causes:
        code = noted_exit_code(causes[0]) or code
    if reason is None and code in _FINAL:
        return Verdict(False, _FINAL[code], code)
    if reason is None and causes:
        return Verdict(False, "a rank failed", code)
    if reason is None and code <= 128 and not notes:
        return Verdict(False, f"it ended with code {code}", code)
    if job.restart >= max_requeues:
        often = f"it has been started again {job.restart} times (max_requeues)"
        return Verdict(False, often, code)
    lost = "the ranks lost each other" if notes else "a task was killed"
    return Verdict(True, reason or lost, code)


def _marker(run: Path, job: Job) -> str | None:
    """Why the session that just ended asks for a restart; None if it does not."""
    try:
        marker = json.loads((run / "requeue.json").read_text())
    except (OSError, ValueError):
        return None
    if (marker.get("job"), marker.get("restart")) != (job.job_id, job.restart):
        return None
    return str(marker.get("reason"))


def batch_job() -> Job:
    """The job in whose batch script this process runs, outside of any step of srun."""
    environment = os.environ | {"SLURM_STEP_ID": "batch", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    environment["SLURM_JOB_NAME"] = "batch"
    return Job.here(environment)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("code", type=int, help="exit code of srun")
    parser.add_argument("--max-requeues", type=int, default=50)
    given = parser.parse_args()
    job = batch_job()
    found = verdict(given.run, given.code, job, given.max_requeues)
    print(found.code)
    word = "is queued again" if found.again else "stays ended"
    print(f"{job.name} {word}: {found.reason}", file=sys.stderr)
    note = first_failure(given.run, job.session)
    if note is not None:
        print("the first rank that failed:\n" + note[-4000:], file=sys.stderr)
    sys.exit(0 if found.again else 1)


if __name__ == "__main__":
    main()
