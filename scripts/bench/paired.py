"""Comparing two programs on a busy machine: in turn, in one run, by the ratio of neighbours.

A ratio of two measurements taken seconds apart survives what a table of seconds does not: other
jobs, frequency changes, another machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
AVEX_PYTHON = REPO / ".venv-avex" / "bin" / "python"
NO_AVEX = f"skipped: no {AVEX_PYTHON.parent.parent.name} here (scripts/avex_env.sh makes it)"


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    wall_s: float
    cpu_s: float
    """Processor seconds of all threads; waiting for a core does not count."""


def measure(work: Callable[[], object]) -> Sample:
    """Run `work` once and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


class AvexWorker:
    """avex in its own environment, asked over a pipe so that its runs alternate with ours."""

    def __init__(self, threads: int) -> None:
        self._process = subprocess.Popen(
            [str(AVEX_PYTHON), str(Path(__file__).with_name("avex_worker.py")), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def run(self, task: str) -> Sample:
        """Let it do a task of `avex_worker.TASKS` once."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the avex worker ended while it ran {task!r}")
        return Sample(**json.loads(answer))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def interleave(
    sides: Sequence[Callable[[], Sample]], repeats: int, warm_ups: int = 1
) -> list[list[Sample]]:
    """`repeats` samples of each side, taken in turn; the order within a turn alternates."""
    samples: list[list[Sample]] = [[] for _ in sides]
    for turn in range(-warm_ups, repeats):
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            sample = sides[side]()
            if turn >= 0:
                samples[side].append(sample)
    return samples


def print_ratio(name: str, ours: Sequence[Sample], theirs: Sequence[Sample], target: float) -> bool:
    """Print one comparison; true where the median ratio of wall times meets the target."""
    wall = sorted(a.wall_s / b.wall_s for a, b in zip(ours, theirs, strict=True))
    cpu = statistics.median(a.cpu_s / b.cpu_s for a, b in zip(ours, theirs, strict=True))
    best = min(s.wall_s for s in ours), min(s.wall_s for s in theirs)
    median = statistics.median(wall)
    passed = median <= target
    print(
        f"{name:44s} ratio {median:.3f} (min {wall[0]:.3f}, max {wall[-1]:.3f}; of processor "
        f"time {cpu:.3f}; of best times {best[0] / best[1]:.3f} = {best[0]:.3f} s / "
        f"{best[1]:.3f} s)  target <= {target:.2f}  {'pass' if passed else 'FAIL'}",
        flush=True,
    )
    return passed
