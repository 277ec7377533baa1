"""The moving codebook of a tokenizer: revival, bad steps, two ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dawnchorus.trainer.objectives.quantizer import MovingQuantizer
from dawnchorus.trainer.seeds import mix_seeds


def test_codes_that_nobody_chooses_take_the_places_of_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    unit_BNE = torch.nn.functional.normalize(torch.rand(4, 6, 6, generator=generator), dim=-1)
    counted_BN = torch.arange(6) < torch.tensor([[6], [4], [6], [1]])
    key_B = torch.arange(4)
    for revive_below in (0.05, 0.0):
        quantizer = MovingQuantizer(4, 12, 6, decay=0.9, revive_below=revive_below)
        quantizer.codebook_VE.copy_(unit_BNE[0].repeat(2, 1))
        quantizer.codebook_VE[3] = quantizer.codebook_VE[7] = torch.tensor([-1.0, 0, 0, 0, 0, 0])
        quantizer.share_V.fill_((1 - 2 * 0.0045) / 10)
        quantizer.share_V[3] = quantizer.share_V[7] = 0.0045  # nine tenths of it are below
        for step in range(2):
            code_BN = quantizer.nearest(unit_BNE)
            assert step or not {3, 7} & set(code_BN.flatten().tolist())
            quantizer.tally(unit_BNE, code_BN, counted_BN, key_B)
            quantizer.update()
            assert int(quantizer.revived) == (2 if revive_below else 0)
            revived = quantizer.codebook_VE[[3, 7]]
            near = [(unit_BNE - code_E).norm(dim=-1)[counted_BN].min() for code_E in revived]
            if not revive_below:
                assert min(near) > 0.1
            elif step == 0:
                # Two tokens, and none of padding; they have an even share to begin with.
                assert max(near) == 0 and not torch.equal(*revived)
                even = 1 / 12 / (1 - 2 * 0.9 * 0.0045 + 2 / 12)
                assert quantizer.share_V[[3, 7]].tolist() == pytest.approx([even] * 2)
            assert float(quantizer.share_V.sum()) == pytest.approx(1.0)


def three_steps(quantizer: MovingQuantizer, rank: int, ranks: int) -> None:
    """Three steps of eight clips; with two ranks each has every second, in two micro-batches."""
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        unit_BNE = torch.nn.functional.normalize(torch.randn(8, 10, 6, generator=generator), dim=-1)
        counted_BN = torch.rand(8, 10, generator=generator) < 0.7
        key_B = mix_seeds(step, torch.arange(8))
        for micro in range(2 if ranks > 1 else 1):
            mine = slice(rank + ranks * micro, None, 2 * ranks if ranks > 1 else 1)
            code_BN = quantizer.nearest(unit_BNE[mine])
            quantizer.tally(unit_BNE[mine], code_BN, counted_BN[mine], key_B[mine])
        quantizer.update()


def fresh_quantizer() -> MovingQuantizer:
    torch.manual_seed(0)
    quantizer = MovingQuantizer(4, 24, 6, decay=0.5, revive_below=0.7)
    quantizer.codebook_VE.copy_(torch.nn.functional.normalize(torch.randn(24, 6), dim=1))
    return quantizer


def one_of_two(rank: int, folder: str) -> None:
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    quantizer = fresh_quantizer()
    three_steps(quantizer, rank, 2)
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
def test_the_codebook_of_two_ranks_is_that_of_one(tmp_path: Any) -> None:
    alone = fresh_quantizer()
    three_steps(alone, 0, 1)
    assert int(alone.revived) > 2
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-6, msg=name)
