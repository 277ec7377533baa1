"""Nearest neighbours: whether the clips nearest to each clip have its labels. Nothing is fitted.

Shape legend: N clips, D channels, C classes, Q clips of a chunk, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.config import KnnConfig
from dawnchorus.trainer.evaluation.retrieval import group_bootstrap, unit_rows
from dawnchorus.trainer.evaluation.scores import multi_label_measures

IntArray = npt.NDArray[np.int64]
_CHUNK = 256
_TIE = 1e-4
"""Weight of the similarity beside a vote: it decides between equally many votes only."""


def votes(
    emb_ND: npt.NDArray[Any],
    label_NC: npt.NDArray[np.bool_],
    group_N: IntArray,
    neighbours: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """What the nearest clips of other groups say of each clip.

    Embeddings are centred on their mean first: those of a transformer share a large component,
    which makes all cosines alike.

    Args:
        emb_ND: embeddings.
        label_NC: bool, multi-hot.
        group_N: clips of the same group are no neighbours; give each clip its own to leave out
            only itself.
        neighbours: how many vote, by cosine similarity; all there are where they are fewer.
        device: where to compute.

    Returns:
        score_NC in float64: votes for each class, and a little more for nearer ones, so that the
        nearer side wins a tie; voted_N, bool: whether there was any clip of another group.
    """
    emb = np.asarray(emb_ND, np.float64)
    unit_ND = unit_rows(emb - emb.mean(0)).to(device)
    hot_NC = torch.from_numpy(np.asarray(label_NC)).to(device).double()
    group = torch.from_numpy(np.asarray(group_N)).to(device)
    neighbours = min(neighbours, len(emb))
    scores, voted = [], []
    for rows in torch.split(torch.arange(len(emb), device=device), _CHUNK):
        sim_QN = unit_ND[rows] @ unit_ND.T
        sim_QN.masked_fill_(group[rows, None] == group[None, :], -torch.inf)
        sim_QK, near_QK = sim_QN.topk(neighbours, dim=1)
        there_QK = sim_QK.isfinite()
        weight_QK = there_QK * (1 + _TIE * sim_QK.masked_fill(~there_QK, 0.0))
        scores.append(torch.einsum("qk,qkc->qc", weight_QK, hot_NC[near_QK]).cpu())
        voted.append(there_QK.any(1).cpu())
    return torch.cat(scores), torch.cat(voted)


def evaluate_knn(
    emb_ND: npt.NDArray[Any],
    label_NC: npt.NDArray[np.bool_],
    group_N: IntArray,
    config: KnnConfig,
    *,
    multi_label: bool,
    resamples: int = 200,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """How well the neighbours of each clip tell its labels, each clip left out in turn.

    Args:
        emb_ND: embeddings.
        label_NC: bool, multi-hot; exactly one true per row unless `multi_label`.
        group_N: group of each clip.
        config: options.
        multi_label: rank the clips by votes, and score by macro mAP instead of accuracy.
        resamples: of whole groups, for the interval of accuracy.
        device: where to compute.

    Returns:
        `metric`, `value`, `neighbours`, `n`, `ci95` (accuracy only), and the same under
        `same_group_excluded`, where a clip's whole group is left out. None for no clip that counts.
    """

    def figures(apart_N: IntArray) -> dict[str, Any]:
        score_NC, voted_N = votes(emb_ND, label_NC, apart_N, config.neighbours, device)
        hot_NC, interval, value = torch.from_numpy(label_NC), None, None
        if bool(voted_N.any()) and multi_label:
            value = multi_label_measures(score_NC[voted_N], hot_NC[voted_N])["map"]
        elif bool(voted_N.any()):
            hit_N = (score_NC.argmax(1) == hot_NC.int().argmax(1)).double()
            hit_N[~voted_N] = torch.nan
            value = float(hit_N.nanmean())
            interval = group_bootstrap(hit_N.numpy(), group_N, resamples)
        return {"value": value, "n": int(voted_N.sum()), "ci95": interval}

    metric = "map" if multi_label else "accuracy"
    return {
        "metric": metric,
        "neighbours": config.neighbours,
        **figures(np.arange(len(label_NC))),
        "same_group_excluded": figures(group_N),
    }
