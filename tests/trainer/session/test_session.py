"""How sessions count themselves, end, and say why."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dawnchorus.slurm.runs import state_of
from dawnchorus.trainer.errors import DataError, Interrupted, NoProgress, Preempted, RunBusy
from dawnchorus.trainer.session.attempts import read_attempts, record_attempt
from dawnchorus.trainer.session.failures import first_failure, note_failure
from dawnchorus.trainer.session.job import Job
from dawnchorus.trainer.session.lease import leases
from dawnchorus.trainer.session.session import Session

JOB = Job("7", 0, "0", "n1", 1)


def session(folder: Path, rank: int = 0) -> Session:
    return Session(folder, rank, hang_after_s=None)


def begun(folder: Path) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: x\n")
    return folder


def test_the_same_step_three_times_is_the_end_of_automatic_restarts(tmp_path: Path) -> None:
    for restart in range(3):
        record_attempt(tmp_path, Job("7", restart, "0", "n1", 1), 40)
    with pytest.raises(NoProgress, match="started 3 times at step 40"):
        record_attempt(tmp_path, Job("7", 3, "0", "n1", 1), 40)
    assert len(read_attempts(tmp_path)) == 3
    # A person who submits it again is let in, and so is a job that moves on.
    record_attempt(tmp_path, Job("8", 0, "0", "n1", 1), 40)
    for step in (40, 41, 42, 43, 43, 43):
        record_attempt(tmp_path, Job("8", 1, "0", "n1", 1), step)
    for _ in range(5):
        record_attempt(tmp_path, Job("", 0, "", "laptop", 1), 43)


def test_a_preempted_session_leaves_a_marker_and_the_next_one_takes_it(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with pytest.raises(Preempted), session(run):
        raise Preempted("saved")
    assert json.loads((run / "requeue.json").read_text())["reason"] == "preempted"
    assert first_failure(run) is None
    with session(run) as again:
        again.begin(3)
        assert not (run / "requeue.json").exists()
    assert sorted(p.name for p in run.iterdir()) == ["attempts.jsonl", "recipe.yaml"]


def test_a_refused_command_says_nothing_about_the_run_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    with pytest.raises(Preempted), session(run):
        raise Preempted("saved")
    with pytest.raises(DataError), session(run):
        raise DataError("the run folder holds a run of another recipe")
    assert first_failure(run) is None and (run / "requeue.json").is_file()
    assert state_of(run, {}).state == "pre-empted"
    # The job of this very run has nobody else to tell.
    monkeypatch.setenv("CHORUS_RUN", str(run))
    with pytest.raises(DataError), session(run):
        raise DataError("there is no dataset folder /nowhere")
    assert first_failure(run) is not None
    assert state_of(run, {}).state == "failed"


def test_ctrl_c_asks_nobody_to_come_back(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with pytest.raises(Interrupted), session(run) as now:
        now.begin(0)
        raise Interrupted("saved")
    assert first_failure(run) is None and not (run / "requeue.json").exists()
    assert state_of(run, {}).state == "stopped"
    assert Interrupted.exit_code == 75


def test_a_failure_is_noted_with_its_trace_and_a_busy_folder_is_left_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with session(run):
        with pytest.raises(RunBusy), session(run):
            pass
        assert leases(run)
    with pytest.raises(DataError), session(run) as now:
        now.begin(0)
        raise DataError("there is no dataset folder /nowhere: check the path")
    note = first_failure(run)
    assert note is not None and "DataError: there is no dataset folder /nowhere" in note
    assert "Traceback" in note and "rank 0" in note


def test_a_mistake_in_a_new_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError), session(tmp_path / "runs" / "new"):
        raise DataError("wrong")
    assert not (tmp_path / "runs" / "new").exists()


def test_a_submitted_run_that_never_began_has_a_note_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHORUS_RUN", str(tmp_path))
    (tmp_path / "submitted.yaml").write_text("name: x\n")
    with pytest.raises(DataError), session(tmp_path):
        raise DataError("there is no dataset folder")
    assert "there is no dataset folder" in (first_failure(tmp_path) or "")


def test_the_first_of_many_failed_ranks_is_the_one_to_read(tmp_path: Path) -> None:
    note_failure(tmp_path, JOB, 3, ValueError("the cause"))
    time.sleep(0.01)
    for rank in (0, 1, 2):
        note_failure(tmp_path, JOB, rank, RuntimeError("Connection closed by peer"))
    assert "the cause" in (first_failure(tmp_path) or "")
    time.sleep(0.01)
    note_failure(tmp_path, Job("7", 1, "0", "n2", 1), 1, ValueError("another day"))
    assert "another day" in (first_failure(tmp_path) or "")
    assert "the cause" in (first_failure(tmp_path, "job7.0") or "")


HANGS = """
import sys, threading, time
from pathlib import Path
from dawnchorus.trainer.session.lease import leases
from dawnchorus.trainer.session.session import Session
run = Path(sys.argv[1])
session = Session(run, 1, hang_after_s=8.0)
session.watchdog._grace_s = 0.2
def stands_here():
    if sys.argv[2] == "python":
        time.sleep(600)
    else:
        import re
        re.match(r"(a+)+$", "a" * 40 + "b")  # holds the interpreter's lock for hours
with session, session.watchdog:
    for _ in range(4):
        time.sleep(0.5)
        session.beat("step 3")
    stands_here()
"""


@pytest.mark.parametrize("where", ["python", "c"])
def test_a_rank_that_hangs_writes_its_stacks_and_ends(tmp_path: Path, where: str) -> None:
    run = begun(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(run), where], capture_output=True, text=True, timeout=300
    )
    assert "stands_here" in (run / "failures" / "local-rank1.stacks").read_text()
    if where == "python":
        assert done.returncode == 77
        assert "after step 3" in done.stderr
        assert "Hung" in (first_failure(run) or "")
        assert json.loads((run / "requeue.json").read_text())["reason"] == "hung"
    else:
        assert done.returncode == 1  # the backstop can say nothing


def test_a_session_that_ends_well_leaves_no_stacks(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    quick = Session(run, 0, hang_after_s=5.0)
    assert quick.watchdog is not None
    with quick, quick.watchdog:
        quick.beat("all")
    assert not list((run / "failures").iterdir())
