"""What the scheduler's variables mean."""

from __future__ import annotations

import os

import pytest

from dawnchorus.trainer.session.job import Job, master_port, prepare_rendezvous

STEP = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
    "SLURM_JOB_NAME": "train",
}  # fmt: skip


def test_job_of_a_step_of_an_array_and_of_nothing() -> None:
    job = Job.here(STEP | {"SLURM_RESTART_COUNT": "2"})
    assert (job.job_id, job.restart, job.session) == ("1234", 2, "job1234.2")
    assert job.name == "job 1234, restart 2"
    array = {"SLURM_ARRAY_JOB_ID": "1230", "SLURM_ARRAY_TASK_ID": "4"}
    assert Job.here(STEP | array).job_id == "1230_4"
    assert Job.here({}).job_id == "" and str(os.getpid()) in Job.here({}).name
    # In the batch script itself, and in an interactive shell, nobody else will come.
    assert Job.here({k: v for k, v in STEP.items() if k != "SLURM_STEP_ID"}).job_id == ""


def test_ports_differ_by_step_and_restart_and_for_jobs_that_end_alike() -> None:
    ports = {master_port(job, step, restart) for job in ("1234", "11234", "21234")
             for step in ("0", "1") for restart in (0, 1)}  # fmt: skip
    assert len(ports) == 12
    assert all(20000 <= port < 32000 for port in ports)


def test_an_inherited_port_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    env: dict[str, str] = STEP | {"MASTER_PORT": "29500"}
    prepare_rendezvous(env)
    assert env["MASTER_PORT"] == str(master_port("1234", "0", 0))
    outside = {"MASTER_PORT": "29500"}
    prepare_rendezvous(outside)
    assert outside == {"MASTER_PORT": "29500"}
