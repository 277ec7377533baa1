"""Tokenizer training against a second implementation, written from the paper's formulas."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dawnchorus.trainer.encoders.base import Grid
from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.base import Context, FeatureBatch
from dawnchorus.trainer.objectives.tokenizer_distillation import TokenizerDistillation
from dawnchorus.trainer.objectives.tokenizer_distillation_config import TokenizerDistillationConfig
from dawnchorus.trainer.panels import ImagePanel, TokenPanel
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.seeds import mix_seeds

TINY = BeatsConfig(
    layers=2, dim=32, ffn_dim=48, heads=4, patch_dim=16, conv_pos=16, num_buckets=32,
    max_distance=64, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0,
)  # fmt: skip
FRAMES = (96, 96, 64, 40)
NUMBERS = {"teacher": "runs/x", "codebook_size": 12, "codebook_dim": 6, "estimator_layers": 2}


class Plain:
    """What an objective sees of a model, without a head."""

    head, labels = None, None

    def __init__(self, encoder: Beats) -> None:
        self.encoder = encoder


def batch(seed: int = 0, frames: tuple[int, ...] = FRAMES) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(frames), max(frames), 128, generator=generator)
    key_B = mix_seeds(seed, torch.arange(len(frames)))
    return FeatureBatch(x, torch.tensor(frames), key_B=key_B)


def made(seed: int = 0, **changes: Any) -> tuple[TokenizerDistillation, Plain]:
    torch.manual_seed(seed)
    teacher, model = Beats(replace(TINY, layers=3)), Plain(Beats(TINY))
    context = Context(load_encoder=lambda path: teacher)
    config = TokenizerDistillationConfig(**{**NUMBERS, **changes})
    objective = TokenizerDistillation.build(config, model, context)
    objective.prepare(model, [batch(9)])
    return objective.train(), model


def rows(whole: FeatureBatch, *which: int) -> FeatureBatch:
    index = torch.tensor(which)
    return FeatureBatch(whole.x[index], whole.steps_B[index], key_B=whole.keys()[index])


# ------------------------------------------------------------------ loss and gradients


def second_implementation(
    objective: TokenizerDistillation,
    model: Plain,
    whole: FeatureBatch,
    beta: float,
    mean_T: Tensor | float = 0.0,
) -> tuple[Tensor, int, list[list[int]]]:
    """The loss clip by clip and token by token: each clip alone, without its padding."""
    project, codebook = objective.quantizer.project, objective.quantizer.codebook_VE
    total, count, codes = torch.zeros(()), 0, []
    for mel_TF, frames in zip(whole.x, whole.steps_B.tolist(), strict=True):
        mel_1TF = mel_TF[None, : frames // 16 * 16]
        with torch.no_grad():
            target_ND = objective.teacher(mel_1TF).tokens_BND[0] - mean_T
        h_ND = model.encoder(mel_1TF).tokens_BND[0]
        passed, chosen, squares = [], [], []
        for h_D in h_ND:
            inner_D = torch.tanh(project[0].weight @ h_D + project[0].bias)
            z_E = project[2].weight @ inner_D + project[2].bias
            unit_E = z_E / z_E.norm()
            k = min(
                range(len(codebook)), key=lambda v: float((unit_E.detach() - codebook[v]).norm())
            )
            chosen.append(k)
            squares.append(((codebook[k] - unit_E) ** 2).sum() / len(unit_E))
            passed.append(unit_E + (codebook[k] - unit_E).detach())
        hidden_1ND = (torch.stack(passed) @ objective.widen.weight.T + objective.widen.bias)[None]
        out_ND = objective.norm(objective.estimator(hidden_1ND))[0]
        for o_D, t_D, square in zip(out_ND, target_ND, squares, strict=True):
            total = total + 1 - (o_D @ t_D) / (o_D.norm() * t_D.norm()) + beta * square
        count += len(out_ND)
        codes.append(chosen)
    return total, count, codes


def test_loss_and_gradients_are_those_of_a_second_implementation() -> None:
    objective, model = made(commitment_weight=10.0)
    other, theirs = copy.deepcopy((objective, model))
    whole = batch()
    out = objective.step(whole, model)
    expected, count, codes = second_implementation(other, theirs, whole, 10.0)
    assert int(out.count) == count == sum(8 * (frames // 16) for frames in FRAMES)
    torch.testing.assert_close(out.loss_sum, expected, rtol=1e-5, atol=1e-4)
    assert out.code_count_V is not None
    assert out.code_count_V.tolist() == [sum(c.count(k) for c in codes) for k in range(12)]
    (out.loss_sum / out.count).backward()
    (expected / count).backward()
    for ours, reference in ((objective, other), (model.encoder, theirs.encoder)):
        for (name, mine), his in zip(ours.named_parameters(), reference.parameters(), strict=True):
            if name.startswith("teacher."):
                assert mine.grad is None and not mine.requires_grad
                continue
            assert mine.grad is not None and his.grad is not None, name
            torch.testing.assert_close(mine.grad, his.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_centred_targets_and_the_floor_of_the_mean() -> None:
    """The mean is that of the valid tokens of the first clips; a guess of it is the floor."""
    (plain, model), (centred, same) = made(), made(centre_targets=True)
    first, tokens = batch(9), []
    with torch.no_grad():
        for mel_TF, frames in zip(first.x, FRAMES, strict=True):
            tokens += list(plain.teacher(mel_TF[None, : frames // 16 * 16]).tokens_BND[0])
    mean_T = torch.stack(tokens).mean(0)
    for objective in (plain, centred):
        torch.testing.assert_close(objective.mean_T, mean_T, rtol=1e-4, atol=1e-5)
    whole = batch()
    out = centred.step(whole, same)
    expected, count, _ = second_implementation(centred, same, whole, 1.0, mean_T)
    torch.testing.assert_close(out.loss_sum, expected, rtol=1e-4, atol=1e-3)
    assert float(out.logs["mean_cosine"][0]) == 0
    out = plain.step(whole, model)
    guess, _ = out.logs["mean_cosine"]
    with torch.no_grad():
        targets = [
            plain.teacher(mel_TF[None, : frames // 16 * 16]).tokens_BND[0]
            for mel_TF, frames in zip(whole.x, FRAMES, strict=True)
        ]
    cosines = [float(t @ mean_T / (t.norm() * mean_T.norm())) for t in torch.cat(targets)]
    assert float(guess) == pytest.approx(sum(cosines), rel=1e-4) and len(cosines) == count


# ------------------------------------------------------------------ the codebook


def test_codes_move_as_the_published_code_moves_them() -> None:
    """v <- l2(0.99 v + 0.01 l2(mean of its tokens)), in plain Python; others stay."""
    objective, model = made(revive_below=0.0)
    for step in range(3):
        whole = batch(step)
        before = objective.quantizer.codebook_VE.clone()
        share_V = objective.quantizer.share_V.clone()
        _, count, codes = second_implementation(objective, model, whole, 1.0)
        unit_BNE = objective.quantizer.unit(model.encoder(whole.x, whole.steps_B).tokens_BND)
        objective.step(whole, model)
        assert torch.equal(objective.quantizer.codebook_VE, before)  # until the optimiser moved
        objective.after_step(model, step, 3)
        for k, old_E in enumerate(before):
            tokens = [
                unit_BNE[b, n]
                for b, clip in enumerate(codes)
                for n, code in enumerate(clip)
                if code == k
            ]
            new_E, share = objective.quantizer.codebook_VE[k], len(tokens) / count
            if tokens:
                mean_E = torch.stack(tokens).mean(0)
                old_E = 0.99 * old_E + 0.01 * mean_E / mean_E.norm()
                old_E = old_E / old_E.norm()
            torch.testing.assert_close(new_E, old_E, rtol=0, atol=1e-6)
            expected = 0.99 * float(share_V[k]) + 0.01 * share
            assert float(objective.quantizer.share_V[k]) == pytest.approx(expected, abs=1e-6)


def test_k_means_is_that_of_the_published_code() -> None:
    """Ten rounds with cosines; an empty cluster keeps its centre. The first centres are drawn."""
    objective, model = made()
    whole, generator = batch(9), torch.Generator().manual_seed(1)
    encoder = model.encoder.eval()
    with torch.no_grad():
        unit_BNE = objective.quantizer.unit(encoder(whole.x, whole.steps_B).tokens_BND)
    valid_BN = encoder.valid(whole.steps_B, encoder.grid(96))
    tokens = list(unit_BNE[valid_BN])
    lot = dict(zip(torch.randperm(len(tokens), generator=generator).tolist(), tokens, strict=True))
    centres = [lot[k] for k in range(12)]
    for _ in range(10):
        near = [max(range(12), key=lambda k: float(t @ centres[k])) for t in tokens]
        members = [[t for t, n in zip(tokens, near, strict=True) if n == k] for k in range(12)]
        means = [torch.stack(m).mean(0) if m else centres[k] for k, m in enumerate(members)]
        centres = [m / m.norm() for m in means]
    quantizer = objective.quantizer
    numbers = torch.randperm(len(tokens), generator=generator.manual_seed(1))
    quantizer.start(torch.stack(tokens), numbers)
    torch.testing.assert_close(quantizer.codebook_VE, torch.stack(centres), rtol=0, atol=1e-5)
    shares = [len(m) / len(tokens) for m in members]
    assert quantizer.share_V.tolist() == pytest.approx(shares)


def test_padding_micro_batches_and_modes_change_nothing() -> None:
    whole = batch()
    (one, model), (parts, _), (padded, _) = made(), made(), made()
    one.step(whole, model)
    for which in ((3,), (0, 2), (1,)):
        parts.step(rows(whole, *which), model)
    for other in (one, parts, padded):
        other.quantizer.revive_below = 2.0  # so that some are revived
    loud = FeatureBatch(whole.x.clone(), whole.steps_B, key_B=whole.key_B)
    for row, frames in enumerate(FRAMES):
        loud.x[row, frames:] = 5.0
    padded.step(loud, model)
    for objective in (one, parts, padded):
        objective.after_step(model, 0, 9)
    assert int(one.quantizer.revived) > 0
    for name, buffer in one.quantizer.named_buffers():
        for other in (parts, padded):
            mine = other.quantizer.get_buffer(name)
            torch.testing.assert_close(mine, buffer, rtol=0, atol=1e-6, msg=name)
    # A validation counts nothing.
    one.eval()
    one.step(whole, model)
    assert float(one.quantizer.count_V.sum()) == 0
    whole.real_B = torch.tensor([True, False, True, False])
    some = one.step(whole, model)
    only = one.step(rows(whole, 0, 2), model)
    assert int(some.count) == int(only.count)
    torch.testing.assert_close(some.loss_sum, only.loss_sum, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some.code_count_V, only.code_count_V)


def test_a_step_that_is_not_finite_leaves_the_codebook_alone() -> None:
    objective, model = made()
    before = copy.deepcopy(objective.quantizer.state_dict())
    whole = batch()
    whole.x[0, 3] = math.nan
    objective.step(whole, model)
    objective.after_step(model, 0, 9)
    after = objective.quantizer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    objective.step(batch(), model)
    objective.after_step(model, 1, 9)
    assert not torch.equal(objective.quantizer.codebook_VE, before["codebook_VE"])
    assert bool(objective.quantizer.codebook_VE.isfinite().all())


# ------------------------------------------------------------------ as a whole


def test_it_learns_codes_from_which_the_teacher_can_be_told() -> None:
    objective, model = made(codebook_size=24, commitment_weight=1.0)
    generator = torch.Generator().manual_seed(5)
    patches = torch.randn(8, 16, 16, generator=generator)

    def textures(step: int) -> FeatureBatch:
        which = torch.randint(8, (8, 4, 8), generator=generator)
        x = patches[which].permute(0, 1, 3, 2, 4).reshape(8, 64, 128)
        return FeatureBatch(x, torch.full((8,), 64), key_B=mix_seeds(step, torch.arange(8)))

    objective.prepare(model, [textures(0)])
    learnt = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([*model.encoder.parameters(), *learnt], 2e-3)
    cosines = []
    for step in range(60):
        out = objective.step(textures(step), model)
        optimizer.zero_grad()
        (out.loss_sum / out.count).backward()
        optimizer.step()
        objective.after_step(model, step, 60)
        cosines.append(float(out.logs["cosine"][0] / out.count))
    assert cosines[-1] > 0.5 and cosines[-1] > cosines[0] + 0.3, cosines[::10]
    assert float(out.logs["perplexity"][0] / out.count) > 4


def test_figures_of_a_validation_are_of_its_own_tokens() -> None:
    objective, model = made()
    objective.eval()
    scorer = objective.scorer(model)
    counts = torch.zeros(12, dtype=torch.int64)
    for seed in (1, 2):
        out = objective.step(batch(seed), model)
        scorer.update(out, batch(seed))
        counts += out.code_count_V
    scorer.sync()
    figures = scorer.finish({"loss": 1.0, "perplexity": 3.0})
    share = counts.double() / counts.sum()
    entropy = -sum(p * math.log(p) for p in share.tolist() if p)
    assert figures["perplexity"] == pytest.approx(math.exp(entropy))
    assert figures["codes_used"] == int((counts > 0).sum()) and figures["loss"] == 1.0


def test_the_teacher_is_frozen_and_hears_what_it_is_to_hear() -> None:
    torch.manual_seed(0)
    teacher = Beats(replace(TINY, layers=3, dropout=0.5, layer_drop=0.5))
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    model = Plain(Beats(TINY))
    config = TokenizerDistillationConfig(**NUMBERS)
    objective = TokenizerDistillation.build(
        config, model, Context(load_encoder=lambda path: teacher)
    ).train()
    whole = batch()
    objective.prepare(model, [whole])
    out = objective.step(whole, model)
    assert torch.equal(objective.step(whole, model).loss_sum, out.loss_sum)
    whole.clean = torch.zeros_like(whole.x)
    assert not torch.equal(objective.step(whole, model).loss_sum, out.loss_sum)
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    deaf = Beats(replace(TINY, mel_mean=10.0))
    with pytest.raises(
        RecipeError, match=r"objective.teacher=runs/x.*mel_mean is 10.0 there and 15"
    ):
        TokenizerDistillation.build(config, model, Context(load_encoder=lambda path: deaf))


def test_the_encoder_s_own_start_is_a_teacher() -> None:
    torch.manual_seed(0)
    model = Plain(Beats(TINY))
    config = TokenizerDistillationConfig(**NUMBERS | {"teacher": "start"})
    objective = TokenizerDistillation.build(config, model, Context())
    own = model.encoder.state_dict()
    assert all(torch.equal(t, own[name]) for name, t in objective.teacher.state_dict().items())
    with torch.no_grad():
        model.encoder.layer_norm.weight.add_(1.0)
    assert not torch.equal(objective.teacher.layer_norm.weight, model.encoder.layer_norm.weight)


def test_costs_and_what_people_look_at() -> None:
    objective, model = made()
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert objective.config.parameters(TINY, 0) == trained
    kept = sum(p.numel() for p in objective.parameters() if not p.requires_grad)
    assert objective.config.frozen_parameters(replace(TINY, layers=3)) == kept
    grid = Grid(6, 8, token_s=0.16)
    forward = model.encoder.clip_flops(grid) + objective.estimator.flops(48)
    assert objective.flops(model, grid) > 3 * forward + objective.teacher.clip_flops(grid)
    objective.eval()
    for row, frames in enumerate(FRAMES):
        codes, picture = objective.look(batch(), model)[row]
        assert isinstance(codes, TokenPanel) and isinstance(picture, ImagePanel)
        assert codes.times == frames // 16 == len(picture.image_XF)
        assert picture.image_XF.max() <= 1.0001


def test_what_cannot_be_trained_is_refused() -> None:
    objective, model = made()
    with pytest.raises(RecipeError, match=r"codebook_size=12: the first clips have 16 tokens"):
        objective.prepare(model, [batch(0, (32,))])
    data = "data.train.main.path=/tones"
    with pytest.raises(RecipeError, match=r"objective.teacher: whose output"):
        load_recipe("tokenizer_beats_tiny", [data, "objective.teacher=null"])
    with pytest.raises(RecipeError, match=r"optim.ema_decay must be null"):
        load_recipe("tokenizer_beats_tiny", [data, "optim.ema_decay=0.999"])
    with pytest.raises(RecipeError, match=r"makes its estimator of layers"):
        load_recipe("sl_effnet_tiny", [data, "objective=tokenizer_distillation"])
