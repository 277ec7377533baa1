"""Masks of every kind: exact counts, from the clip's key alone, of the shape that they are called.

Shape legend: B clips, M views, N tokens, T columns, F bands.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dawnchorus.trainer.objectives.maskers import Masker, ranks
from dawnchorus.trainer.objectives.masking import MaskPlan, draw_masks, keep_count
from dawnchorus.trainer.seeds import mix_seeds

MASKERS = get_args(Masker)
SHARES: dict[str, Any] = {"block_share": 0.05, "band_share": 0.32, "point_share": 0.1}


def plan_of(
    masker: Masker, columns: list[int], times: int, bands: int, ratio: float, key_B: Tensor,
    views: int = 1,
) -> MaskPlan:  # fmt: skip
    valid_BN = torch.arange(times * bands) < torch.tensor(columns)[:, None] * bands
    rank_MN = ranks(masker, valid_BN, bands, key_B, views=views, **SHARES)
    kept = keep_count(times * bands, ratio)
    return draw_masks(valid_BN, kept, key_B, views=views, rank_MN=rank_MN)


def hidden(plan: MaskPlan, times: int, bands: int) -> Tensor:
    """Bool [M, T, F]."""
    out_MN = torch.zeros(len(plan.masked_MJ), times * bands, dtype=torch.bool)
    for row, (place_J, counts_J) in enumerate(
        zip(plan.masked_MJ, plan.masked_valid_MJ, strict=True)
    ):
        out_MN[row, place_J[counts_J]] = True
    return out_MN.view(-1, times, bands)


@pytest.mark.parametrize("masker", MASKERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_counts_are_exact_and_a_clip_s_masks_its_own(masker: Masker, data: st.DataObject) -> None:
    times, bands = data.draw(st.integers(2, 40)), data.draw(st.sampled_from([1, 3, 8]))
    least = max(1, math.ceil(2 / bands))
    columns = data.draw(st.lists(st.integers(least, times), min_size=1, max_size=4))
    ratio = data.draw(st.floats(0.05, 0.95))
    views, grid = data.draw(st.integers(1, 3)), times * bands
    key_B = mix_seeds(data.draw(st.integers(0, 99)), torch.arange(len(columns)))
    plan = plan_of(masker, columns, times, bands, ratio, key_B, views)
    kept = keep_count(grid, ratio)
    for row, own in enumerate(columns):
        count = own * bands
        wanted = max(1, min((2 * kept * count + grid) // (2 * grid), count - 1))
        for m in range(views * row, views * row + views):
            keep = plan.keep_MK[m][plan.keep_valid_MK[m]].tolist()
            masked = plan.masked_MJ[m][plan.masked_valid_MJ[m]].tolist()
            assert len(keep) == wanted
            assert sorted(keep + masked) == list(range(count))
    # Alone, and in a grid of another length, a clip that fills the first has the same views.
    whole = ranks(masker, torch.ones(1, grid, dtype=torch.bool), bands, key_B[:1], views=views,
                  **SHARES)  # fmt: skip
    longer = ranks(masker, torch.arange(grid + 5 * bands)[None] < grid, bands, key_B[:1],
                   views=views, **SHARES)  # fmt: skip
    assert (whole is None) == (longer is None) == (masker == "random")
    if whole is not None and longer is not None:
        assert torch.equal(whole, longer[:, :grid])


def neighbours(hidden_MTF: Tensor) -> float:
    """Share of the neighbours in time or frequency of hidden tokens that are hidden too."""
    pairs, both = 0, 0
    for a, b in ((hidden_MTF[:, 1:], hidden_MTF[:, :-1]),
                 (hidden_MTF[..., 1:], hidden_MTF[..., :-1])):  # fmt: skip
        pairs += int((a | b).sum())
        both += int((a & b).sum())
    return both / pairs


def test_shapes() -> None:
    """Half of 32 x 8 hidden: blocks and cells hang together, chance does not."""
    key_B = mix_seeds(5, torch.arange(200))
    seen = {m: hidden(plan_of(m, [32] * 200, 32, 8, 0.5, key_B), 32, 8) for m in MASKERS}
    assert all(int(h.sum()) == 200 * 128 for h in seen.values())
    share = {m: neighbours(h) for m, h in seen.items()}
    # Of two neighbours, one of which is hidden at least, a third are both hidden by chance.
    assert share["random"] == pytest.approx(1 / 3, abs=0.02)
    assert all(share[m] > 0.45 for m in ("block", "voronoi", "bands"))
    # Rectangles reach the edges less often than the middle, but no place is always seen or hidden.
    assert all(float(h.float().mean(0).min()) > 0.1 for h in seen.values())
    assert all(float(h.float().mean(0).max()) < 0.8 for h in seen.values())


def test_bands_are_whole_columns_and_rows() -> None:
    """All hidden tokens but some of the last band lie in a column or row that is all hidden."""
    key_B = mix_seeds(6, torch.arange(100))
    for hidden_TF in hidden(plan_of("bands", [30] * 100, 30, 8, 0.6, key_B), 30, 8):
        columns, rows = hidden_TF.all(1), hidden_TF.all(0)
        loose = hidden_TF & ~columns[:, None] & ~rows
        in_time, in_frequency = (int(loose.any(axis).sum()) for axis in (1, 0))
        assert in_frequency <= 1 or in_time <= 9, "one band is begun"


def test_cells_are_the_nearest_to_points() -> None:
    """Against distances by hand: nothing hidden is farther from all points than what is seen."""
    times, bands = 20, 8
    key_B = mix_seeds(7, torch.arange(20))
    valid_BN = torch.ones(20, times * bands, dtype=torch.bool)
    rank_MN = ranks("voronoi", valid_BN, bands, key_B, views=1, **SHARES)
    assert rank_MN is not None
    points = [torch.nonzero(row == (1 << 24) - 1)[:, 0].tolist() for row in rank_MN]
    assert 0.06 < sum(map(len, points)) / rank_MN.numel() < 0.14
    plan = draw_masks(valid_BN, 40, key_B, rank_MN=rank_MN)
    for row in range(20):
        apart = [
            min((n // bands - p // bands) ** 2 + (n % bands - p % bands) ** 2 for p in points[row])
            for n in range(times * bands)
        ]
        seen = min(apart[n] for n in plan.keep_MK[row].tolist())
        assert max(apart[n] for n in plan.masked_MJ[row].tolist()) <= seen


def test_masks_are_the_same_for_ever() -> None:
    """A change of them changes every run."""
    key_B = mix_seeds(3, torch.arange(1))
    first = {m: plan_of(m, [8], 8, 4, 0.75, key_B).keep_MK[0].tolist() for m in MASKERS}
    assert first == {
        "random": [0, 4, 5, 7, 17, 25, 26, 29],
        "block": [6, 8, 18, 19, 20, 21, 22, 30],
        "bands": [0, 2, 4, 6, 16, 18, 20, 22],
        "voronoi": [0, 1, 2, 3, 4, 5, 6, 7],
    }
