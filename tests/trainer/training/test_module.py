"""The arithmetic that the training step rests on."""

from __future__ import annotations

import re

import pytest
import torch

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.seeds import mix_seed, mix_seeds, uniforms
from dawnchorus.trainer.training.layout import Topology, fit_micro_batch


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


@pytest.mark.parametrize(
    ("batch", "ranks", "asked", "pairs", "micro"),
    [
        (128, 1, 32, False, 32),
        (96, 1, 40, False, 32),
        (8, 2, 32, False, 4),  # a rank's share is smaller than what was asked for
        (127, 1, 127, False, 127),
        (66, 1, 40, False, 33),
        (66, 1, 40, True, 22),
        (20, 1, 5, True, 4),
        (560, 4, 140, False, 140),
    ],
)
def test_the_micro_batch_divides_what_a_rank_gets(
    batch: int, ranks: int, asked: int, pairs: bool, micro: int
) -> None:
    assert fit_micro_batch(batch, ranks, asked, pairs=pairs) == micro


@pytest.mark.parametrize(
    ("batch", "ranks", "asked", "pairs"),
    [(127, 1, 32, False), (134, 2, 32, False), (10, 4, 2, False), (8, 1, 1, True), (9, 3, 4, True),
     (14, 2, 8, True), (2, 4, 32, False), (1, 1, 8, True)],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_refused_with_numbers_that_do(
    batch: int, ranks: int, asked: int, pairs: bool
) -> None:
    with pytest.raises(RecipeError, match=f"global_batch={batch}") as caught:
        fit_micro_batch(batch, ranks, asked, pairs=pairs)
    offered = re.findall(
        r"train\.(global_batch|micro_batch)=(\d+)", str(caught.value).split("Use")[1]
    )
    assert offered or (pairs and asked == 1)
    for name, number in offered:
        fitting = {"global_batch": batch, "micro_batch": asked} | {name: int(number)}
        micro = fit_micro_batch(fitting["global_batch"], ranks, fitting["micro_batch"], pairs=pairs)
        assert 2 * micro >= min(fitting["micro_batch"], fitting["global_batch"] // ranks)
        assert not (pairs and micro % 2)
