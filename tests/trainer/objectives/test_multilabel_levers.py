"""Options of the post-training loss: asymmetric, and that of the loudest column."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_multilabel import LABELS, batch, build, head, logits_and_targets

from dawnchorus.trainer.objectives.multilabel import dense_labels
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig


@pytest.mark.parametrize(
    ("plus", "minus", "margin"), [(1.0, 4.0, 0.05), (0.0, 2.0, 0.0), (0.5, 0.5, 0.2)]
)
def test_the_asymmetric_loss_is_the_paper_s(plus: float, minus: float, margin: float) -> None:
    model, objective = build(
        loss="asymmetric", gamma_positive=plus, gamma_negative=minus, margin=margin
    )
    model.eval()
    active_C = torch.tensor([True, True, False, True, True, False])
    objective.set_active(head(model), active_C)
    out = objective.step(batch(), model)
    logit_BC, target_BC = logits_and_targets(model, objective)
    expected = 0.0
    for logit_C, target_C in zip(logit_BC.tolist(), target_BC.tolist(), strict=True):
        for c in (0, 1, 3, 4):
            p = 1 / (1 + math.exp(-logit_C[c]))
            q = min(1.0, 1 - p + margin)
            expected -= (
                (1 - p) ** plus * math.log(p) if target_C[c] else (1 - q) ** minus * math.log(q)
            ) / 4
    assert float(out.loss_sum.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_asymmetric_loss_without_exponents_is_the_usual_one() -> None:
    given = {"gamma_positive": 0.0, "gamma_negative": 0.0, "margin": 0.0}
    model, objective = build(loss="asymmetric", **given)
    plain, usual = build()
    model.eval(), plain.eval()
    ours, theirs = objective.step(batch(), model), usual.step(batch(), plain)
    torch.testing.assert_close(ours.loss_sum, theirs.loss_sum)


@pytest.mark.parametrize("logit", [-120.0, -20.0, 20.0, 120.0])
def test_the_asymmetric_loss_is_finite_where_the_head_is_sure(logit: float) -> None:
    for margin, gamma in ((0.05, 4.0), (0.0, 0.5)):
        model, objective = build(loss="asymmetric", gamma_negative=gamma, margin=margin)
        with torch.no_grad():
            head(model).bias.fill_(logit)
        objective.step(batch(), model).loss_sum.backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_the_frame_loss_is_that_of_the_highest_logit_of_any_column() -> None:
    model, objective = build(frame_max_weight=0.5)
    model.eval()
    heard = replace(batch(), steps_B=torch.tensor([96, 48, 96, 64]))
    out = objective.step(heard, model)
    encoded = model.encoder(heard.x, heard.steps_B)
    grid = model.encoder.grid(96)
    highest = []
    for tokens_ND, steps in zip(encoded.tokens_BND, (96, 48, 96, 64), strict=True):
        columns = tokens_ND.unflatten(0, (grid.times, grid.bands)).mean(1)[: steps // 16]
        highest.append(head(model)(columns).amax(0))
    target_BC = dense_labels(LABELS, torch.stack(highest)).float()
    frames = F.binary_cross_entropy_with_logits(torch.stack(highest), target_BC) * 4
    plain, usual = build()
    plain.eval()
    clip = usual.step(heard, plain).loss_sum
    torch.testing.assert_close(out.loss_sum, clip + 0.5 * frames)
    torch.testing.assert_close(out.logs["frame_loss"][0], frames.detach())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gamma_negative": 2.0}, "gamma_negative is of no use with loss bce"),
        ({"frame_max_weight": 0.5, "pooling": "mean_std"}, "frame_max_weight is 0.5; it must be 0"),
        ({"loss": "asymmetric", "margin": 1.0}, "margin is 1.0; it must be in"),
    ],
)
def test_numbers_that_do_nothing_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MultiLabelConfig(**given)
