"""Clustering against scikit-learn called by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from dawnchorus.trainer.evaluation.clustering import evaluate_clustering
from dawnchorus.trainer.evaluation.config import ClusteringConfig


def test_is_the_papers_k_means() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=80)
    emb = (rng.standard_normal((80, 6)) + 1.2 * np.eye(6)[truth]).astype(np.float32)
    result = evaluate_clustering(emb, np.eye(4, dtype=bool)[truth], ClusteringConfig(seeds=2))
    by_hand = []
    for seed in (42, 43):
        kmeans = KMeans(n_clusters=4, n_init=10, max_iter=300, random_state=seed)
        found = kmeans.fit_predict(emb)
        by_hand.append(
            (normalized_mutual_info_score(truth, found), adjusted_rand_score(truth, found))
        )
    assert result["nmi"]["per_seed"] == pytest.approx([nmi for nmi, _ in by_hand])
    assert result["ari"]["per_seed"] == pytest.approx([ari for _, ari in by_hand])
    assert result["nmi"]["mean"] == pytest.approx(np.mean([nmi for nmi, _ in by_hand]))
    assert result["nmi"]["std"] == pytest.approx(np.std([nmi for nmi, _ in by_hand], ddof=1))


def test_only_clips_with_one_label_take_part() -> None:
    hot = np.eye(3, dtype=bool)[np.repeat([0, 1, 2], 6)]
    emb = hot.astype(np.float32) + 0.01 * np.arange(18)[:, None]
    hot[0] = [True, True, False]
    hot[1] = False
    emb[:2] = 1000.0  # would be a cluster of their own
    result = evaluate_clustering(emb, hot, ClusteringConfig())
    assert (result["n"], result["left_out"], result["clusters"]) == (16, 2, 3)
    assert result["nmi"]["mean"] == pytest.approx(1.0)
    assert result["seeds"] == [42, 43, 44]


def test_one_label_has_no_figure() -> None:
    result = evaluate_clustering(np.eye(3), np.ones((3, 1), dtype=bool), ClusteringConfig())
    assert result["nmi"] is None and result["clusters"] == 1
