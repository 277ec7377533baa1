"""Records every session of a run, and ends a job whose restarts make no progress."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import NoProgress
from dawnchorus.trainer.session.job import Job

MAX_STARTS_AT_ONE_STEP = 3


def read_attempts(run: Path) -> list[dict[str, Any]]:
    """Sessions of a run so far, oldest first: job, restart, host, first_step, time."""
    lines = []
    path = run / "attempts.jsonl"
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue  # the process was killed while it wrote this line
    return lines


def record_attempt(run: Path, job: Job, first_step: int) -> None:
    """Record that this session begins at `first_step`. Rank 0 only.

    Raises:
        NoProgress: SLURM has started this job three times at this very step. A run that a person
            starts again (as another job, or without SLURM) is never refused.
    """
    same = 0
    for earlier in reversed(read_attempts(run)):
        if (earlier.get("job"), earlier.get("first_step")) != (job.job_id, first_step):
            break
        same += 1
    if job.job_id and same >= MAX_STARTS_AT_ONE_STEP:
        raise NoProgress(
            f"job {job.job_id} has been started {same} times at step {first_step} of {run} and "
            f"never reached the next checkpoint: look at {run / 'failures'} and the job's log. "
            "Perhaps train.checkpoint_every is longer than the time limit, or the run fails at "
            "once. A new submission of the same recipe continues this run"
        )
    line = {
        "job": job.job_id, "restart": job.restart, "host": job.host, "first_step": first_step,
        "time": round(time.time(), 3),
    }  # fmt: skip
    with (run / "attempts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
