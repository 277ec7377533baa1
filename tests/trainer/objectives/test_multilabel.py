from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.multilabel import (
    MultiLabel,
    dense_labels,
    probabilities,
    ranking_scores,
    touch,
    trained_classes,
)
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig
from dawnchorus.trainer.pooling import pool

TINY = BeatsConfig(
    layers=2, dim=32, ffn_dim=64, heads=4, patch_dim=16, conv_pos=16, num_buckets=32,
    max_distance=64, layer_drop=0.5,
)  # fmt: skip
CLASSES = 6
LABELS = torch.tensor([[0, 1], [0, 4], [1, 0], [3, 4]])  # clip 2 has none


def build(seed: int = 0, **changes: Any) -> tuple[Beats, MultiLabel]:
    torch.manual_seed(seed)
    return Beats(TINY), MultiLabel(MultiLabelConfig(**changes), 32, CLASSES)


def batch(labels_P2: Tensor = LABELS, clips: int = 4, seed: int = 0) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed)
    return FeatureBatch(
        torch.randn(clips, 96, 128, generator=generator),
        torch.full((clips,), 96),
        labels_P2,
        torch.tensor([0, 1, 1, 0])[:clips],
    )


def logits_and_targets(encoder: Beats, objective: MultiLabel) -> tuple[Tensor, Tensor]:
    out = encoder(batch().mel_BTF, batch().frames_B)
    logit_BC = objective.logits(out.tokens_BND, out.valid_BN)
    return logit_BC, dense_labels(LABELS, logit_BC).float()


def test_bce_is_the_mean_over_active_classes_summed_over_clips() -> None:
    encoder, objective = build()
    encoder.eval()
    active_C = torch.tensor([True, True, False, True, True, False])
    objective.set_active(active_C)
    logit_BC, target_BC = logits_and_targets(encoder, objective)
    out = objective.step(batch(), encoder)
    expected = F.binary_cross_entropy_with_logits(logit_BC[:, active_C], target_BC[:, active_C])
    torch.testing.assert_close(out.loss_sum, expected * 4)
    assert int(out.count) == 4
    assert float(out.logs["loss"][0]) == float(out.loss_sum.detach())


def test_the_mean_over_a_batch_does_not_depend_on_how_it_is_cut() -> None:
    encoder, objective = build()
    encoder.eval()
    whole = objective.step(batch(), encoder)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        full = batch()
        mine = (LABELS[:, 0] >= rows.start) & (LABELS[:, 0] < rows.stop)
        labels_P2 = LABELS[mine] - torch.tensor([rows.start, 0])
        parts.append(
            objective.step(
                FeatureBatch(full.mel_BTF[rows], full.frames_B[rows], labels_P2), encoder
            )
        )
    torch.testing.assert_close(sum(p.loss_sum for p in parts), whole.loss_sum)
    assert sum(int(p.count) for p in parts) == int(whole.count)


def test_classes_without_positives_learn_nothing_and_win_nothing() -> None:
    encoder, objective = build()
    active_C = torch.tensor([True, True, False, True, True, False])
    objective.set_active(active_C)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1)
    for _ in range(20):
        out = objective.step(batch(), encoder)
        out.loss_sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    encoder.eval()
    logit_BC, _ = logits_and_targets(encoder, objective)
    assert torch.allclose(logit_BC[:, ~active_C], torch.tensor(-20.0), atol=1.0)
    assert bool((logit_BC[:, active_C].amin() > logit_BC[:, ~active_C].amax()).all())


def test_cross_source_negatives_can_be_ignored() -> None:
    encoder, objective = build(ignore_cross_source_negatives=True)
    encoder.eval()
    source_classes_SC = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    objective.set_active(torch.ones(CLASSES, dtype=torch.bool), source_classes_SC)
    logit_BC, target_BC = logits_and_targets(encoder, objective)
    loss_BC = F.binary_cross_entropy_with_logits(logit_BC, target_BC, reduction="none")
    # Clips 0 and 3 are of source 0, 1 and 2 of source 1. A positive counts anyway.
    counts_BC = source_classes_SC[torch.tensor([0, 1, 1, 0])] | target_BC.bool()
    assert bool(counts_BC[0, 4]) and bool(counts_BC[1, 0]) and not bool(counts_BC[2, 0])
    out = objective.step(batch(), encoder)
    torch.testing.assert_close(out.loss_sum, (loss_BC * counts_BC).sum() / CLASSES)

    _, plain = build()
    plain.set_active(torch.ones(CLASSES, dtype=torch.bool), source_classes_SC)
    plain.load_state_dict(objective.state_dict())
    torch.testing.assert_close(plain.step(batch(), encoder).loss_sum, loss_BC.sum() / CLASSES)


def test_softmax_shares_one_among_the_labels() -> None:
    encoder, objective = build(loss="softmax")
    encoder.eval()
    active_C = torch.tensor([True, True, True, True, True, False])
    objective.set_active(active_C)
    logit_BC, target_BC = logits_and_targets(encoder, objective)
    target_BC = target_BC / target_BC.sum(1, keepdim=True).clamp(min=1)
    out = objective.step(batch(), encoder)
    rows = [0, 1, 3]  # clip 2 has no label and does not count
    expected = F.cross_entropy(
        logit_BC[rows][:, active_C], target_BC[rows][:, active_C], reduction="sum"
    )
    torch.testing.assert_close(out.loss_sum, expected)
    assert int(out.count) == 3
    out.loss_sum.backward()
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())  # type: ignore[union-attr]


def test_head_works_on_the_masked_mean_in_fp32() -> None:
    encoder, objective = build()
    encoder.eval()
    mel_BTF = batch().mel_BTF
    short = encoder(mel_BTF, torch.tensor([96, 48, 96, 32]))
    logit_BC = objective.logits(short.tokens_BND, short.valid_BN)
    alone = encoder(mel_BTF[1:2, :48])
    torch.testing.assert_close(
        logit_BC[1], objective.head(alone.tokens_BND.mean(1))[0], atol=1e-5, rtol=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        low = objective.logits(short.tokens_BND, short.valid_BN)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, logit_BC)
    mean_BD = pool(short.tokens_BND, short.valid_BN)
    torch.testing.assert_close(objective.head(mean_BD), logit_BC)


def test_frozen_encoder_is_an_extractor_of_fixed_features() -> None:
    encoder, objective = build()
    encoder.train()
    first = objective.step(batch(), encoder, frozen_encoder=True)
    second = objective.step(batch(), encoder, frozen_encoder=True)
    assert torch.equal(first.loss_sum, second.loss_sum)  # no dropout, no dropped layers
    assert encoder.training and all(m.training for m in encoder.modules())
    first.loss_sum.backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert all(p.grad is not None for p in objective.parameters())
    free = [float(objective.step(batch(), encoder).loss_sum.detach()) for _ in range(2)]
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
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.multilabel import MultiLabel, touch
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)

class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Beats(BeatsConfig(layers=2, dim=32, ffn_dim=64, heads=4, patch_dim=16,
                                         conv_pos=16, num_buckets=32, max_distance=64))
        self.objective = MultiLabel(MultiLabelConfig(), 32, 3)
    def forward(self, batch, frozen):
        loss = self.objective.step(batch, self.encoder, frozen_encoder=frozen).loss_sum
        return loss + touch(self.encoder.parameters()) if frozen else loss

torch.manual_seed(0)
model = DistributedDataParallel(Both())
batch = FeatureBatch(torch.randn(2, 32, 128), torch.full((2,), 32), torch.tensor([[0, 1]]))
for frozen in (True, True, False, False):
    model.zero_grad()
    model(batch, frozen).backward()
    moved = [p.grad is not None and bool(p.grad.any()) for p in model.module.encoder.parameters()]
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
    encoder, objective = build()
    encoder.eval()
    with torch.no_grad():
        objective.head.weight.zero_()
        objective.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    out = objective.step(batch(), encoder)
    assert [int(v) for v in out.logs["top1"]] == [2, 3]


def test_prior_bias_starts_near_the_final_rate() -> None:
    _, objective = build(head_bias="prior")
    torch.testing.assert_close(
        objective.head.bias.sigmoid(), torch.full((CLASSES,), 1 / CLASSES), atol=1e-6, rtol=0
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
    _, objective = build(ignore_cross_source_negatives=True)
    everything = torch.ones(CLASSES, dtype=torch.bool)
    for active_C, sources, message in (
        (everything[:2], None, "2 active flags for 6"),
        (~everything, None, "no class has a positive"),
        (everything, None, "needs the classes of each source"),
        (everything, torch.ones(2, 3), r"expected \[sources, 6\]"),
    ):
        with pytest.raises(ValueError, match=message):
            objective.set_active(active_C, sources)


def test_learns_labels_that_follow_from_the_sound() -> None:
    torch.manual_seed(0)
    encoder, objective = build()
    patterns = torch.randn(CLASSES, 16, 128, generator=torch.Generator().manual_seed(9))
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    for step in range(40):
        generator = torch.Generator().manual_seed(step)
        has_BC = torch.rand(16, CLASSES, generator=generator) < 0.3
        mel_BTF = torch.einsum("bc,ctf->btf", has_BC.float(), patterns).repeat(1, 4, 1)
        out = objective.step(
            FeatureBatch(mel_BTF, torch.full((16,), 64), has_BC.nonzero()), encoder
        )
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
    objective = MultiLabel(MultiLabelConfig(loss="softmax"), 32, CLASSES)
    active_C = torch.tensor([True, False, True, True, False, True])
    objective.set_active(active_C)
    assert torch.equal(trained_classes(objective.head), active_C)
    assert trained_classes(nn.Linear(4, 3)).all()


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_validation_ranks_clips_by_scores_that_can_be_compared(loss: str) -> None:
    encoder, objective = build(loss=loss)
    active_C = torch.tensor([True, True, False, True, True, True])
    objective.set_active(active_C)
    encoder.eval(), objective.eval()
    logit_BC, _ = logits_and_targets(encoder, objective)
    scores_BC = objective.step(batch(), encoder).scores_BC
    assert scores_BC is not None and not scores_BC.requires_grad
    torch.testing.assert_close(scores_BC, ranking_scores(logit_BC, active_C, loss).detach())
    if loss == "softmax":
        torch.testing.assert_close(scores_BC[:, active_C].exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_rows_that_only_fill_up_count_nowhere(loss: str) -> None:
    encoder, objective = build(loss=loss)
    encoder.eval(), objective.eval()
    whole = batch()
    marked = replace(whole, real_B=torch.tensor([True, True, False, False]))
    part = FeatureBatch(whole.mel_BTF[:2], whole.frames_B[:2], LABELS[:3], torch.tensor([0, 1]))
    with_them, without = objective.step(marked, encoder), objective.step(part, encoder)
    torch.testing.assert_close(with_them.loss_sum, without.loss_sum)
    assert int(with_them.count) == int(without.count) == 2
    for name, pair in without.logs.items():
        torch.testing.assert_close(
            torch.stack([x.double() for x in with_them.logs[name]]),
            torch.stack([x.double() for x in pair]),
        )


def test_the_head_may_see_more_than_the_mean() -> None:
    encoder, objective = build(pooling="mean_std_max")
    assert objective.head.in_features == 3 * 32
    out = encoder(batch().mel_BTF, batch().frames_B)
    logit_BC = objective.logits(out.tokens_BND, out.valid_BN)
    expected = objective.head(pool(out.tokens_BND, out.valid_BN, "mean_std_max"))
    torch.testing.assert_close(logit_BC, expected)
    objective.step(batch(), encoder).loss_sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
