"""Average precision and accuracy against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision

from dawnchorus.trainer.evaluation import scores
from dawnchorus.trainer.evaluation.scores import (
    accuracy,
    average_precision,
    class_scores,
    macro_average_precision,
    map_under_weights,
    multi_label_measures,
)


@pytest.mark.parametrize("levels", [1000, 5, 1])
def test_average_precision_is_scikit_learns_with_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    score = rng.integers(levels, size=(20, 60)).astype(np.float32)
    target = rng.random((20, 60)) < 0.2
    target[:, 0] = True
    got = average_precision(torch.from_numpy(score), torch.from_numpy(target))
    for m in range(20):
        assert got[m].item() == pytest.approx(average_precision_score(target[m], score[m]))


def test_a_ranking_without_positives_has_no_average_precision() -> None:
    assert average_precision(torch.randn(1, 5), torch.zeros(1, 5)).isnan().all()


def test_macro_map_is_over_classes_with_a_positive_and_ignores_padding() -> None:
    rng = np.random.default_rng(0)
    score = rng.standard_normal((2, 30, 4)).astype(np.float32)
    target = (rng.random((2, 30, 4)) < 0.3).astype(np.float32)
    target[0, :, 2] = 0
    expected = [
        np.mean([average_precision_score(target[j, :, c], score[j, :, c])
                 for c in range(4) if target[j, :, c].any()])
        for j in range(2)
    ]  # fmt: skip
    junk = torch.full((2, 7, 4), 99.0)
    padded = torch.cat([torch.from_numpy(score), junk], dim=1)
    padded_target = torch.cat([torch.from_numpy(target), torch.ones(2, 7, 4)], dim=1)
    real = torch.arange(37).expand(2, -1) < 30
    got = macro_average_precision(padded, padded_target, real)
    assert got.tolist() == pytest.approx(expected)


def test_accuracy_ignores_padding() -> None:
    logit = torch.eye(3).unsqueeze(0)
    target = torch.tensor([[0, 1, 0]])
    assert accuracy(logit, target, torch.tensor([[True, True, False]])).item() == 1.0
    assert accuracy(logit, target, torch.tensor([[True, True, True]])).item() == pytest.approx(
        2 / 3
    )


def labelled(levels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """80 clips, 6 classes: class 2 without a positive, class 4 on every labelled clip; some clips
    without a label.
    """
    rng = np.random.default_rng(3)
    hot = rng.random((80, 6)) < 0.2
    hot[:, 2], hot[:, 4], hot[60:] = False, True, False
    score = rng.standard_normal((80, 6)) + hot
    if levels:
        score = np.round(score * levels) / levels
    return torch.from_numpy(score.astype(np.float32)), torch.from_numpy(hot)


def beans_mean_average_precision(score: torch.Tensor, hot: torch.Tensor) -> float:
    """BEANS (`beans/metrics.py`): precision at each rank, summed over the positives' ranks."""
    found = []
    for c in range(hot.shape[1]):
        truth = hot[score[:, c].argsort(descending=True), c].double()
        precision = truth.cumsum(0) / torch.arange(1, len(truth) + 1)
        found.append((precision * truth).sum() / max(float(truth.sum()), 1.0))
    return float(torch.stack(found).mean())


def birdset_top_1(score: torch.Tensor, hot: torch.Tensor) -> float:
    """BirdSet's `TopKAccuracy(topk=1)`: clips without a label leave the denominator."""
    first = score.topk(1, dim=1).indices
    correct = hot.unsqueeze(1).gather(2, first.unsqueeze(-1)).any(dim=1).sum()
    return float(correct / (len(hot) - (hot.sum(1) == 0).sum()))


def test_measures_are_the_benchmarks_own() -> None:
    score, hot = labelled()
    found = multi_label_measures(score, hot)
    assert found["beans_map"] == pytest.approx(beans_mean_average_precision(score, hot))
    their_map = MultilabelAveragePrecision(num_labels=6, average="macro", thresholds=None)
    assert found["cmap"] == pytest.approx(float(their_map(score, hot.int())), abs=1e-6)
    assert found["top1"] == pytest.approx(birdset_top_1(score, hot))
    present = [c for c in range(6) if hot[:, c].any()]
    aps = [average_precision_score(hot[:, c], score[:, c]) for c in present]
    assert found["map"] == pytest.approx(np.mean(aps))
    assert found["beans_map"] == pytest.approx(np.sum(aps) / 6)


@pytest.mark.parametrize("levels", [0, 2])
def test_auroc_is_scikit_learns_and_birdsets_counts_absent_classes_as_nothing(levels: int) -> None:
    score, hot = labelled(levels)
    found = multi_label_measures(score, hot)
    present = [c for c in range(6) if hot[:, c].any()]
    aucs = [roc_auc_score(hot[:, c], score[:, c]) for c in present]
    assert found["auroc"] == pytest.approx(np.mean(aucs))
    # torchmetrics takes scores outside [0, 1] for logits, and its sigmoid may tie what differs.
    theirs = MultilabelAUROC(num_labels=6, average="macro", thresholds=None)
    expected = float(theirs(score.double().sigmoid(), hot.int()))
    assert found["birdset_auroc"] == pytest.approx(expected, abs=1e-6)


def test_classes_are_scored_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    score, hot = labelled()
    whole = class_scores(score, hot)
    monkeypatch.setattr(scores, "_AT_ONCE", 200)
    for a, b in zip(whole, class_scores(score, hot), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("levels", [0, 2])
def test_weights_are_repeated_clips(levels: int) -> None:
    score, hot = labelled(levels)
    weight = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (5, 80)))
    found = map_under_weights(score, hot, weight)
    for r in range(5):
        rows = torch.arange(80).repeat_interleave(weight[r])
        assert found[r].item() == pytest.approx(multi_label_measures(score[rows], hot[rows])["map"])
