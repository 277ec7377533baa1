"""The arithmetic that the training step rests on."""

from __future__ import annotations

import pytest

from trainer.module import Topology
from trainer.seeds import mix_seed


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
