"""What becomes of a job when its ranks have ended: who is queued again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dawnchorus.slurm.profile import ClusterProfile
from dawnchorus.slurm.script import JobScript
from dawnchorus.slurm.verdict import verdict
from dawnchorus.trainer.errors import RankMismatch
from dawnchorus.trainer.session.failures import note_failure
from dawnchorus.trainer.session.job import Job

JOB = Job("7", 0, "0", "n1", 1)


def script(**changes: Any) -> JobScript:
    values: dict[str, Any] = {
        "name": "x", "title": "a run", "run": Path("/data/runs/it's x"),
        "command": ("chorus", "train", "/data/runs/it's x/submitted.yaml"),
        "profile": ClusterProfile(nodes=2, gpus_per_node=4), "code": Path("/data/code"),
    }  # fmt: skip
    return JobScript(**(values | changes))


def marked(run: Path, restart: int = 0, reason: str = "preempted") -> None:
    (run / "requeue.json").write_text(
        json.dumps({"job": "7", "restart": restart, "reason": reason})
    )


def test_who_comes_back(tmp_path: Path) -> None:
    assert not verdict(tmp_path, 0, JOB, 9).again
    for code in (1, 2, 76, 78):
        assert not verdict(tmp_path, code, JOB, 9).again
    assert verdict(tmp_path, 137, JOB, 9).again  # a task was killed
    assert verdict(tmp_path, 137, JOB, 9).code == 137
    marked(tmp_path)
    assert verdict(tmp_path, 75, JOB, 9).again
    # srun reports the highest code of all tasks: the marker counts.
    assert verdict(tmp_path, 143, JOB, 9).again and verdict(tmp_path, 1, JOB, 9).again
    later = Job("7", 9, "0", "n1", 1)
    assert not verdict(tmp_path, 75, later, 9).again  # the marker is an old one
    marked(tmp_path, restart=9)
    found = verdict(tmp_path, 75, later, 9)
    assert not found.again and "max_requeues" in found.reason


def test_a_rank_that_failed_does_not_come_back_but_one_that_lost_the_others_does(
    tmp_path: Path,
) -> None:
    note_failure(tmp_path, JOB, 0, RuntimeError("[gloo] Connection closed by peer [127.0.0.2]"))
    assert verdict(tmp_path, 137, JOB, 9).again
    # All of them only lost each other: whatever it was, it was outside.
    assert verdict(tmp_path, 1, JOB, 9).again
    # Another job had the port: one rank could not listen, the other met that job's.
    taken = tmp_path / "taken"
    note_failure(taken, JOB, 1, RankMismatch("the processes that met do not belong together: ..."))
    note_failure(taken, JOB, 0, RuntimeError("DistNetworkError: ... address already in use"))
    assert verdict(taken, 1, JOB, 9).again
    other = tmp_path / "other"
    note_failure(other, JOB, 1, ValueError("a bug"))
    note_failure(other, JOB, 0, RuntimeError("Connection closed by peer"))
    found = verdict(other, 137, JOB, 9)
    assert not found.again and found.reason == "a rank failed"
    assert found.code == 1  # of the bug, not of the rank that was killed for it


def test_a_refusal_of_one_rank_is_final_though_srun_kills_the_other(tmp_path: Path) -> None:
    """srun reports 137 of the rank that it killed, not 2 of the rank that refused."""
    env = os.environ | {
        "CHORUS_RUN": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
    }  # fmt: skip
    program = "import sys; sys.argv[0] = 'chorus'; from dawnchorus.trainer.cli import main; main()"
    refused = subprocess.run(
        [sys.executable, "-c", program, "train", "no_such_recipe"], env=env, capture_output=True
    )
    assert refused.returncode == 2
    found = verdict(tmp_path, 137, JOB, 50)
    assert not found.again and found.reason == "the recipe or the data is wrong"
    assert found.code == 2
    assert verdict(tmp_path, 137, Job("8", 0, "0", "n1", 1), 50).again
