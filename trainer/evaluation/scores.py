"""Accuracy and macro average precision of several probes at once, on the device.

Shape legend: J probes, N clips, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.retrieval import rank_scores


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


_AT_ONCE = 4_000_000
"""Scores that are ranked at once."""


def class_scores(score_NC: Tensor, hot_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision and AUROC of each class, some classes at a time.

    Args:
        score_NC: scores of N clips.
        hot_NC: bool.

    Returns:
        [C] each, float64 on the CPU: `average_precision` (NaN for a class without a positive), and
        the area under the ROC curve, ties counting half (NaN without a positive or a negative).
    """
    clips, classes = score_NC.shape
    aps, aucs = [], []
    for columns in torch.split(torch.arange(classes), max(1, _AT_ONCE // max(clips, 1))):
        score_MN = score_NC[:, columns].T.contiguous()
        hot_MN = hot_NC[:, columns].T.contiguous()
        aps.append(average_precision(score_MN, hot_MN).cpu())
        aucs.append(rank_scores(score_MN, hot_MN, torch.zeros_like(hot_MN))[0].cpu())
    return torch.cat(aps), torch.cat(aucs)


def multi_label_measures(score_NC: Tensor, hot_NC: Tensor) -> dict[str, float]:
    """What the benchmarks report of clips with any number of labels, each by its own definition.

    `map`: mean average precision over the classes with a positive. `beans_map`: over all classes,
    0 for one without a positive (BEANS, arXiv 2210.12300). `cmap`, `birdset_auroc`, `top1`: as
    BirdSet's code (arXiv 2403.10380; `birdset/modules/metrics/multilabel.py`, torchmetrics 1):
    macro average precision and macro AUROC in which a class that has none counts 0, and whether the
    class ranked first is a label, over the clips with a label. `auroc`: the mean over the classes
    that have one. (`beans_map` and `cmap` are the same number, each under the name that it is
    looked for.)

    Args:
        score_NC: scores of N clips.
        hot_NC: bool.
    """
    ap_C, auc_C = class_scores(score_NC, hot_NC)
    labelled_N = hot_NC.any(1)
    first_N1 = score_NC.argmax(1, keepdim=True)
    hit_N = hot_NC.gather(1, first_N1).squeeze(1)[labelled_N]
    every = float(ap_C.nan_to_num(0.0).mean())
    return {
        "map": float(ap_C.nanmean().nan_to_num(0.0)),
        "beans_map": every,
        "cmap": every,
        "auroc": float(auc_C.nanmean().nan_to_num(0.0)),
        "birdset_auroc": float(auc_C.nan_to_num(0.0).mean()),
        "top1": float(hit_N.double().mean().nan_to_num(0.0)),
    }


def map_under_weights(score_NC: Tensor, hot_NC: Tensor, weight_RN: Tensor) -> Tensor:
    """The mean average precision over classes with a positive, of resampled clips.

    Args:
        score_NC: scores of N clips.
        hot_NC: bool.
        weight_RN: how often each of R resamples has each clip.

    Returns:
        [R] in float64: what `multi_label_measures` calls `map` on clips that are repeated so often.
    """
    falling_CN, order_CN = (-score_NC.T.contiguous()).sort(dim=1, stable=True)
    group_end_CN = torch.searchsorted(falling_CN, falling_CN, right=True) - 1
    hit_CN = hot_NC.T.gather(1, order_CN).double()
    found = []
    for weight_N in weight_RN.double():
        weight_CN = weight_N[order_CN]
        weighed_CN = weight_CN * hit_CN
        hits_CN = weighed_CN.cumsum(1).gather(1, group_end_CN)
        clips_CN = weight_CN.cumsum(1).gather(1, group_end_CN)
        positives_C = weighed_CN.sum(1)
        ap_C = (weighed_CN * hits_CN / clips_CN.clamp(min=1e-9)).sum(1) / positives_C
        found.append(ap_C.nanmean())
    return torch.stack(found).nan_to_num(0.0)
