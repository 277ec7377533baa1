"""Nearest neighbours against scikit-learn's, with groups, ties and several labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from dawnchorus.trainer.evaluation.config import KnnConfig
from dawnchorus.trainer.evaluation.knn import evaluate_knn, votes


def clips(count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes, groups of four clips that are all but equal, and a mean far from zero."""
    rng = np.random.default_rng(0)
    group = np.arange(count) // 4
    truth = group % 3
    own = rng.standard_normal((count // 4, 8))
    x = own[group] + 0.9 * rng.standard_normal((3, 8))[truth] + 20
    x += 0.05 * rng.standard_normal(x.shape)
    return x, np.eye(3, dtype=bool)[truth], group


@pytest.mark.parametrize("groups", [False, True])
def test_votes_are_scikit_learns_one_clip_or_group_left_out(groups: bool) -> None:
    x, hot, group = clips()
    apart = group if groups else np.arange(len(x))
    score, voted = votes(x, hot, apart, 7)
    assert bool(voted.all()) and float(score.sum(1).max()) == pytest.approx(7, abs=1e-2)
    centred, expected = x - x.mean(0), []
    for n in range(0, len(x), 3):
        rest = apart != apart[n]
        fit = KNeighborsClassifier(7, metric="cosine").fit(centred[rest], hot[rest].argmax(1))
        expected.append(fit.predict_proba(centred[n : n + 1])[0] * 7)
    np.testing.assert_allclose(score.numpy()[::3].round(), np.stack(expected).round(), atol=1e-9)


def test_groups_and_the_mean_matter() -> None:
    x, hot, group = clips()
    found = evaluate_knn(x, hot, group, KnnConfig(neighbours=3), multi_label=False)
    assert (found["metric"], found["neighbours"], found["n"]) == ("accuracy", 3, 300)
    others = found["same_group_excluded"]
    # The clips of the own group are nearest, and say nothing of other groups.
    assert found["value"] == 1.0 and 0.4 < others["value"] < 0.9
    assert others["ci95"][0] < others["value"] < others["ci95"][1]
    # One group left: nobody can vote.
    alone = evaluate_knn(x[:4], hot[:4], group[:4], KnnConfig(), multi_label=False)
    assert alone["value"] == 1.0 and alone["same_group_excluded"]["value"] is None
    assert alone["same_group_excluded"]["n"] == 0


def test_the_nearer_side_wins_a_tie() -> None:
    x = np.array([[1.0, 0], [1, 0.1], [1, -0.3], [-1, 3], [-1, -3], [-1, 0.1]])
    hot = np.eye(2, dtype=bool)[[0, 0, 1, 0, 1, 1]]
    score, _ = votes(x, hot, np.arange(6), 2)
    assert score[0].round().tolist() == [1, 1] and int(score[0].argmax()) == 0


def test_several_labels_are_ranked_by_votes() -> None:
    x, hot, group = clips()
    hot = hot | (np.random.default_rng(1).random(hot.shape) < 0.1)
    found = evaluate_knn(x, hot, group, KnnConfig(neighbours=5), multi_label=True)
    score, _ = votes(x, hot, group, 5)
    expected = average_precision_score(hot, score.numpy(), average="macro")
    assert found["metric"] == "map" and found["ci95"] is None
    assert found["same_group_excluded"]["value"] == pytest.approx(expected)
