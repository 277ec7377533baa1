"""Which tokens of a clip stay visible, with counts that are the same for every batch.

Shape legend: B clips, M = k B masked views (rows k b .. k b + k - 1 are views of clip b), N tokens
of the grid, K visible tokens, J masked tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dawnchorus.trainer.seeds import Use, mix_seeds

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base import Encoder, Grid
    from dawnchorus.trainer.objectives.base import FeatureBatch

RANK_BITS = 24
"""Bits of a rank in `draw_masks`; chance has the other 39."""


@dataclass(frozen=True)
class MaskPlan:
    """Visible and masked tokens of each view.

    A clip that fills the grid has exactly K visible and J = N - K masked tokens. A shorter one has
    fewer of both; its rows are filled up with the last token of the grid, which is padding there.
    """

    keep_MK: Tensor
    """Grid indices of the visible tokens, ascending, int64."""
    keep_valid_MK: Tensor
    """False where `keep_MK` only fills up, bool."""
    masked_MJ: Tensor
    """Grid indices of the masked tokens, in no order, int64."""
    masked_valid_MJ: Tensor
    """False where `masked_MJ` only fills up, bool."""


def valid_places(batch: FeatureBatch, encoder: Encoder) -> tuple[Tensor, Grid]:
    """Which places of the encoder's grid are sound, bool [B, N]; and the grid."""
    grid = encoder.grid(batch.x.shape[1])
    return encoder.valid(batch.steps_B, grid)[:, grid.prefix :], grid


def across(index_MJ: Tensor, like_MLE: Tensor) -> Tensor:
    """Token indices, for `gather` and `scatter` of whole tokens."""
    return index_MJ[..., None].expand(-1, -1, like_MLE.shape[-1])


def keep_count(grid_tokens: int, mask_ratio: float, multiple: int = 1) -> int:
    """Visible tokens K of a clip that fills the grid: the nearest multiple of `multiple`.

    10 s in BEATs are 496 tokens; three quarters masked leave 124, with multiples of 8 128. A grid
    so small that no multiple fits keeps the nearest number.

    Raises:
        ValueError: a grid of one token, of which none can be masked and another seen.
    """
    if grid_tokens < 2:
        raise ValueError(f"a grid of {grid_tokens} token cannot be masked; use longer windows")
    wanted = (1.0 - mask_ratio) * grid_tokens
    kept = int(wanted / multiple + 0.5) * multiple
    if not 0 < kept < grid_tokens:
        kept = int(wanted + 0.5)
    return min(max(kept, 1), grid_tokens - 1)


def draw_masks(
    valid_BN: Tensor,
    kept: int,
    key_B: Tensor,
    *,
    views: int = 1,
    rank_MN: Tensor | None = None,
) -> MaskPlan:
    """Choose visible tokens uniformly among the valid ones, anew for each view.

    A clip with n of N tokens valid keeps round(kept n / N) of them, at least one, and masks at
    least one. No number leaves the device, and a clip's masks do not depend on the other clips.

    Args:
        valid_BN: true where a token is sound, bool; valid tokens come first, two or more per clip.
        kept: visible tokens K of a clip that fills the grid (`keep_count`).
        key_B: key of each clip's random numbers, int64 (`FeatureBatch.key_B`).
        views: masks k per clip.
        rank_MN: tokens of a lower rank stay visible before those of a higher; among equals chance
            decides, so that the count is exact whatever the ranks. Bool, or int64 in [0, 2^24).
    """
    valid_MN = valid_BN.repeat_interleave(views, 0)
    grid, device = valid_MN.shape[1], valid_BN.device
    slot_N, view_k1 = torch.arange(grid, device=device), torch.arange(views, device=device)[:, None]
    bits_MN = mix_seeds(key_B[:, None, None], Use.MASK, view_k1, slot_N).flatten(0, 1)
    if rank_MN is not None:
        kept_bits = 1 if rank_MN.dtype == torch.bool else RANK_BITS
        bits_MN = (bits_MN >> kept_bits) + (rank_MN.long() << 63 - kept_bits)
    # Random order of the valid tokens, the others after them.
    order_MN = bits_MN.masked_fill(~valid_MN, torch.iinfo(torch.int64).max).argsort(dim=1)
    count_M1 = valid_MN.sum(1, keepdim=True)
    keep_M1 = (2 * kept * count_M1 + grid) // (2 * grid)
    keep_M1 = torch.minimum(keep_M1, count_M1 - 1).clamp(min=1)

    keep_valid_MK = slot_N[:kept] < keep_M1
    keep_MK = order_MN[:, :kept].masked_fill(~keep_valid_MK, grid - 1).sort(1).values
    place_MJ = keep_M1 + slot_N[: grid - kept]
    masked_valid_MJ = place_MJ < count_M1
    masked_MJ = order_MN.gather(1, place_MJ.clamp(max=grid - 1))
    return MaskPlan(
        keep_MK, keep_valid_MK, masked_MJ.masked_fill(~masked_valid_MJ, grid - 1), masked_valid_MJ
    )


def block_cover(
    valid_BN: Tensor, bands: int, key_B: Tensor, *, views: int, side: int, share: float
) -> Tensor:
    """Which tokens lie in squares around random places, bool [M, N]: EAT's inverse block mask
    before its count is made exact (`draw_masks` with these ranked first does that).

    A clip with n valid tokens gets floor(n share / side^2) squares, at least one, whose centres are
    drawn uniformly from its tokens, with replacement. An even side reaches one further to the left
    and down. (Released code, `compute_block_mask_2d`.)

    Args:
        valid_BN: true where a token is sound, bool; valid tokens come first.
        bands: tokens of a column.
        key_B: key of each clip's random numbers, int64.
        views: masks k per clip.
        side: of a square, in tokens.
        share: of the tokens that the squares would cover if they did not overlap.
    """
    clips, grid = valid_BN.shape
    device, count_B = valid_BN.device, valid_BN.sum(1)
    squares_B = (count_B * (share / side**2)).long().clamp(min=1)
    square_Q = torch.arange(max(int(grid * (share / side**2)), 1), device=device)
    view_k1 = torch.arange(views, device=device)[:, None]
    bits_BkQ = mix_seeds(key_B[:, None, None], Use.CENTRE, view_k1, square_Q)
    centre_BkQ1 = (bits_BkQ % count_B.clamp(min=1)[:, None, None])[..., None]
    token_N = torch.arange(grid, device=device)
    reach = side // 2

    def near(place_N: Tensor, middle: Tensor) -> Tensor:
        offset = place_N - middle
        return (offset >= -reach) & (offset < side - reach)

    in_BkQN = near(token_N // bands, centre_BkQ1 // bands)
    in_BkQN = in_BkQN & near(token_N % bands, centre_BkQ1 % bands)
    used_BQ = square_Q < squares_B[:, None]
    return (in_BkQN & used_BQ[:, None, :, None]).any(2).view(clips * views, grid)
