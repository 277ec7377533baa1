"""What the environment tells about this process: its job, its restart, the port of its ranks.

SLURM's variables are described in `man srun`, OUTPUT ENVIRONMENT VARIABLES. Nothing here parses a
list of nodes; the job script asks `scontrol show hostnames` for the first of them.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

_FIRST_PORT, _PORTS = 20000, 12000  # below Linux's ephemeral range, which begins at 32768


@dataclass(frozen=True)
class Job:
    """One session of a run: one start of one job."""

    job_id: str
    """SLURM's job id ("<array job>_<task>" for a task of an array); empty outside SLURM."""
    restart: int
    """How often SLURM has started this job again."""
    step_id: str
    host: str
    pid: int

    @classmethod
    def here(cls, environment: Mapping[str, str] | None = None) -> Job:
        """The job that this process belongs to."""
        env = os.environ if environment is None else environment
        host, pid = socket.gethostname(), os.getpid()
        if not in_slurm_step(env):
            return cls("", 0, "", host, pid)
        array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
        job_id = f"{array}_{task}" if array and task else env["SLURM_JOB_ID"]
        return cls(
            job_id,
            int(env.get("SLURM_RESTART_COUNT") or 0),
            env.get("SLURM_STEP_ID", ""),
            host,
            pid,
        )

    @property
    def name(self) -> str:
        """Name for messages: "job 1234, restart 1", or process and host."""
        if not self.job_id:
            return f"process {self.pid} on {self.host}"
        again = f", restart {self.restart}" if self.restart else ""
        return f"job {self.job_id}{again}"

    @property
    def session(self) -> str:
        """Name for files, the same on all ranks of a SLURM step: "job1234.1", or "local"."""
        return f"job{self.job_id}.{self.restart}" if self.job_id else "local"


def early_rank(environment: Mapping[str, str] | None = None) -> int:
    """The global rank, from the launcher's environment, before torch.distributed runs."""
    env = os.environ if environment is None else environment
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if env.get(name, "").isdigit() and (name != "SLURM_PROCID" or in_slurm_step(env)):
            return int(env[name])
    return 0


def in_slurm_step(environment: Mapping[str, str] | None = None) -> bool:
    """Whether srun started this process as one of its tasks."""
    env = os.environ if environment is None else environment
    return (
        {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_NTASKS"} <= env.keys()
        # This is an interactive shell of a job: a command started in it has no other tasks.
        and env.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    )


def master_port(job_id: str, step_id: str, restart: int) -> int:
    """Compute a port, so that the tasks of one srun agree on it without communication.

    Two steps of a job, two restarts, and jobs whose numbers end alike get different ports, except
    with a chance of one in 12,000. If two runs still meet on a port, `meeting.meet` detects it.
    """
    digest = hashlib.blake2b(f"{job_id}.{step_id}.{restart}".encode(), digest_size=8).digest()
    return _FIRST_PORT + int.from_bytes(digest, "little") % _PORTS


def prepare_rendezvous(environment: MutableMapping[str, str] | None = None) -> None:
    """Set MASTER_PORT for the tasks of an srun; a value inherited from a shell is replaced."""
    env = os.environ if environment is None else environment
    if not in_slurm_step(env):
        return
    job = Job.here(env)
    env["MASTER_PORT"] = str(master_port(job.job_id, job.step_id, job.restart))
