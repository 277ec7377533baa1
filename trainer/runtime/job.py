"""What the scheduler says of this process: which job, which restart, which port to meet on.

Facts about SLURM's variables: `man srun`, OUTPUT ENVIRONMENT VARIABLES. Nothing here parses a list
of nodes; the job script asks `scontrol show hostnames` for the first of them.
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
    """SLURM's job id, of an array task "<array job>_<task>"; empty outside SLURM."""
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
        """For people: "job 1234, restart 1", or host and process."""
        if not self.job_id:
            return f"process {self.pid} on {self.host}"
        again = f", restart {self.restart}" if self.restart else ""
        return f"job {self.job_id}{again}"

    @property
    def session(self) -> str:
        """For file names, the same on all ranks of a SLURM step: "job1234.1", or "local"."""
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
        # A shell within a job: what is started there by hand has no other tasks beside it.
        and env.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    )


def master_port(job_id: str, step_id: str, restart: int) -> int:
    """A port that the tasks of one srun agree on without talking.

    Two steps of a job, two restarts, and jobs whose numbers end alike get different ones (but for
    one chance in 12,000); whoever meets a stranger all the same finds out by `meeting.meet`.
    """
    digest = hashlib.blake2b(f"{job_id}.{step_id}.{restart}".encode(), digest_size=8).digest()
    return _FIRST_PORT + int.from_bytes(digest, "little") % _PORTS


def prepare_rendezvous(environment: MutableMapping[str, str] | None = None) -> None:
    """Set MASTER_PORT for the tasks of an srun; a value inherited from a shell is never used."""
    env = os.environ if environment is None else environment
    if not in_slurm_step(env):
        return
    job = Job.here(env)
    env["MASTER_PORT"] = str(master_port(job.job_id, job.step_id, job.restart))
