"""Starts `driver.py` from a process that has imported everything already.

Importing Lightning takes seven seconds of processor time, and the integration tests start about
ninety processes. What runs is the same driver in a process of its own with an environment of its
own; only the imports have happened before. Once in `test_resume`, and in `tests/slurm`, it is
started the usual way.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")
_PRELOAD = [
    "dawnchorus.trainer.cli", "dawnchorus.trainer.recipe", "dawnchorus.trainer.training.run",
    "dawnchorus.trainer.report", "dawnchorus.trainer.training.fsdp",
    "torch.distributed.tensor", "hydra.compose", "pandas", "pyarrow.compute",
]  # fmt: skip


def _run(argv: list[str], environment: dict[str, str], folder: str, output: str) -> None:
    with open(output, "ab", buffering=0) as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(DRIVER), *argv]
    runpy.run_path(str(DRIVER), run_name="__main__")


def start(
    argv: list[str], environment: dict[str, str], folder: Path, output: Path
) -> ForkServerProcess:
    """Run the driver with these arguments; what it prints is added to the file `output`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)  # of effect before the first start
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # read when torch is imported
        forkserver.ensure_running()
    process = context.Process(target=_run, args=(argv, environment, str(folder), str(output)))
    process.start()
    return process
