"""Whether a job that ended should be queued again: `python -m dawnchorus.slurm.verdict RUN CODE`.

The job script asks this after srun. Exit status 0: yes; 1: no. The code that the job should end
with goes to the standard output: the one of the rank that failed first, not the 137 of a rank that
srun killed for it. A sentence says why, and if a rank failed, its note is shown, so that the job's
log has the reason at its end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from dawnchorus.trainer.runtime.failures import (
    failure_notes,
    first_failure,
    lost_a_peer,
    noted_exit_code,
)
from dawnchorus.trainer.runtime.job import Job

_FINAL = {
    2: "the recipe or the data is wrong",
    76: "the loss was not finite",
    78: "restarts led nowhere",
}


@dataclass(frozen=True)
class Verdict:
    """Queue it again or not, and why."""

    again: bool
    reason: str
    code: int
    """What the job ends with."""


def verdict(run: Path, code: int, job: Job, max_requeues: int) -> Verdict:
    """Decide by the marker that rank 0 left, the exit code, and the notes of the ranks.

    The exit code alone does not do: when one rank ends, srun kills the others, and reports the
    highest code of all.
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
    """Why the session that just ended wants to come back, or None."""
    try:
        marker = json.loads((run / "requeue.json").read_text())
    except (OSError, ValueError):
        return None
    if (marker.get("job"), marker.get("restart")) != (job.job_id, job.restart):
        return None
    return str(marker.get("reason"))


def batch_job() -> Job:
    """The job whose batch script this is; it has no step of its own."""
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
