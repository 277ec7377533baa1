"""Retrieval against scikit-learn's ROC-AUC, query by query."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from dawnchorus.trainer.evaluation.config import RetrievalConfig
from dawnchorus.trainer.evaluation.retrieval import (
    evaluate_across,
    evaluate_retrieval,
    group_bootstrap,
    query_scores,
)


def reference(
    emb: npt.NDArray[np.float64], hot: npt.NDArray[np.bool_], group: npt.NDArray[np.int64]
) -> tuple[list[float], list[float]]:
    """The definition, spelled out: one loop per query."""
    sim = cosine_similarity(emb)
    aucs, precisions = [], []
    for q in range(len(emb)):
        gallery = [i for i in range(len(emb)) if group[i] != group[q]]
        positive = np.array([bool((hot[i] & hot[q]).any()) for i in gallery])
        score = sim[q, gallery]
        usable = 0 < positive.sum() < len(gallery)
        aucs.append(roc_auc_score(positive, score) if usable else np.nan)
        top = score == score.max()
        precisions.append(positive[top].mean() if positive.any() else np.nan)
    return aucs, precisions


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_equals_scikit_learn_per_query(kind: str, chunk: int) -> None:
    rng = np.random.default_rng(3)
    n, classes = 60, 5
    emb = rng.standard_normal((n, 8))
    if kind == "single":
        hot = np.eye(classes, dtype=bool)[rng.integers(classes, size=n)]
        hot[0] = False
        hot[0, classes - 1] = True
    else:
        hot = rng.random((n, classes)) < 0.3
        hot[:4] = False  # clips of nothing: queries without a positive
        hot[4:6] = True
    itself = np.arange(n)
    aucs, precisions = reference(emb, hot, itself)
    got_auc, got_precision = query_scores(emb, hot, chunk_queries=chunk)
    np.testing.assert_allclose(got_auc, aucs, atol=1e-12)
    np.testing.assert_allclose(got_precision, precisions, atol=1e-12)

    group = rng.integers(15, size=n)
    aucs, precisions = reference(emb, hot, group)
    got_auc, got_precision = query_scores(emb, hot, group_N=group, chunk_queries=chunk)
    np.testing.assert_allclose(got_auc, aucs, atol=1e-12)
    np.testing.assert_allclose(got_precision, precisions, atol=1e-12)


def test_ties_count_half() -> None:
    # Axis-parallel vectors: similarities are exactly 0 or 1, so most of a ranking is ties.
    rng = np.random.default_rng(5)
    emb = np.eye(4)[rng.integers(4, size=40)]
    hot = np.eye(3, dtype=bool)[rng.integers(3, size=40)]
    aucs, precisions = reference(emb, hot, np.arange(40))
    got_auc, got_precision = query_scores(emb, hot)
    np.testing.assert_allclose(got_auc, aucs, atol=1e-12)
    np.testing.assert_allclose(got_precision, precisions, atol=1e-12)
    constant, _ = query_scores(np.ones((40, 4)), hot)
    np.testing.assert_allclose(constant, 0.5)


def test_the_query_itself_is_not_in_its_gallery() -> None:
    # Two clips per class, each nearest to the other class: only finding itself would help.
    emb = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.0], [0.0, 1.0]])
    hot = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    auc, precision = query_scores(emb, hot)
    assert auc.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert precision.max() == 0.0


def test_separated_classes_score_one_and_a_zero_vector_does_no_harm() -> None:
    hot = np.eye(3, dtype=bool)[np.repeat([0, 1, 2], 5)]
    emb = np.repeat(np.eye(3), 5, axis=0)
    config = RetrievalConfig()
    result = evaluate_retrieval(emb, hot, np.arange(15), config)
    assert result["roc_auc"] == 1.0 and result["p_at_1"] == 1.0 and result["n"] == 15
    emb[0] = 0.0
    result = evaluate_retrieval(emb, hot, np.arange(15), config)
    assert np.isfinite(result["roc_auc"])


def test_same_group_excluded_is_the_lower_figure_for_a_model_that_knows_recordings() -> None:
    # Embeddings that tell the recording and nothing else.
    group = np.repeat(np.arange(90), 4)
    hot = np.eye(3, dtype=bool)[group % 3]
    emb = np.random.default_rng(0).standard_normal((90, 64))[group]
    result = evaluate_retrieval(emb, hot, group, RetrievalConfig())
    assert result["p_at_1"] == 1.0
    assert result["same_group_excluded"]["p_at_1"] < 0.5
    assert result["same_group_excluded"]["roc_auc"] == pytest.approx(0.5, abs=0.03)
    assert result["roc_auc"] > result["same_group_excluded"]["roc_auc"]
    assert result["same_group_excluded"]["n"] == 360


def test_nothing_to_retrieve_gives_none() -> None:
    result = evaluate_retrieval(np.eye(3), np.eye(3, dtype=bool), np.arange(3), RetrievalConfig())
    assert result["n"] == 0 and result["roc_auc"] is None


def test_the_interval_is_wider_when_clips_come_in_groups() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(10), 10)
    value = rng.random(10)[group]
    low, high = group_bootstrap(value, group, 500)
    low_alone, high_alone = group_bootstrap(value, np.arange(100), 500)
    assert low < value.mean() < high
    assert high - low > 2 * (high_alone - low_alone)
    assert group_bootstrap(value, group, 500) == [low, high]


def test_one_group_has_no_interval() -> None:
    value = np.array([0.2, 0.9, np.nan])
    assert group_bootstrap(value, np.array([3, 3, 4]), 200) is None
    assert group_bootstrap(np.full(2, np.nan), np.arange(2), 200) is None
    low, high = group_bootstrap(value, np.array([3, 4, 4]), 200) or (1.0, 0.0)
    assert low < 0.55 < high
    hot = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    result = evaluate_retrieval(np.eye(4), hot, np.zeros(4, np.int64), RetrievalConfig())
    assert (result["groups"], result["roc_auc_ci95"], result["n"]) == (1, None, 4)


@pytest.mark.parametrize("chunk", [2, 1000])
def test_across_two_sets_equals_scikit_learn_per_query(chunk: int) -> None:
    rng = np.random.default_rng(5)
    emb, group = rng.standard_normal((50, 6)), rng.integers(12, size=50)
    hot = np.eye(5, dtype=bool)[rng.integers(5, size=50)]
    pairs = [(np.arange(0, 10), np.arange(20, 50)), (np.arange(10, 20), np.arange(25, 40))]
    sim = cosine_similarity(emb)

    def expected(apart: bool) -> tuple[list[float], list[float]]:
        aucs, hits = [], []
        for queries, ranked in pairs:
            for q in queries:
                gallery = [i for i in ranked if not apart or group[i] != group[q]]
                positive = hot[gallery][:, hot[q].argmax()]
                if 0 < positive.sum() < len(gallery):
                    aucs.append(float(roc_auc_score(positive, sim[q, gallery])))
                if positive.any():
                    hits.append(float(positive[sim[q, gallery].argmax()]))
        return aucs, hits

    config = RetrievalConfig(chunk_queries=chunk)
    result = evaluate_across(emb, hot, group, pairs, config)
    for found, apart in ((result, False), (result["same_group_excluded"], True)):
        aucs, hits = expected(apart)
        assert found["n"] == len(aucs)
        assert found["roc_auc"] == pytest.approx(np.mean(aucs))
        assert found["p_at_1"] == pytest.approx(np.mean(hits))
    assert result["gallery"] == [30, 15]
    alone = evaluate_across(emb, hot, np.arange(50), pairs, config)
    assert "same_group_excluded" not in alone
