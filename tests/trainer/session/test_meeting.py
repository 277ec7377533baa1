"""Ranks that meet belong to one run and may read its folder; strangers are noticed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dawnchorus.trainer.errors import ChorusError
from dawnchorus.trainer.session import meeting
from dawnchorus.trainer.session.job import master_port
from dawnchorus.trainer.session.meeting import meet

FACTS = {"session": "job1.0", "step": 3}


class Trap:
    """What a stranger would send: a pickle that leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "ran"))


Case = tuple[str, dict[str, object], list[Path], Path | None]
"""Name, facts of rank 1, the folder that each rank takes for the run's, what rank 1 plants."""


def _rank(rank: int, port: int, cases: list[Case], answers: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    meeting._WAIT_S = 2.0
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name, facts, folders, trap in cases:
        said: object = "told"
        try:
            if rank and trap:
                _tell_a_pickle(trap)
            else:
                said = meet(facts if rank else FACTS, folders[rank])
        except ChorusError as error:
            said = str(error)
        answers.put((name, rank, said))
    dist.destroy_process_group()


def _tell_a_pickle(trap: Path) -> None:
    text = pickle.dumps(Trap(trap))
    sizes = torch.zeros(2, dtype=torch.int64)
    dist.all_gather_into_tensor(sizes, torch.tensor([len(text)]))
    most = int(sizes.max())
    row = torch.zeros(most, dtype=torch.uint8)
    row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    dist.all_gather_into_tensor(torch.zeros(2 * most, dtype=torch.uint8), row)


@pytest.mark.ddp
def test_ranks_of_one_run_meet_and_strangers_part_again(tmp_path: Path) -> None:
    run, elsewhere, trap = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "trap"
    for folder in (run, elsewhere):
        folder.mkdir()
    (run / f"{meeting.SECRET}-old").write_text("left by a killed session")
    cases: list[Case] = [
        ("same", FACTS, [run, run], None),
        ("two runs", {"session": "job7.0", "step": 2}, [run, run], None),
        ("no access", FACTS, [run, elsewhere], None),
        ("pickle", FACTS, [run, run], trap),
    ]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    port = master_port(str(os.getpid()), "meeting", 0)
    ranks = [context.Process(target=_rank, args=(r, port, cases, answers)) for r in range(2)]
    for process in ranks:
        process.start()
    said = {(name, rank): text for name, rank, text in (answers.get(timeout=300) for _ in range(8))}
    for process in ranks:
        process.join()
    assert len(said["same", 0]) == len(said["same", 1]) == 2
    for rank in range(2):
        message = said["two runs", rank]
        assert "do not belong together" in message
        assert "rank 1" in message and "job7.0" in message and "step 2" in message
    assert "rank 1 has not read the secret" in said["no access", 0]
    assert "cannot read" in said["no access", 1]
    # Nobody opens what a stranger pickled.
    assert "rank 1 sent bytes that are not JSON" in said["pickle", 0]
    assert not trap.exists()
    assert list(run.iterdir()) == []


def test_the_secret_is_for_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / f"{meeting.SECRET}-1"
    meeting._leave_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(meeting._read_secret(path)) == 64
