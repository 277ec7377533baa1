"""The arithmetic that the training step rests on."""

from __future__ import annotations

import pytest
import torch

from trainer.module import Topology
from trainer.seeds import mix_seed, mix_seeds, uniforms


@pytest.mark.parametrize(
    ("ranks", "accumulate", "micro"), [(1, 1, 12), (2, 3, 2), (4, 1, 3), (3, 4, 1)]
)
def test_ranks_and_micro_steps_cover_each_position_once(
    ranks: int, accumulate: int, micro: int
) -> None:
    seen = []
    for step in range(3):
        for rank in range(ranks):
            layout = Topology(rank=rank, ranks=ranks, accumulate=accumulate, micro=micro)
            assert layout.global_batch == 12
            for a in range(accumulate):
                first = layout.first_position(step, a)
                seen += range(first, first + micro)
    assert sorted(seen) == list(range(36))


def test_seeds_differ_in_every_part() -> None:
    seeds = {mix_seed(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len(seeds) == 8000
    assert all(0 <= s < 2**63 for s in seeds)
    assert mix_seed(1, 2) != mix_seed(2, 1)


def test_seeds_of_tensors_are_those_of_numbers() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = torch.randint(-(2**63), 2**63 - 1, (500,), generator=draw)
    parts[:3] = torch.tensor([-1, 2**63 - 1, -(2**63)])
    for before, after in (((), ()), ((7,), (-3,)), ((2**63 + 5, 1), (2**40, 2))):
        expected = [mix_seed(*before, part, *after) for part in parts.tolist()]
        assert mix_seeds(*before, parts, *after).tolist() == expected


def test_uniforms_are_uniform_and_never_at_the_ends() -> None:
    number = uniforms(3, torch.arange(100_000))
    assert float(number.min()) > 0 and float(number.max()) < 1
    count = torch.histc(number, 100, 0, 1)
    assert float((count - 1000).square().sum() / 1000) < 170  # chi-squared of 99: 1e-5 above
    pairs = torch.stack([number[:-1], number[1:]])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.02
