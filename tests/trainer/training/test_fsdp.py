"""Rows of tensors, and checkpoints that are written in parts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from dawnchorus.trainer.checkpoints import sharded_folder as shards
from dawnchorus.trainer.checkpoints.checkpoint import (
    CheckpointFolder,
    check,
    load,
    load_mapped,
    save,
)
from dawnchorus.trainer.checkpoints.sharded_tensors import (
    Pieces,
    fill,
    is_sharded,
    local,
    row_range,
    shard_like,
)
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.reading import read_weights
from dawnchorus.trainer.recipe import TrainConfig
from dawnchorus.trainer.training.checkpoint_io import AtomicCheckpointIO
from dawnchorus.trainer.training.optim import ParameterEma
from dawnchorus.trainer.training.optim_config import OptimConfig

RANKS = 3


@contextmanager
def being(rank: int) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """This process as one of several ranks that never talk; gives the function that cuts."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=RANKS)
    try:
        mesh = init_device_mesh("cpu", (RANKS,))

        def cut(whole: torch.Tensor) -> torch.Tensor:
            first, end = row_range(len(whole), rank, RANKS)
            return DTensor.from_local(
                whole[first:end], mesh, [Shard(0)], run_check=False,
                shape=whole.shape, stride=whole.stride(),
            )  # fmt: skip

        yield cut
    finally:
        dist.destroy_process_group()


def weights(step: int) -> dict[str, torch.Tensor]:
    """Fewer rows than ranks, a number that they do not divide, and one rank's worth each."""
    generator = torch.Generator().manual_seed(step)
    sizes = {"one": (1, 1, 5), "seven": (7, 2), "three": (3,)}
    return {n: torch.randn(s, generator=generator) for n, s in sizes.items()}


def state_at(step: int, cut: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    tensors = {name: cut(tensor) for name, tensor in weights(step).items()}
    return {
        "state_dict": {**tensors, "buffer": torch.arange(4)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "m": tensors["seven"]}}}],
        "dawnchorus": {"format": 1, "step": step, "ema": {"one": tensors["one"]}},
    }


def save_sharded(path: Path, step: int) -> None:
    """What all ranks do together, one after the other."""
    for rank in range(RANKS):
        with being(rank) as cut:
            folder = shards.temporary_of(path, step)
            folder.mkdir(parents=True, exist_ok=True)
            shards._write_own(folder, state_at(step, cut), rank, RANKS)
    shards.publish(path, step)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 9, 10])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_rows_are_shared_as_torch_shares_them(rows: int, ranks: int) -> None:
    chunks = torch.arange(rows).chunk(ranks)
    for rank in range(ranks):
        first, end = row_range(rows, rank, ranks)
        assert list(range(first, end)) == (chunks[rank].tolist() if rank < len(chunks) else [])


def test_pieces_give_any_rows() -> None:
    whole = torch.randn(9, 2)
    pieces = Pieces([whole[:4], whole[4:8], whole[8:8], whole[8:]])
    assert pieces.shape == whole.shape
    assert torch.equal(pieces.whole(), whole)
    for first in range(10):
        for end in range(first, 10):
            assert torch.equal(pieces[first:end], whole[first:end])


def test_a_folder_is_the_same_checkpoint_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "step_000000003.ckpt"
    save_sharded(path, 3)
    names = sorted(p.name for p in path.iterdir())
    assert names == ["meta.pt", *(f"shard_{rank:05d}.pt" for rank in range(RANKS))]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    check(path)
    found = load(path)
    for name, tensor in weights(3).items():
        assert torch.equal(found["state_dict"][name], tensor)
    assert torch.equal(found["state_dict"]["buffer"], torch.arange(4))
    assert torch.equal(found["optimizer_states"][0]["state"][0]["m"], weights(3)["seven"])
    assert torch.equal(found["dawnchorus"]["ema"]["one"], weights(3)["one"])
    # Each rank reads its rows of a folder and of a file alike.
    save(tmp_path / "file.ckpt", found)
    for source in (path, tmp_path / "file.ckpt"):
        mapped = load_mapped(source)["state_dict"]
        for rank in range(RANKS):
            with being(rank) as cut:
                for name, tensor in weights(3).items():
                    mine = cut(torch.zeros_like(tensor))
                    fill(mine, mapped[name])
                    fresh = shard_like(mapped[name], mine)
                    assert is_sharded(fresh) and fresh.shape == tensor.shape
                    assert torch.equal(local(mine), local(cut(tensor)))
                    assert torch.equal(local(fresh), local(mine))
                    with pytest.raises(ValueError, match="shape"):
                        fill(mine, torch.zeros(11, 11))


def test_damage_is_found_and_the_folder_before_is_taken(
    tmp_path: Path, damage_tensor: Callable[[Path], None]
) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=5)
    for step in (1, 2, 3, 4):
        save_sharded(folder.at_step(step), step)
    (folder.at_step(4) / "shard_00002.pt").unlink()
    damage_tensor(folder.at_step(3) / "shard_00001.pt")
    meta = folder.at_step(2) / "meta.pt"
    meta.write_bytes(meta.read_bytes()[:200])
    newest, complaints = folder.newest_readable()
    assert newest == folder.at_step(1)
    assert len(complaints) == 3
    assert "shard_00002.pt is missing" in complaints[0]
    # A step that could not be read may be saved again, as a folder or as a file.
    save_sharded(folder.at_step(4), 4)
    save(folder.at_step(3), load(folder.at_step(1)))
    for step in (4, 3):
        check(folder.at_step(step))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path / "absent.ckpt")


def test_retention_and_the_best_of_several(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_every=4)
    for step in (2, 4, 6, 8, 10):
        save_sharded(folder.at_step(step), step)
        if step in (4, 8):
            save_sharded(folder.best, step)
        (folder.path / ".step_000000099.ckpt.tmp").mkdir(exist_ok=True)
        folder.tidy()
    kept = sorted(p.name for p in folder.path.iterdir())
    steps = [f"step_{s:09d}.ckpt" for s in (4, 8, 10)]
    assert kept == sorted([*steps, "best.ckpt", "best_000000008.ckpt", "last.ckpt"])
    assert load(folder.best)["dawnchorus"]["step"] == 8
    assert load(folder.path / "last.ckpt")["dawnchorus"]["step"] == 10
    save_sharded(folder.best, 8)  # the same step again, after a resume
    assert load(folder.best)["dawnchorus"]["step"] == 8
    assert len(list(folder.path.glob("best_*"))) == 1
    save(folder.best, {"dawnchorus": {"step": 9}})  # the run goes on without sharding
    folder.tidy()
    assert folder.best.is_file() and not list(folder.path.glob("best_*"))


def test_a_rank_that_cannot_write_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    path, io = tmp_path / "step_000000001.ckpt", AtomicCheckpointIO()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with being(0) as cut:
        state = state_at(1, cut)
        # Another rank says no at the end.
        answers = iter([True, False])
        io.save_sharded(state, path, rank=0, ranks=RANKS, agree=lambda own: next(answers) and own)
        assert io.error is None and not list(tmp_path.iterdir())
        # This rank does.
        monkeypatch.setattr(torch, "save", full)
        said: list[bool] = []
        io.save_sharded(state, path, rank=0, ranks=RANKS, agree=lambda own: said.append(own) or own)
        assert said == [True, False]
        assert io.error is not None and "make room" in str(io.error)
        assert not list(tmp_path.iterdir())


def test_weights_are_read_without_the_optimiser(tmp_path: Path) -> None:
    path = tmp_path / "step_000000001.ckpt"
    save_sharded(path, 1)
    assert read_parts(path) == {"state_dict", "dawnchorus"}
    (path / "meta.pt").unlink()
    with pytest.raises(CheckpointError, match="cannot be"):
        read_weights(path)


def read_parts(path: Path) -> set[str]:
    return set(shards.read(path, only=("state_dict", "dawnchorus")))


def test_the_average_of_sharded_weights_is_the_sharded_average() -> None:
    def run(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        ema = ParameterEma(module, OptimConfig(ema_decay=0.9).ema_decay or 0)
        with torch.no_grad():
            local(module.weight).mul_(3)
        ema.update(module, 5)
        before = local(module.weight).clone()
        with ema.swapped(module):
            assert torch.equal(local(module.weight), local(ema.state_dict()["weight"]))
        assert torch.equal(local(module.weight), before)
        return ema.state_dict()

    torch.manual_seed(0)
    plain = torch.nn.Linear(4, 7, bias=False)
    start = plain.weight.detach().clone()
    whole = run(plain)["weight"]
    for rank in range(RANKS):
        with being(rank) as cut:
            module = torch.nn.Linear(4, 7, bias=False)
            module.weight = torch.nn.Parameter(cut(start.clone()))
            assert torch.equal(local(run(module)["weight"]), local(cut(whole)))


def test_fp16_cannot_be_sharded() -> None:
    with pytest.raises(ValueError, match="bf16 or fp32"):
        TrainConfig(max_steps=1, strategy="fsdp", precision="fp16")
    assert TrainConfig(max_steps=1).strategy == "ddp"
