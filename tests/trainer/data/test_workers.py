"""Loader workers in real processes: signals that reach a whole job step, and a parent that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Prints the workers' ids, then a line for each batch; goes on when a line comes in.
PROGRAM = """
import multiprocessing, signal, sys
if "block" in sys.argv:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})
from dawnchorus.trainer.data.config import DataConfig, SourceConfig
from dawnchorus.trainer.data.module import TrainStream, train_loader
stream = TrainStream(DataConfig(train={"t": SourceConfig(path=sys.argv[1])}, window_s=1.0), seed=1)
batches = iter(train_loader(stream, first_position=0, micro_batch=4, workers=2))
first = next(batches)
print(*[p.pid for p in multiprocessing.active_children()], flush=True)
for line in sys.stdin:
    print(next(batches)["position_B"].tolist(), flush=True)
print("done", flush=True)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.fixture(params=["as usual", "block"])
def program(
    request: pytest.FixtureRequest, tone_dataset: Path
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tone_dataset), request.param],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    yield process, pids
    for pid in (process.pid, *pids):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_workers_outlive_the_signals_of_a_job_step_and_end_with_the_program(
    program: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, pids = program
    assert ask(process) == "[4, 5, 6, 7]"  # the second worker's: both are at work
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(0.1)
    for step in range(2, 12):
        assert ask(process) == str(list(range(4 * step, 4 * step + 4)))
    assert all(map(alive, pids))
    out, err = process.communicate(timeout=300)
    assert (out.strip(), err, process.returncode) == ("done", "", 0)
    assert gone_within(pids, 300.0)


def test_workers_die_with_their_parent(
    program: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, pids = program
    assert ask(process) == "[4, 5, 6, 7]"
    process.kill()
    assert gone_within(pids, 300.0)


def test_a_parents_sigterm_ends_a_worker(tmp_path: Path) -> None:
    """`Process.terminate()` is how multiprocessing gets rid of a worker at exit."""
    code = """
import multiprocessing, time
from dawnchorus.trainer.data.workers import start_worker
def work(ready):
    start_worker(0)
    ready.set()
    time.sleep(600)
if __name__ == "__main__":
    ready = multiprocessing.Event()
    worker = multiprocessing.Process(target=work, args=(ready,))
    worker.start()
    ready.wait()
    worker.terminate()
    worker.join(300)
    print(worker.exitcode)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    out = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=400, check=True
    )
    assert out.stdout.split() == ["0"]
