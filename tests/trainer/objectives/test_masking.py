from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dawnchorus.trainer.objectives.masking import MaskPlan, draw_masks, keep_count
from dawnchorus.trainer.seeds import mix_seeds


def keys(clips: int, seed: int = 0) -> Tensor:
    return mix_seeds(seed, torch.arange(clips))


def valid(counts: list[int], grid: int) -> Tensor:
    return torch.arange(grid) < torch.tensor(counts)[:, None]


def chosen(plan: MaskPlan, row: int) -> tuple[list[int], list[int]]:
    keep = plan.keep_MK[row][plan.keep_valid_MK[row]].tolist()
    return keep, plan.masked_MJ[row][plan.masked_valid_MJ[row]].tolist()


@pytest.mark.parametrize(
    ("grid", "ratio", "multiple", "kept"),
    [
        (496, 0.75, 8, 128),  # 10 s: 124, to the nearest multiple
        (496, 0.75, 1, 124),
        (248, 0.75, 8, 64),
        (488, 0.75, 8, 120),
        (496, 0.5, 16, 256),
        (16, 0.75, 8, 8),
        (8, 0.75, 8, 2),  # one time column: no multiple of 8 leaves anything to mask
        (2, 0.75, 8, 1),
        (100, 0.999, 8, 1),
        (100, 0.001, 8, 96),
        (100, 0.001, 1, 99),
    ],
)
def test_keep_count(grid: int, ratio: float, multiple: int, kept: int) -> None:
    assert keep_count(grid, ratio, multiple) == kept


def test_a_single_token_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match="longer windows"):
        keep_count(1, 0.75, 8)


def test_full_clips_have_fixed_counts_without_filling() -> None:
    plan = draw_masks(valid([496] * 4, 496), 128, keys(4))
    assert plan.keep_MK.shape == (4, 128) and plan.masked_MJ.shape == (4, 368)
    assert bool(plan.keep_valid_MK.all()) and bool(plan.masked_valid_MJ.all())


def test_every_valid_token_is_visible_or_masked() -> None:
    counts = [496, 488, 248, 80, 16, 8]
    plan = draw_masks(valid(counts, 496), 128, keys(6), views=2)
    shapes = plan.keep_MK.shape, plan.masked_MJ.shape
    assert shapes == ((12, 128), (12, 368))  # the same for any lengths
    for row in range(12):
        count = counts[row // 2]
        keep, masked = chosen(plan, row)
        assert keep == sorted(keep)
        assert sorted(keep + masked) == list(range(count))
        assert len(keep) == max(1, round(128 * count / 496))
    # What fills up points at padding, so that the encoder leaves it out by itself.
    filler = plan.keep_MK[~plan.keep_valid_MK]
    assert len(filler) and bool((filler == 495).all())
    assert bool((plan.masked_MJ[~plan.masked_valid_MJ] == 495).all())


def test_shortest_clips_still_have_something_to_see_and_to_predict() -> None:
    plan = draw_masks(valid([2, 3, 40], 40), 39, keys(3))
    assert [len(chosen(plan, row)[0]) for row in range(3)] == [1, 2, 39]
    plan = draw_masks(valid([2, 3, 40], 40), 1, keys(3))
    assert [len(chosen(plan, row)[0]) for row in range(3)] == [1, 1, 1]


def test_uniform_over_valid_tokens_and_independent_between_views() -> None:
    plan = draw_masks(valid([64, 32], 64), 16, keys(2), views=2000)
    seen = torch.zeros(2, 64)
    for row in range(4000):
        seen[row // 2000, chosen(plan, row)[0]] += 1
    # 2000 views, a quarter visible: 500 +- 19.
    assert float((seen[0] - 500).abs().max()) < 5 * 19.4
    assert float((seen[1, :32] - 500).abs().max()) < 5 * 19.4
    assert not seen[1, 32:].any()
    assert len({tuple(plan.keep_MK[row].tolist()) for row in range(100)}) == 100


def test_a_clips_masks_follow_from_its_key_alone() -> None:
    counts = [64, 40, 64, 16, 64, 8]
    whole = draw_masks(valid(counts, 64), 16, keys(6), views=3)
    for rows in ([0, 1], [4], [5, 3, 1]):
        part = draw_masks(valid([counts[r] for r in rows], 64), 16, keys(6)[rows], views=3)
        for name in ("keep_MK", "keep_valid_MK", "masked_MJ", "masked_valid_MJ"):
            expected = getattr(whole, name).view(6, 3, -1)[rows].flatten(0, 1)
            assert torch.equal(getattr(part, name), expected), name
    other = draw_masks(valid(counts, 64), 16, keys(6, seed=1), views=3)
    assert not torch.equal(whole.keep_MK, other.keep_MK)


def test_masks_are_the_same_on_every_device_and_for_ever() -> None:
    """Whole numbers decide, so a GPU draws these too; a change of them changes every run."""
    plan = draw_masks(valid([24], 24), 8, keys(1), views=2)
    assert plan.keep_MK.tolist() == [[2, 5, 8, 13, 15, 19, 21, 23], [0, 1, 2, 10, 14, 15, 16, 18]]
