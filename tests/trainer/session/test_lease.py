"""One job at a time in a run folder, whatever became of the one before."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dawnchorus.trainer.errors import RunBusy
from dawnchorus.trainer.session.job import Job
from dawnchorus.trainer.session.lease import RunLock

JOB = Job("41", 0, "0", "n1", os.getpid())
OTHER = Job("42", 0, "0", "n2", os.getpid())


def quiet(folder: Path, job: Job) -> RunLock:
    """One that does not look after its lease, nor end this process when another has it."""
    return RunLock(folder, job, lambda: None, renew_s=60)


def test_the_second_job_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run", JOB):
        with (
            pytest.raises(RunBusy, match=r"job 41 works.*scancel 41"),
            RunLock(tmp_path / "run", OTHER),
        ):
            pass
        assert json.loads((tmp_path / "run" / "lock.1.json").read_text())["job_id"] == "41"
    assert list((tmp_path / "run").iterdir()) == []
    with RunLock(tmp_path / "run", OTHER):
        pass


def test_a_requeued_job_takes_over_from_itself_at_once(tmp_path: Path) -> None:
    first = quiet(tmp_path, JOB)
    first.__enter__()  # and never leaves: its node is dead
    again = replace(JOB, restart=1, host="n2")
    with RunLock(tmp_path, again), pytest.raises(RunBusy), RunLock(tmp_path, JOB):
        pass  # the old session comes back to life: it is the one that has to go
    first._released.set()


def test_a_killed_process_on_this_machine_leaves_nothing_to_wait_for(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path\n"
        "from dawnchorus.trainer.session.job import Job\n"
        "from dawnchorus.trainer.session.lease import RunLock\n"
        "RunLock(Path(sys.argv[1]), Job.here()).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert (tmp_path / "lock.1.json").is_file()
    with RunLock(tmp_path, Job.here()):
        pass


def test_a_lease_that_nobody_renews_runs_out_and_one_that_is_renewed_does_not(
    tmp_path: Path,
) -> None:
    with RunLock(tmp_path, JOB, renew_s=0.1):
        os.utime(tmp_path / "lock.1.json", (time.time() - 100, time.time() - 100))
        end = time.monotonic() + 300
        while time.time() - (tmp_path / "lock.1.json").stat().st_mtime > 50:
            assert time.monotonic() < end, "nobody renews it"
            time.sleep(0.01)
        with pytest.raises(RunBusy), RunLock(tmp_path, OTHER):
            pass
    silent = quiet(tmp_path, JOB)
    silent.__enter__()
    os.utime(tmp_path / "lock.1.json", (time.time() - 100, time.time() - 100))
    with RunLock(tmp_path, OTHER):
        pass
    silent._released.set()


def test_what_killed_claimants_left_goes_with_the_next_one(tmp_path: Path) -> None:
    old, new = tmp_path / ".lock.dead", tmp_path / ".lock.alive"
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 100, time.time() - 100))
    with RunLock(tmp_path, JOB):
        assert not old.exists() and new.exists()


def test_who_lost_the_lease_is_told(tmp_path: Path) -> None:
    lost = threading.Event()
    frozen = RunLock(tmp_path, JOB, lost.set, renew_s=0.1)
    with frozen:
        (tmp_path / "lock.1.json").unlink()
        with RunLock(tmp_path, OTHER):
            assert lost.wait(300)
        # Leaving must not take away what belongs to another.
        (tmp_path / "lock.1.json").write_text('{"token": "x"}')
    assert (tmp_path / "lock.1.json").is_file()


@pytest.fixture
def void(tmp_path: Path) -> Path:
    """A run folder whose owner has shown no sign of life for 100 s."""
    silent = quiet(tmp_path, JOB)
    silent.__enter__()
    silent._released.set()
    os.utime(tmp_path / "lock.1.json", (time.time() - 100, time.time() - 100))
    return tmp_path


def contend(locks: Sequence[RunLock]) -> list[RunLock]:
    """The ones who get in, of many who want to at once."""
    won, start = [], threading.Barrier(len(locks))

    def enter(lock: RunLock) -> None:
        start.wait()
        with contextlib.suppress(RunBusy):
            won.append(lock.__enter__())

    threads = [threading.Thread(target=enter, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lock in won:
        lock._released.set()
    return won


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_see_a_void_lease_one_wins(
    void: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    jobs = [replace(OTHER, job_id=str(100 + i)) for i in range(8)]
    (won,) = contend([quiet(void, job) for job in jobs])
    (path,) = void.iterdir()
    assert json.loads(path.read_text())["job_id"] == won.job.job_id


def no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "this file system has no hard links")


class Slow(RunLock):
    """Stands still between looking who is there and claiming, while something happens."""

    def __init__(self, folder: Path, happens: Callable[[], object]) -> None:
        super().__init__(folder, replace(OTHER, job_id="200"), lambda: None, renew_s=60)
        self._happens = [happens]

    def _create(self, path: Path) -> bool:
        if self._happens:
            self._happens.pop()()
        return super()._create(path)


def test_who_stood_still_before_claiming_does_not_get_what_is_anothers_by_now(void: Path) -> None:
    second, third = quiet(void, JOB), quiet(void, OTHER)

    def two_later() -> None:
        with second:  # takes over, under another number, and has done
            pass
        third.__enter__()  # the first number again

    with pytest.raises(RunBusy, match="job 42 works"), Slow(void, two_later):
        pass
    (path,) = void.iterdir()
    assert path == third.path
    third.__exit__()
    with Slow(void, lambda: None):
        pass


def test_whoever_holds_the_lease_is_alone(void: Path) -> None:
    """Many come and go, and stand still on the way in."""
    stalls, inside, together = random.Random(0), [], []

    def stay(number: int) -> None:
        for _ in range(20):
            lock = Slow(void, lambda: time.sleep(stalls.uniform(0, 0.01)))
            with contextlib.suppress(RunBusy), lock:
                inside.append(number)
                time.sleep(0.002)
                together.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=stay, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together and set(together) == {1}
    assert list(void.iterdir()) == []
