"""Accuracy and macro average precision of several probes at once, on the device.

Shape legend: J probes, N clips, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(logit_JNC: Tensor, target_JN: Tensor, real_JN: Tensor) -> Tensor:
    """Share of the real rows whose highest logit is the target's, per probe: [J] in float64."""
    hit_JN = (logit_JNC.argmax(-1) == target_JN) & real_JN
    return hit_JN.sum(1).double() / real_JN.sum(1).clamp(min=1)


def average_precision(score_MN: Tensor, target_MN: Tensor) -> Tensor:
    """Average precision of each row, exact with ties, NaN where a row has no positive.

    The mean over the positives of the precision at the end of the positive's tie group, which is
    what scikit-learn's `average_precision_score` computes. Rows of score -inf and target 0 at the
    end (padding) change nothing.

    Args:
        score_MN: scores of N clips, for M rankings.
        target_MN: 0 or 1.

    Returns:
        [M] in float64.
    """
    falling_MN, order_MN = (-score_MN).sort(dim=1, stable=True)
    hit_MN = target_MN.gather(1, order_MN).double()
    group_end_MN = torch.searchsorted(falling_MN, falling_MN, right=True)
    hits_to_end_MN = hit_MN.cumsum(1).gather(1, group_end_MN - 1)
    precision_sum_M = (hit_MN * hits_to_end_MN / group_end_MN).sum(1)
    positives_M = hit_MN.sum(1)
    return torch.where(positives_M > 0, precision_sum_M / positives_M.clamp(min=1), torch.nan)


def macro_average_precision(logit_JNC: Tensor, target_JNC: Tensor, real_JN: Tensor) -> Tensor:
    """Mean average precision over the classes with at least one positive, per probe: [J].

    Zero where no class has a positive.
    """
    jobs, clips, classes = logit_JNC.shape
    score_JCN = logit_JNC.masked_fill(~real_JN.unsqueeze(-1), -torch.inf).transpose(1, 2)
    target_JCN = (target_JNC * real_JN.unsqueeze(-1)).transpose(1, 2)
    ap_M = average_precision(
        score_JCN.reshape(jobs * classes, clips).contiguous(),
        target_JCN.reshape(jobs * classes, clips),
    )
    return ap_M.view(jobs, classes).nanmean(1).nan_to_num(0.0)
