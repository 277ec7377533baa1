"""What the scheduler's variables mean, and that strangers are noticed."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest
import torch.distributed as dist

from trainer.errors import ChorusError
from trainer.runtime.job import Job, compare_sessions, master_port, prepare_rendezvous

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


def _rank(rank: int, port: int, facts: dict[str, object], answers: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        answers.put((rank, compare_sessions(facts)))
    except ChorusError as error:
        answers.put((rank, str(error)))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.parametrize(
    "other", [{"session": "job1.0", "step": 3}, {"session": "job7.0", "step": 2}]
)
def test_ranks_of_two_runs_part_again(other: dict[str, object]) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    port = master_port(str(os.getpid()), str(other["session"]), 0)
    everybody = ({"session": "job1.0", "step": 3}, other)
    ranks = [
        context.Process(target=_rank, args=(r, port, facts, answers))
        for r, facts in enumerate(everybody)
    ]
    for process in ranks:
        process.start()
    told = dict(answers.get(timeout=300) for _ in ranks)
    for process in ranks:
        process.join()
    if other == everybody[0]:
        assert [len(hosts) for hosts in told.values()] == [2, 2]
    else:
        for message in told.values():
            assert "do not belong together" in message
            assert "rank 1" in message and "job7.0" in message and "step 2" in message
