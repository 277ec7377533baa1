"""Calls of SLURM's commands in a clean environment; only ids and states are parsed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from dawnchorus.slurm.errors import SubmitError

# An allocation or a launcher may leave these variables behind; they would change what sbatch and
# srun do, or where the tasks of a job meet. SLURM_CONF only says where the cluster is: it stays.
_LEFT_OVER = re.compile(
    r"(SLURM|SBATCH|SRUN|SALLOC|PMI|PMIX|OMPI|TORCHELASTIC)_.*"
    r"|MASTER_(ADDR|PORT)|(LOCAL_|NODE_|GROUP_|ROLE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE"
)
_KEPT = {"SLURM_CONF"}


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without the variables that an allocation or a launcher left in it."""
    env = os.environ if environment is None else environment
    return {k: v for k, v in env.items() if k in _KEPT or not _LEFT_OVER.fullmatch(k)}


def call(*command: str, stdin: str | None = None, timeout_s: float = 60) -> str:
    """Run one of SLURM's commands; returns its output.

    Raises:
        SubmitError: the command is missing, failed (its message is passed on), or did not answer.
    """
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=clean_environment(),
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise SubmitError(
            f"there is no `{command[0]}` here: log in where jobs are submitted, or use --dry-run "
            "to see the script"
        ) from None
    except subprocess.TimeoutExpired:
        raise SubmitError(
            f"`{' '.join(command)}` did not answer within {timeout_s:.0f} s: is the controller up?"
        ) from None
    if done.returncode:
        text = (done.stderr or done.stdout).strip()
        raise SubmitError(f"`{' '.join(command)}` failed: {text}")
    return done.stdout


def submit(script: str, *options: str) -> str:
    """`sbatch` a script file; returns the job id."""
    answer = call("sbatch", "--parsable", *options, script)
    return answer.strip().splitlines()[-1].partition(";")[0]


def states(job_ids: Sequence[str]) -> dict[str, str]:
    """State of each job that SLURM still knows, e.g. RUNNING, PENDING; empty without SLURM.

    A pending job that somebody has to release first gets the state HELD.
    """
    if not job_ids or shutil.which("squeue") is None:
        return {}
    plain = ",".join(sorted({job_id for job_id in job_ids if job_id}))
    try:
        answer = call(
            "squeue", "--noheader", "--array", "--states=all", f"--jobs={plain}",
            "--format=%i %F_%K %T %r", timeout_s=20,
        )  # fmt: skip
    except SubmitError:
        return {}  # "Invalid job id": SLURM has forgotten all of these jobs
    found = {}
    for line in answer.splitlines():
        words = line.split()
        if len(words) >= 3:
            held = words[2] == "PENDING" and "held" in " ".join(words[3:]).lower()
            found[words[0]] = found[words[1]] = "HELD" if held else words[2]
    return found


def cancel(job_id: str) -> None:
    """`scancel` a job. Raises SubmitError."""
    call("scancel", job_id)
