"""Pools the tokens (or frames) of a clip to one vector, alike for models, baselines and heads.

It imports only torch, because exported repositories ship this file unchanged.

Shape legend: B clips, N tokens, D channels, K statistics (1 to 3).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "mean_std", "mean_std_max", "cls"]
"""`mean`: of the valid tokens (the paper). `mean_std`: and their standard deviation, which says
how much a channel varies over the clip. `mean_std_max`: and their maximum. `cls`: the first token
alone, of encoders whose first token stands for the clip."""

STATISTICS: dict[Pooling, int] = {"mean": 1, "mean_std": 2, "mean_std_max": 3, "cls": 1}
"""Each gives this many times D numbers. The numbers of a longer `mean_...` begin with those of the
shorter one."""


def pooling_of(width: int, dim: int) -> Pooling:
    """Which statistics give `width` numbers of `dim` channels: what a head of that width wants.

    (A head on `cls` is as wide as one on `mean`: what it wants is written down beside it.)

    Raises:
        ValueError: none does.
    """
    for pooling, times in STATISTICS.items():
        if width == times * dim:
            return pooling
    raise ValueError(f"no pooling of {dim} channels gives {width} numbers")


def pool(tok_BND: Tensor, valid_BN: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Statistics of the valid tokens of each clip, one after the other.

    The standard deviation is that of the tokens themselves (divided by N, not N - 1), so a clip of
    one token has 0; its gradient there is 0 too. A clip without a valid token gives zeros.

    Args:
        tok_BND: tokens, any floating type.
        valid_BN: bool, true where a token is sound rather than padding.
        pooling: which statistics.

    Returns:
        [B, K * D]: means, standard deviations, maxima. Float64 for float64 tokens, else float32.

    Raises:
        ValueError: no such pooling.
    """
    if pooling not in STATISTICS:
        raise ValueError(f"pooling is {pooling!r}; it can be {', '.join(STATISTICS)}")
    tok_BND = tok_BND.to(torch.promote_types(tok_BND.dtype, torch.float32))
    if pooling == "cls":
        return tok_BND[:, 0]
    weight_BN1 = valid_BN.unsqueeze(-1).to(tok_BND.dtype)
    count_B1 = weight_BN1.sum(1).clamp(min=1.0)
    # Padding may hold anything, also NaN, which a weight of 0 would let through.
    tok_BND = tok_BND.masked_fill(~valid_BN.unsqueeze(-1), 0.0)
    mean_BD = tok_BND.sum(1) / count_B1
    statistics = [mean_BD]
    if pooling in ("mean_std", "mean_std_max"):
        # From the deviations: the mean of squares less the square of the mean loses its digits.
        deviation_BND = (tok_BND - mean_BD.unsqueeze(1)) * weight_BN1
        variance_BD = deviation_BND.square().sum(1) / count_B1
        # The slope of a square root at 0 is infinite: a constant channel must not give NaN.
        varies_BD = variance_BD > 0
        statistics.append(torch.where(varies_BD, variance_BD, 1.0).sqrt() * varies_BD)
    if pooling == "mean_std_max":
        lowest = torch.finfo(tok_BND.dtype).min
        max_BD = tok_BND.masked_fill(~valid_BN.unsqueeze(-1), lowest).amax(1)
        statistics.append(max_BD * valid_BN.any(1, keepdim=True))
    return torch.cat(statistics, dim=1)
