"""One job at a time in a run folder, whatever became of the one before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.errors import RunBusy
from trainer.runtime.job import Job
from trainer.runtime.lock import RunLock

JOB = Job("41", 0, "0", "n1", os.getpid())
OTHER = Job("42", 0, "0", "n2", os.getpid())


def test_the_second_job_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run", JOB):
        with (
            pytest.raises(RunBusy, match=r"job 41 works.*scancel 41"),
            RunLock(tmp_path / "run", OTHER),
        ):
            pass
        assert json.loads((tmp_path / "run" / "lock.json").read_text())["job_id"] == "41"
    assert list((tmp_path / "run").iterdir()) == []
    with RunLock(tmp_path / "run", OTHER):
        pass


def test_a_requeued_job_takes_over_from_itself_at_once(tmp_path: Path) -> None:
    first = RunLock(tmp_path, JOB, renew_s=60)
    first.__enter__()  # and never leaves: its node is dead
    again = replace(JOB, restart=1, host="n2")
    with RunLock(tmp_path, again), pytest.raises(RunBusy), RunLock(tmp_path, JOB):
        pass  # the old session comes back to life: it is the one that has to go
    first._released.set()


def test_a_killed_process_on_this_machine_leaves_nothing_to_wait_for(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path\n"
        "from trainer.runtime.job import Job; from trainer.runtime.lock import RunLock\n"
        "RunLock(Path(sys.argv[1]), Job.here()).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert (tmp_path / "lock.json").is_file()
    with RunLock(tmp_path, Job.here()):
        pass


def test_a_lease_that_nobody_renews_runs_out_and_one_that_is_renewed_does_not(
    tmp_path: Path,
) -> None:
    with RunLock(tmp_path, JOB, renew_s=0.1, lease_s=3.0):
        time.sleep(3.5)
        with pytest.raises(RunBusy), RunLock(tmp_path, OTHER, lease_s=3.0):
            pass
    silent = RunLock(tmp_path, JOB, renew_s=60)
    silent.__enter__()
    os.utime(tmp_path / "lock.json", (time.time() - 100, time.time() - 100))
    with RunLock(tmp_path, OTHER):
        pass
    silent._released.set()


def test_who_lost_the_lease_is_told(tmp_path: Path) -> None:
    lost = threading.Event()
    frozen = RunLock(tmp_path, JOB, lost.set, renew_s=0.1)
    with frozen:
        (tmp_path / "lock.json").unlink()
        with RunLock(tmp_path, OTHER):
            assert lost.wait(5)
        # Leaving must not take away what belongs to another.
        (tmp_path / "lock.json").write_text('{"token": "x"}')
    assert (tmp_path / "lock.json").is_file()


def test_of_many_who_see_a_void_lease_one_wins(tmp_path: Path) -> None:
    silent = RunLock(tmp_path, JOB, renew_s=60)
    silent.__enter__()
    silent._released.set()
    os.utime(tmp_path / "lock.json", (time.time() - 100, time.time() - 100))
    won, start = [], threading.Barrier(8)

    def contend(number: int) -> None:
        start.wait()
        try:
            RunLock(tmp_path, replace(OTHER, job_id=str(100 + number)), renew_s=60).__enter__()
        except RunBusy:
            return
        won.append(number)

    threads = [threading.Thread(target=contend, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert json.loads((tmp_path / "lock.json").read_text())["job_id"] == str(100 + won[0])
