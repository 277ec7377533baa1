"""What can go wrong with a job, done to it; each ends with the weights of an untouched run."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dawnchorus.trainer.session.lease import leases

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


STEPS = 120
"""Of every run here, so that one untouched run is compared with all. A step takes a tenth of a
second, and the last fault must come in time on a busy machine."""


def ends_right(run, expected, same_state):
    """The job ends well, with the same weights, and every step stands once."""
    run.wait("COMPLETED", timeout_s=500)
    assert same_state(run.checkpoint(), expected)
    assert run.steps() == list(range(1, STEPS + 1))
    return 1


def test_asked_to_stop_again_and_again(submit, uninterrupted, same_state, outcome, cluster):
    """Before the limit, twice but one rank alone, during the imports, by pre-emption."""
    expected = uninterrupted(STEPS)
    # SLURM looks at its clock twice a minute and knows no limit below one.
    limit = ("cluster.time=2:00", "cluster.signal_s=60", "cluster.stuck_s=300")
    run = submit("asked", "cluster.partition=low", *limit, steps=STEPS)

    run.wait_for_step(6)
    before = run.restarts()
    assert signal_task(run.job_id, "1", "STOP") == 1  # both stand still; SLURM's clock does not
    run.wait_for_restart(before + 1)  # SLURM signals both, and wakes whom it signals
    cluster.run("scontrol", "update", f"JobId={run.job_id}", "TimeLimit=10")

    run.wait_for_step(20)
    for _ in range(2):
        assert signal_task(run.job_id, "1", "USR1") == 1
    run.wait_for_restart(before + 2)

    until(lambda: tasks(run.job_id), 240)
    cluster.run("scancel", "--signal=USR1", run.job_id)
    run.wait_for_restart(before + 3)

    run.wait_for_step(45)
    other = cluster.run("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "--wrap",
                        "sleep 3", "-o", "/dev/null")  # fmt: skip
    cluster.wait_for_job(other, "COMPLETED")
    run.wait_for_restart(before + 4)

    right = ends_right(run, expected, same_state)
    for fault in ("time limit near: SLURM's own SIGUSR1", "SIGUSR1 twice, to one rank",
                  "SIGUSR1 during the imports", "partition pre-emption"):  # fmt: skip
        outcome(fault, 1, right, 0)
    assert run.repeated() == 0
    events = [x["event"] for x in run.metrics() if x["kind"] == "event"]
    # The one during the imports may come before there is a run to say so.
    assert events.count("preempted") - before in (3, 4), events
    assert events[0] == "started" and events[-1] == "finished"


def test_nodes_and_processes_die_one_after_the_other(
    submit, uninterrupted, same_state, outcome, cluster
):
    expected = uninterrupted(STEPS)
    run = submit("dying", steps=STEPS)
    repeated = [0]

    def count(fault):
        repeated.append(run.repeated())
        outcome(fault, 1, 1, repeated[-1] - repeated[-2])

    run.wait_for_step(8)
    cluster.kill_node("n2")
    run.wait("PENDING")  # SLURM has noticed that the node is gone, and put the job back
    cluster.start_node("n2")
    run.wait_for_restart(1)

    # Its tasks are gone, and SLURM has noticed nothing: srun would wait for ever.
    run.wait_for_step(30)
    count("power failure of a node")
    cluster.kill_node("n2")
    cluster.start_node("n2")
    run.wait_for_restart(2)

    run.wait_for_step(50)
    count("node away for a moment")
    cluster.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")
    until(lambda: not step_daemons(run.job_id), 240)
    run.wait("PENDING")
    # Nobody has told n1 that the job ended: given back as it is, it refuses the next start of it
    # ("Duplicate jobid") and SLURM drains it. It is started anew, as after a repair.
    cluster.kill_node("n1")
    cluster.start_node("n1")
    cluster.run("scontrol", "update", "NodeName=n1", "State=RESUME")
    run.wait_for_restart(3)

    run.wait_for_step(65)
    count("node set down")
    assert signal_task(run.job_id, "1", "KILL") == 1
    run.wait_for_restart(4)
    ends_right(run, expected, same_state)
    count("SIGKILL of one rank")
    assert "is queued again: the ranks lost each other" in run.log()


def test_cancelled_means_ended_and_the_same_submission_continues(
    submit, uninterrupted, same_state, outcome, chorus, cluster
):
    expected = uninterrupted(STEPS)
    run = submit("cancelled", steps=STEPS)
    run.wait_for_step(6)
    runs = str(cluster.here / "runs")
    assert "saves before it ends" in chorus("cancel", "cancelled", "--runs", runs).stdout
    job = run.wait("CANCELLED")
    assert job["Restarts"] == "0"
    time.sleep(8)  # longer than a requeued job is held
    assert cluster.job(run.job_id)["JobState"] == "CANCELLED"
    assert not list((run.folder / "checkpoints").glob(".*.tmp"))
    assert not leases(run.folder)
    again = submit("cancelled", steps=STEPS)
    outcome("scancel, submitted again", 1, ends_right(again, expected, same_state), run.repeated())
    assert again.repeated() == 0


def test_the_second_job_on_a_run_folder_is_refused(submit, chorus, cluster, outcome):
    run = submit("taken", steps=3000)
    run.wait_for_step(3)
    done = chorus("submit", "sl_beats_tiny", "cluster=test", f"runs={cluster.here}/runs",
                  "name=taken", f"data.train.main.path={cluster.here}/data/tones",
                  check=False)  # fmt: skip
    assert done.returncode == 2 and f"job {run.job_id} works in" in done.stderr
    # By hand, past `chorus submit`: the job itself refuses, naming the first.
    other = cluster.run("sbatch", "--parsable", str(run.folder / "job.sh"))
    refused = cluster.wait_for_job(other, "FAILED")
    assert (refused["ExitCode"], refused["Restarts"]) == ("2:0", "0")
    log = (run.folder / "logs" / f"slurm-{other}.log").read_text()
    assert f"job {run.job_id} works in the run folder" in log
    assert f"job {other} stays ended: the recipe or the data is wrong" in log
    reached = max(run.steps())
    cluster.run("scancel", run.job_id)
    run.wait("CANCELLED")
    assert run.steps() == list(range(1, len(run.steps()) + 1)) and len(run.steps()) > reached
    outcome("second job on the same run folder", 1, 1, run.repeated())


def test_a_full_disk_at_a_checkpoint(submit, uninterrupted, same_state, outcome, cluster):
    expected = uninterrupted(STEPS)
    if not cluster.has_small_disk:
        pytest.skip("this machine does not let tests mount a file system")
    often = ["train.checkpoint_every=1", "train.keep_last=1"]
    run = submit("full", *often, steps=STEPS, runs=cluster.small)
    run.wait_for_step(3)
    filler = cluster.small / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"x" * 65536)
                file.flush()
        except OSError:
            pass
    job = run.wait("FAILED")
    assert job["ExitCode"] == "2:0"
    assert "make room" in run.log()
    filler.unlink()
    assert not list((run.folder / "checkpoints").glob(".*.tmp"))
    again = submit("full", *often, steps=STEPS, runs=cluster.small)
    outcome("full disk at checkpoint time", 1, ends_right(again, expected, same_state),
            again.repeated())  # fmt: skip


def test_ten_random_kills_in_a_row(submit, uninterrupted, same_state, outcome, cluster):
    kills = 10
    expected = uninterrupted(STEPS)
    run = submit("ten-kills", steps=STEPS)
    rng = random.Random(4)
    for kill in range(kills):
        if kill % 2:  # anywhere in its start
            until(lambda: tasks(run.job_id), 240)
            time.sleep(rng.uniform(0, 6))
        else:  # beyond a checkpoint: three starts in a row that lead nowhere would be the last
            run.wait_for_step(5 * (kill + 1) + rng.randrange(3))
        if kill % 4 == 2:
            cluster.run("scancel", "--signal=USR1", run.job_id)
        else:
            rank = str(rng.randrange(2))
            until(lambda rank=rank: signal_task(run.job_id, rank, "KILL"), 240)
        run.wait_for_restart(kill + 1)
    right = ends_right(run, expected, same_state)
    outcome("ten random kills in a row", kills, kills * right, run.repeated())


def test_the_network_is_cut_for_longer_than_the_meeting_takes_and_a_rank_stands_still(
    cabled_cluster, submit, same_state, uninterrupted, outcome
):
    expected = uninterrupted(STEPS)
    run = submit("cut", "train.watchdog_minutes=0.5", on=cabled_cluster, steps=STEPS)
    run.wait_for_step(6)
    cabled_cluster.cut_network("n2")
    # A shorter cut does nothing: the ranks wait for each other, and go on.
    run.wait("PENDING")
    cabled_cluster.heal_network("n2")
    run.wait_for_restart(1)

    run.wait_for_step(30)
    lost, before = run.repeated(), len(run.stacks(0))
    assert signal_task(run.job_id, "1", "STOP") == 1
    until(lambda: len(run.stacks(0)) > before, 240)  # it waited, and says where
    run.wait_for_restart(2)
    assert "this rank hangs, or waits for one that does" in run.log()

    right = ends_right(run, expected, same_state)
    outcome("network cut", 1, right, lost)
    outcome("a rank stands still: watchdog", 1, right, run.repeated() - lost)


def test_two_nodes_become_one_and_one_becomes_two(submit, outcome):
    run = submit("elastic", steps=60)
    run.wait_for_step(6)
    run.cluster.run("scancel", run.job_id)
    run.wait("CANCELLED")
    one = submit("elastic", steps=60, shape=("cluster.nodes=1", "cluster.tasks_per_node=1"))
    one.wait_for_step(13)
    one.cluster.run("scancel", one.job_id)
    one.wait("CANCELLED")
    two = submit("elastic", steps=60)
    two.wait("COMPLETED")
    assert two.steps() == list(range(1, 61))
    starts = [x["ranks"] for x in two.metrics() if x.get("event") in ("started", "resumed")]
    assert starts == [2, 1, 2]
    outcome("2 nodes -> 1 node -> 2 nodes", 2, 2, two.repeated())


# --------------------------------------------------------------------------- its tools


def until(true: Callable[[], object], seconds: float) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def tasks(job_id: str) -> dict[str, int]:
    """{rank: pid on this machine} of a job's training processes."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitted.yaml" not in command or b"chorus" not in command or b"srun" in command:
            continue
        env = dict(v.split(b"=", 1) for v in variables if b"=" in v)
        if env.get(b"SLURM_JOB_ID") == job_id.encode() and b"SLURM_PROCID" in env:
            found[env[b"SLURM_PROCID"].decode()] = int(process.name)
    return found


def step_daemons(job_id: str) -> list[str]:
    """What SLURM itself still runs for a job, on any node."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((process / "cmdline").read_text(errors="replace"))
    return [x for x in found if x.startswith(f"slurmstepd: [{job_id}.")]


def signal_task(job_id: str, rank: str, name: str) -> int:
    """Send a signal to one rank of a job; returns how many processes it reached."""
    pid = tasks(job_id).get(rank)
    if pid is None:
        return 0
    return int(subprocess.run(["kill", f"-{name}", str(pid)], check=False).returncode == 0)
