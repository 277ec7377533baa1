from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_multilabel import CLASSES, LABELS, batch, build, head, logits_and_targets
from torch import nn

from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.multilabel import (
    dense_labels,
    probabilities,
    ranking_scores,
    trained_classes,
)
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig
from dawnchorus.trainer.pooling import pool
from dawnchorus.trainer.training.optim import touch


def test_bce_is_the_mean_over_active_classes_summed_over_clips() -> None:
    model, objective = build()
    model.eval()
    active_C = torch.tensor([True, True, False, True, True, False])
    objective.set_active(head(model), active_C)
    logit_BC, target_BC = logits_and_targets(model, objective)
    out = objective.step(batch(), model)
    expected = F.binary_cross_entropy_with_logits(logit_BC[:, active_C], target_BC[:, active_C])
    torch.testing.assert_close(out.loss_sum, expected * 4)
    assert int(out.count) == 4
    assert float(out.logs["loss"][0]) == float(out.loss_sum.detach())


def test_the_mean_over_a_batch_does_not_depend_on_how_it_is_cut() -> None:
    model, objective = build()
    model.eval()
    whole = objective.step(batch(), model)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        full = batch()
        mine = (LABELS[:, 0] >= rows.start) & (LABELS[:, 0] < rows.stop)
        labels_P2 = LABELS[mine] - torch.tensor([rows.start, 0])
        parts.append(
            objective.step(FeatureBatch(full.x[rows], full.steps_B[rows], labels_P2), model)
        )
    torch.testing.assert_close(sum(p.loss_sum for p in parts), whole.loss_sum)
    assert sum(int(p.count) for p in parts) == int(whole.count)


def test_classes_without_positives_learn_nothing_and_win_nothing() -> None:
    model, objective = build()
    active_C = torch.tensor([True, True, False, True, True, False])
    objective.set_active(head(model), active_C)
    optimizer = torch.optim.AdamW(head(model).parameters(), lr=0.1)
    for _ in range(20):
        out = objective.step(batch(), model)
        out.loss_sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    logit_BC, _ = logits_and_targets(model, objective)
    assert torch.allclose(logit_BC[:, ~active_C], torch.tensor(-20.0), atol=1.0)
    assert bool((logit_BC[:, active_C].amin() > logit_BC[:, ~active_C].amax()).all())


def test_a_validation_counts_all_negatives_whatever_its_datasets_are_called() -> None:
    model, objective = build(ignore_cross_source_negatives=True)
    source_classes_SC = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    objective.set_active(head(model), torch.ones(CLASSES, dtype=torch.bool), source_classes_SC)
    model.eval(), objective.eval()
    plain, usual = build()
    plain.eval()
    third = replace(batch(), source_B=torch.full((4,), 2))  # there are two in training
    torch.testing.assert_close(
        objective.step(third, model).loss_sum, usual.step(third, plain).loss_sum
    )


def test_cross_source_negatives_can_be_ignored() -> None:
    model, objective = build(ignore_cross_source_negatives=True)
    model.eval()
    source_classes_SC = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    objective.set_active(head(model), torch.ones(CLASSES, dtype=torch.bool), source_classes_SC)
    logit_BC, target_BC = logits_and_targets(model, objective)
    loss_BC = F.binary_cross_entropy_with_logits(logit_BC, target_BC, reduction="none")
    # Clips 0 and 3 are of source 0, 1 and 2 of source 1. A positive counts anyway.
    counts_BC = source_classes_SC[torch.tensor([0, 1, 1, 0])] | target_BC.bool()
    assert bool(counts_BC[0, 4]) and bool(counts_BC[1, 0]) and not bool(counts_BC[2, 0])
    out = objective.step(batch(), model)
    torch.testing.assert_close(out.loss_sum, (loss_BC * counts_BC).sum() / CLASSES)

    same, plain = build()
    plain.set_active(head(same), torch.ones(CLASSES, dtype=torch.bool), source_classes_SC)
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain.step(batch(), same.eval()).loss_sum, loss_BC.sum() / CLASSES)


def test_softmax_shares_one_among_the_labels() -> None:
    model, objective = build(loss="softmax")
    model.eval()
    active_C = torch.tensor([True, True, True, True, True, False])
    objective.set_active(head(model), active_C)
    logit_BC, target_BC = logits_and_targets(model, objective)
    target_BC = target_BC / target_BC.sum(1, keepdim=True).clamp(min=1)
    out = objective.step(batch(), model)
    rows = [0, 1, 3]  # clip 2 has no label and does not count
    expected = F.cross_entropy(
        logit_BC[rows][:, active_C], target_BC[rows][:, active_C], reduction="sum"
    )
    torch.testing.assert_close(out.loss_sum, expected)
    assert int(out.count) == 3
    out.loss_sum.backward()
    assert all(bool(p.grad.isfinite().all()) for p in head(model).parameters())  # type: ignore[union-attr]


def test_head_works_on_the_masked_mean_in_fp32() -> None:
    model, objective = build()
    model.eval()
    mel_BTF = batch().x
    short = model.encoder(mel_BTF, torch.tensor([96, 48, 96, 32]))
    logit_BC = objective.logits(short, head(model))
    alone = model.encoder(mel_BTF[1:2, :48])
    torch.testing.assert_close(
        logit_BC[1], head(model)(alone.tokens_BND.mean(1))[0], atol=1e-5, rtol=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        low = objective.logits(short, head(model))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, logit_BC)
    mean_BD = pool(short.tokens_BND, short.valid_BN)
    torch.testing.assert_close(head(model)(mean_BD), logit_BC)


def test_frozen_encoder_is_an_extractor_of_fixed_features() -> None:
    model, objective = build()
    model.train()
    first = objective.step(batch(), model, frozen=True)
    second = objective.step(batch(), model, frozen=True)
    assert torch.equal(first.loss_sum, second.loss_sum)  # no dropout, no dropped layers
    assert all(m.training for m in model.modules())
    first.loss_sum.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in head(model).parameters())
    free = [float(objective.step(batch(), model).loss_sum.detach()) for _ in range(2)]
    assert free[0] != free[1]


def test_touch_gives_zero_gradients_to_what_can_train() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[1].bias.requires_grad_(False)
    zero = touch(model.parameters())
    assert float(zero.detach()) == 0
    zero.backward()
    for name, p in model.named_parameters():
        if name == "1.bias":
            assert p.grad is None
        else:
            assert p.grad is not None and not bool(p.grad.any()), name


RANK = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.multilabel import MultiLabel
from dawnchorus.trainer.training.optim import touch
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)

class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        encoder = Beats(BeatsConfig(layers=2, dim=32, ffn_dim=64, heads=4, patch_dim=16,
                                    conv_pos=16, num_buckets=32, max_distance=64))
        self.model = BioEncoder(encoder, ("a", "b", "c"))
        self.objective = MultiLabel(MultiLabelConfig(), 3)
    def forward(self, batch, frozen):
        loss = self.objective.step(batch, self.model, frozen=frozen).loss_sum
        return loss + touch(self.model.encoder.parameters()) if frozen else loss

torch.manual_seed(0)
model = DistributedDataParallel(Both())
batch = FeatureBatch(torch.randn(2, 32, 128), torch.full((2,), 32), torch.tensor([[0, 1]]))
for frozen in (True, True, False, False):
    model.zero_grad()
    model(batch, frozen).backward()
    encoder = model.module.model.encoder
    moved = [p.grad is not None and bool(p.grad.any()) for p in encoder.parameters()]
    assert any(moved) != frozen
    assert all(p.grad is not None for p in model.parameters())
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.ddp
def test_both_phases_under_ddp_without_unused_parameter_search(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]


def test_dense_labels_take_repeats_and_none() -> None:
    like = torch.zeros(2, 3)
    assert dense_labels(torch.tensor([[1, 2], [1, 2], [0, 0]]), like).tolist() == [
        [True, False, False],
        [False, False, True],
    ]
    assert not bool(dense_labels(torch.zeros(0, 2, dtype=torch.int64), like).any())


def test_top1_counts_labelled_clips() -> None:
    model, objective = build()
    model.eval()
    with torch.no_grad():
        head(model).weight.zero_()
        head(model).bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    out = objective.step(batch(), model)
    assert [int(v) for v in out.logs["top1"]] == [2, 3]


def test_prior_bias_starts_near_the_final_rate() -> None:
    model, _ = build(head_bias="prior")
    torch.testing.assert_close(
        head(model).bias.sigmoid(), torch.full((CLASSES,), 1 / CLASSES), atol=1e-6, rtol=0
    )


def test_bad_configs_and_flags() -> None:
    for change, message in (
        ({"loss": "mse"}, "'bce', 'softmax'"),
        ({"head_dropout": 1.0}, "head_dropout"),
        ({"head_bias": "zero"}, "'default', 'prior'"),
        ({"loss": "softmax", "ignore_cross_source_negatives": True}, "must be false"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiLabelConfig(**change)  # type: ignore[arg-type]
    model, objective = build(ignore_cross_source_negatives=True)
    everything = torch.ones(CLASSES, dtype=torch.bool)
    for active_C, sources, message in (
        (everything[:2], None, "2 active flags for 6"),
        (~everything, None, "no class has a positive"),
        (everything, None, "needs the classes of each source"),
        (everything, torch.ones(2, 3), r"expected \[sources, 6\]"),
    ):
        with pytest.raises(ValueError, match=message):
            objective.set_active(head(model), active_C, sources)


def test_learns_labels_that_follow_from_the_sound() -> None:
    torch.manual_seed(0)
    model, objective = build()
    patterns = torch.randn(CLASSES, 16, 128, generator=torch.Generator().manual_seed(9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(40):
        generator = torch.Generator().manual_seed(step)
        has_BC = torch.rand(16, CLASSES, generator=generator) < 0.3
        mel_BTF = torch.einsum("bc,ctf->btf", has_BC.float(), patterns).repeat(1, 4, 1)
        features = FeatureBatch(mel_BTF, torch.full((16,), 64), has_BC.nonzero())
        out = objective.step(features, model)
        (out.loss_sum / out.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    # Knowing only how frequent the labels are costs 0.61.
    assert float(out.logs["loss"][0] / out.count) < 0.35


def test_a_softmax_is_ranked_by_log_probabilities_over_the_active_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    logit_BC = torch.randn(5, 4, generator=generator)
    active_C = torch.tensor([True, True, False, True])
    shift_B1 = 30 * torch.randn(5, 1, generator=generator)
    scores = ranking_scores(logit_BC, active_C, "softmax")
    # A constant that a softmax cannot see must not reorder the clips of a class.
    shifted = ranking_scores((logit_BC + shift_B1).bfloat16(), active_C, "softmax")
    assert scores.dtype == shifted.dtype == torch.float32
    torch.testing.assert_close(
        ranking_scores(logit_BC + shift_B1, active_C, "softmax"), scores, atol=1e-4, rtol=1e-4
    )
    assert not torch.equal((logit_BC + shift_B1).argsort(0), logit_BC.argsort(0))
    share = probabilities(logit_BC, active_C, "softmax")
    torch.testing.assert_close(share.sum(1), torch.ones(5))
    assert scores.isfinite().all() and share[:, 2].eq(0).all()
    assert ranking_scores(logit_BC, active_C, "bce") is logit_BC
    torch.testing.assert_close(probabilities(logit_BC, active_C, "bce"), logit_BC.sigmoid())


def test_the_classes_that_a_head_was_trained_on_are_known_from_its_weights() -> None:
    model, objective = build(loss="softmax")
    active_C = torch.tensor([True, False, True, True, False, True])
    objective.set_active(head(model), active_C)
    assert torch.equal(trained_classes(head(model)), active_C)
    assert trained_classes(nn.Linear(4, 3)).all()


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_validation_ranks_clips_by_scores_that_can_be_compared(loss: str) -> None:
    model, objective = build(loss=loss)
    active_C = torch.tensor([True, True, False, True, True, True])
    objective.set_active(head(model), active_C)
    model.eval(), objective.eval()
    logit_BC, _ = logits_and_targets(model, objective)
    scores_BC = objective.step(batch(), model).scores_BC
    assert scores_BC is not None and not scores_BC.requires_grad
    torch.testing.assert_close(scores_BC, ranking_scores(logit_BC, active_C, loss).detach())
    if loss == "softmax":
        torch.testing.assert_close(scores_BC[:, active_C].exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_rows_that_only_fill_up_count_nowhere(loss: str) -> None:
    model, objective = build(loss=loss)
    model.eval(), objective.eval()
    whole = batch()
    marked = replace(whole, real_B=torch.tensor([True, True, False, False]))
    part = FeatureBatch(whole.x[:2], whole.steps_B[:2], LABELS[:3], torch.tensor([0, 1]))
    with_them, without = objective.step(marked, model), objective.step(part, model)
    torch.testing.assert_close(with_them.loss_sum, without.loss_sum)
    assert int(with_them.count) == int(without.count) == 2
    for name, pair in without.logs.items():
        torch.testing.assert_close(
            torch.stack([x.double() for x in with_them.logs[name]]),
            torch.stack([x.double() for x in pair]),
        )


def test_the_head_may_see_more_than_the_mean() -> None:
    model, objective = build(pooling="mean_std_max")
    assert head(model).in_features == 3 * 32
    out = model.encoder(batch().x, batch().steps_B)
    logit_BC = objective.logits(out, head(model))
    expected = head(model)(pool(out.tokens_BND, out.valid_BN, "mean_std_max"))
    torch.testing.assert_close(logit_BC, expected)
    objective.step(batch(), model).loss_sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
