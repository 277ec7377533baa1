"""Average precision and accuracy against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from dawnchorus.trainer.evaluation.scores import (
    accuracy,
    average_precision,
    macro_average_precision,
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
