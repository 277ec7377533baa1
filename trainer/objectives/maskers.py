"""Which tokens of a clip a masked view hides first: blocks, bands of time and frequency, cells.

Each masker ranks the tokens of every view, and `masking.draw_masks` hides exactly as many as it
should, those of the highest rank first. A view follows from the key of its clip and the clip's own
tokens alone; only whole numbers and correctly rounded operations decide, so all devices agree.

Shape legend: B clips, k views, M = k B masked views, N = bands x T tokens of the grid, F bands, Q
rectangles.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dawnchorus.trainer.objectives.masking import RANK_BITS
from dawnchorus.trainer.seeds import Use, mix_seeds, uniforms

Masker = Literal["random", "block", "bands", "voronoi"]

_LAST = (1 << RANK_BITS) - 1
_FAR = 1 << 23
"""A squared distance beyond that of any grid (of up to 2,800 columns)."""
_RECTANGLES = {"block": 128, "bands": 32}
"""How many are drawn; a clip uses them in their order. If they leave too much uncovered, chance
hides the rest. 128 blocks of 3 % cover all but 2 % of a clip, 32 bands all but 1 %."""


def ranks(
    masker: Masker,
    valid_BN: Tensor,
    bands: int,
    key_B: Tensor,
    *,
    views: int,
    block_share: float,
    band_share: float,
    point_share: float,
) -> Tensor | None:
    """Ranks of the tokens of every view for `draw_masks`, int64 [M, N]; None: all are alike.

    Args:
        masker: which.
        valid_BN: true where a token is sound, bool; valid tokens, whole columns, come first.
        bands: tokens of a column.
        key_B: key of each clip's random numbers, int64.
        views: masks k per clip.
        block_share: see `block_rectangles`.
        band_share: see `band_rectangles`.
        point_share: see `cell_ranks`.
    """
    if masker == "random":
        return None
    if masker == "voronoi":
        return cell_ranks(valid_BN, bands, key_B, views=views, share=point_share)
    columns_B11 = valid_BN.sum(1)[:, None, None] // bands
    number = torch.arange(_RECTANGLES[masker], device=valid_BN.device)
    view_k1 = torch.arange(views, device=valid_BN.device)[:, None]
    drawn = [uniforms(key_B[:, None, None], Use.SHAPE, view_k1, number, i) for i in range(5)]
    if masker == "block":
        width, height = block_rectangles(drawn[:3], columns_B11, bands, block_share)
    else:
        width, height = band_rectangles(drawn[:2], columns_B11, bands, band_share)
    left = (drawn[3] * (columns_B11 - width + 1)).long()
    low = (drawn[4] * (bands - height + 1)).long()
    return _order(left, left + width, low, low + height, valid_BN.shape[1], bands)


def block_rectangles(
    drawn: list[Tensor], columns_B11: Tensor, bands: int, share: float
) -> tuple[Tensor, Tensor]:
    """Widths and heights of blocks, int64 [B, k, Q], from uniform numbers.

    A block covers from a fifth of `share` to `share` of a clip's tokens. It is longer in time or in
    frequency, by chance, by 2 to 5 times (PupuJEPA: shares of 1 to 5 %, the same shapes).
    """
    area = (0.2 + 0.8 * drawn[0]) * share * (columns_B11 * bands)
    ratio = 2.0 + 3.0 * drawn[1]
    ratio = ratio.where(drawn[2] < 0.5, 1.0 / ratio)
    width = (area * ratio).sqrt().round().long()
    width = torch.minimum(width, columns_B11).clamp(min=1)
    return width, (area / width).round().long().clamp(min=1, max=bands)


def band_rectangles(
    drawn: list[Tensor], columns_B11: Tensor, bands: int, share: float
) -> tuple[Tensor, Tensor]:
    """Widths and heights of bands, int64 [B, k, Q], from uniform numbers.

    By chance either one to `share` of a clip's columns, over all frequencies, or one band of
    frequency over the whole clip (PupuJEPA: up to 40 of 125 columns, or one row; there the shape of
    the grid decides how often which, here both are as frequent).
    """
    most = (columns_B11 * share).long().clamp(min=1)
    width = 1 + (drawn[0] * most).long()
    in_time = drawn[1] < 0.5
    return width.where(in_time, columns_B11), torch.where(in_time, bands, 1)


def _order(left: Tensor, right: Tensor, low: Tensor, high: Tensor, grid: int, bands: int) -> Tensor:
    """Ranks, int64 [M, N]: the earlier the first rectangle that covers a token, the higher; 0
    where none does.
    """
    token_N = torch.arange(grid, device=left.device)
    time_N, band_N = token_N // bands, token_N % bands
    covered = (time_N >= left[..., None]) & (time_N < right[..., None])
    covered &= (band_N >= low[..., None]) & (band_N < high[..., None])
    # Of equal numbers argmax takes the first; what nothing covers becomes the first as well.
    first = covered.byte().argmax(2)
    return torch.where(covered.any(2), left.shape[-1] - first, 0).flatten(0, 1)


def cell_ranks(valid_BN: Tensor, bands: int, key_B: Tensor, *, views: int, share: float) -> Tensor:
    """Ranks by distance to the nearest of some random points, int64 [M, N]: the nearer the higher.

    Cells grow around the points until enough is hidden (SongMAE, whose points are a tenth of the
    tokens, and whose ties chance breaks as well). The distance is that of the places on the grid.

    Args:
        valid_BN: true where a token is sound, bool; valid tokens come first.
        bands: tokens of a column.
        key_B: key of each clip's random numbers, int64.
        views: masks k per clip.
        share: probability that a token is such a point.
    """
    clips, grid = valid_BN.shape
    view_k1 = torch.arange(views, device=valid_BN.device)[:, None]
    token_N = torch.arange(grid, device=valid_BN.device)
    bits_BkN = mix_seeds(key_B[:, None, None], Use.POINT, view_k1, token_N)
    point_BkN = (bits_BkN < int(share * (1 << 63))) & valid_BN[:, None]
    point_MTF = point_BkN.view(clips * views, grid // bands, bands)
    # The squared distance within a column first, then over columns.
    band_F, time_T = token_N[:bands], token_N[: grid // bands]
    apart_FF = (band_F[:, None] - band_F).square()
    near_MTF = torch.where(point_MTF[:, :, None, :], apart_FF, _FAR).amin(-1)
    apart_TT1 = (time_T[:, None] - time_T).square()[..., None]
    near_MTF = (near_MTF[:, None] + apart_TT1).amin(2)
    return _LAST - near_MTF.clamp(max=_LAST).flatten(1)
