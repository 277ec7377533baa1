"""Retrieval: whether a clip is closer to the clips that share its label than to the others.

Each clip is a query once. The others are ranked by cosine similarity; clips that share at least
one label with the query are the positives. The figure is the ROC-AUC of that ranking, averaged
over the queries that have at least one positive and one negative (arXiv 2508.11845, section 5).

Shape legend: N clips, D channels, C classes, Q queries of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.config import RetrievalConfig

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def unit_rows(emb_ND: npt.NDArray[Any]) -> Tensor:
    """Rows scaled to length 1 in float64; a zero row stays zero (similarity 0 to everything)."""
    unit_ND = torch.from_numpy(np.asarray(emb_ND, dtype=np.float64))
    length_N1: Tensor = torch.linalg.vector_norm(unit_ND, dim=1, keepdim=True)
    return unit_ND / length_N1.clamp(min=1e-12)


def rank_scores(
    sim_QN: Tensor, positive_QN: Tensor, excluded_QN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ROC-AUC and precision at 1 of each row, exact with ties.

    The AUC is the Mann-Whitney statistic on midranks, so equal similarities count half, as in
    scikit-learn's `roc_auc_score`. Where several clips tie for the nearest, precision at 1 is the
    share of positives among them: its expected value under a random order.

    Args:
        sim_QN: similarity of each query to each clip, finite.
        positive_QN: bool, shares a label with the query.
        excluded_QN: bool, not in the query's gallery (at least the query itself).

    Returns:
        auc_Q, precision_Q (NaN where there is no positive or no negative; precision needs only
        one clip in the gallery, and a positive), and counted_Q, the bool mask of usable queries.
    """
    sim_QN = sim_QN.masked_fill(excluded_QN, -torch.inf)
    positive_QN = positive_QN & ~excluded_QN
    positives_Q = positive_QN.sum(1)
    excluded_Q = excluded_QN.sum(1)
    negatives_Q = sim_QN.shape[1] - excluded_Q - positives_Q
    sorted_QN = sim_QN.sort(dim=1).values
    below_QN = torch.searchsorted(sorted_QN, sim_QN, right=False)
    up_to_QN = torch.searchsorted(sorted_QN, sim_QN, right=True)
    # Excluded clips hold the lowest ranks, so the others' ranks shift down by their number.
    midrank_QN = (below_QN + up_to_QN + 1).double() / 2 - excluded_Q[:, None]
    rank_sum_Q = (midrank_QN * positive_QN).sum(1)
    wins_Q = rank_sum_Q - positives_Q * (positives_Q + 1) / 2
    counted_Q = (positives_Q > 0) & (negatives_Q > 0)
    nan = torch.full_like(wins_Q, torch.nan)
    auc_Q = torch.where(counted_Q, wins_Q / (positives_Q * negatives_Q).clamp(min=1), nan)
    top_QN = sim_QN == sorted_QN[:, -1:]
    hits_Q = (top_QN & positive_QN).sum(1).double() / top_QN.sum(1)
    return auc_Q, torch.where(positives_Q > 0, hits_Q, nan), counted_Q


@dataclass(frozen=True)
class Gallery:
    """M clips to be ranked for queries that are not among them."""

    emb_MD: npt.NDArray[Any]
    label_MC: npt.NDArray[np.bool_]
    group_M: IntArray


def query_scores(
    emb_ND: npt.NDArray[Any],
    label_NC: npt.NDArray[np.bool_],
    *,
    group_N: IntArray | None = None,
    gallery: Gallery | None = None,
    chunk_queries: int = 256,
    device: torch.device | str = "cpu",
) -> tuple[FloatArray, FloatArray]:
    """ROC-AUC and precision at 1 of every clip as a query.

    Args:
        emb_ND: embeddings, any float type.
        label_NC: bool, multi-hot.
        group_N: where given, clips of the query's own group are left out of its gallery.
        gallery: what is ranked; left out: the queries themselves, each without itself.
        chunk_queries: rows ranked at once.
        device: where to rank.

    Returns:
        auc_N, precision_N; NaN where a query has no positive or (AUC) no negative.
    """
    unit_ND = unit_rows(emb_ND).to(device)
    hot_NC = torch.from_numpy(np.asarray(label_NC, dtype=np.float32)).to(device)
    group = torch.arange(len(unit_ND)) if group_N is None else torch.from_numpy(group_N)
    group = group.to(device)
    ranked_MD, ranked_MC, ranked_group = unit_ND, hot_NC, group
    if gallery is not None:
        ranked_MD = unit_rows(gallery.emb_MD).to(device)
        ranked_MC = torch.from_numpy(np.asarray(gallery.label_MC, dtype=np.float32)).to(device)
        # No query is in another set: without groups nothing is left out.
        none = torch.full((len(ranked_MD),), -1)
        ranked_group = none if group_N is None else torch.from_numpy(gallery.group_M)
        ranked_group = ranked_group.to(device)
    aucs, precisions = [], []
    for rows in torch.split(torch.arange(len(unit_ND), device=device), chunk_queries):
        auc_Q, precision_Q, _ = rank_scores(
            unit_ND[rows] @ ranked_MD.T,
            hot_NC[rows] @ ranked_MC.T > 0,
            group[rows, None] == ranked_group[None, :],
        )
        aucs.append(auc_Q.cpu().numpy())
        precisions.append(precision_Q.cpu().numpy())
    return np.concatenate(aucs), np.concatenate(precisions)


def group_bootstrap(value_N: FloatArray, group_N: IntArray, resamples: int) -> list[float] | None:
    """95 % interval of the mean when whole groups are drawn with replacement (percentiles).

    Clips of one recording stand or fall together; an interval over single clips would be too
    narrow. NaN values are left out. None where one group is left (drawing it again and again shows
    no spread: that says nothing of other groups), or nothing is, or no resample is asked for.
    """
    kept = ~np.isnan(value_N)
    groups, code = np.unique(group_N[kept], return_inverse=True)
    if len(groups) < 2 or resamples < 1:
        return None
    sums = np.bincount(code, weights=value_N[kept])
    counts = np.bincount(code)
    draws = _drawn_groups(len(groups), resamples)
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return [float(q) for q in np.quantile(means, [0.025, 0.975])]


def _drawn_groups(groups: int, resamples: int) -> IntArray:
    return np.random.default_rng(0).integers(groups, size=(resamples, groups))


def group_weights(group_N: IntArray, used: IntArray, resamples: int) -> IntArray | None:
    """How often each clip is drawn when the groups of the used clips are drawn with replacement:
    [R, N], 0 for other clips. None where `group_bootstrap` gives None.
    """
    groups, code = np.unique(group_N[used], return_inverse=True)
    if len(groups) < 2 or resamples < 1:
        return None
    draws = _drawn_groups(len(groups), resamples)
    times = np.stack([np.bincount(row, minlength=len(groups)) for row in draws])
    weight_RN = np.zeros((resamples, len(group_N)), np.int64)
    weight_RN[:, used] = times[:, code]
    return weight_RN


def _summary(
    auc_N: FloatArray, precision_N: FloatArray, group_N: IntArray, config: RetrievalConfig
) -> dict[str, Any]:
    n = int((~np.isnan(auc_N)).sum())
    groups = len(np.unique(group_N[~np.isnan(auc_N)]))
    if n == 0:
        return {"roc_auc": None, "p_at_1": None, "n": 0, "groups": 0, "roc_auc_ci95": None}
    interval = group_bootstrap(auc_N, group_N, config.bootstrap)
    return {
        "roc_auc": float(np.nanmean(auc_N)),
        "p_at_1": float(np.nanmean(precision_N)),
        "n": n,
        "groups": groups,
        "roc_auc_ci95": interval,
    }


def evaluate_retrieval(
    emb_ND: npt.NDArray[Any],
    label_NC: npt.NDArray[np.bool_],
    group_N: IntArray,
    config: RetrievalConfig,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Retrieval figures of a set of clips.

    Args:
        emb_ND: embeddings.
        label_NC: bool, multi-hot.
        group_N: group number of each clip.
        config: options.
        device: where to rank.

    Returns:
        `roc_auc`, `p_at_1`, `n` (queries counted for the AUC), `groups` (that these are of),
        `roc_auc_ci95` (groups resampled; None for one group), and the same under
        `same_group_excluded`. Values are None where no query counts.
    """
    scores = query_scores(emb_ND, label_NC, chunk_queries=config.chunk_queries, device=device)
    result = _summary(*scores, group_N, config)
    if config.exclude_same_group:
        scores = query_scores(
            emb_ND, label_NC, group_N=group_N, chunk_queries=config.chunk_queries, device=device
        )
        result["same_group_excluded"] = _summary(*scores, group_N, config)
    return result


def evaluate_across(
    emb_ND: npt.NDArray[Any],
    label_NC: npt.NDArray[np.bool_],
    group_N: IntArray,
    pairs: Sequence[tuple[IntArray, IntArray]],
    config: RetrievalConfig,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Retrieval figures from one set of clips to another.

    Args:
        emb_ND: embeddings of all clips.
        label_NC: bool, multi-hot.
        group_N: group number of each clip.
        pairs: clip numbers of the queries and of what is ranked for them, for each division.
        config: options.
        device: where to rank.

    Returns:
        As `evaluate_retrieval`, over the queries of all divisions together, and `gallery`: how many
        clips were ranked in each. `same_group_excluded` only where some group is on both sides.
    """
    queries = np.concatenate([query for query, _ in pairs])

    def scores(exclude: bool) -> tuple[FloatArray, FloatArray]:
        found = [
            query_scores(
                emb_ND[query], label_NC[query], group_N=group_N[query] if exclude else None,
                gallery=Gallery(emb_ND[ranked], label_NC[ranked], group_N[ranked]),
                chunk_queries=config.chunk_queries, device=device,
            )
            for query, ranked in pairs
        ]  # fmt: skip
        return np.concatenate([a for a, _ in found]), np.concatenate([p for _, p in found])

    result = _summary(*scores(False), group_N[queries], config)
    result["gallery"] = [len(ranked) for _, ranked in pairs]
    shared = any(np.intersect1d(group_N[query], group_N[ranked]).size for query, ranked in pairs)
    if config.exclude_same_group and shared:
        result["same_group_excluded"] = _summary(*scores(True), group_N[queries], config)
    return result
