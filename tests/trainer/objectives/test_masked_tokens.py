from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.masked_tokens import MaskedTokens
from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig
from dawnchorus.trainer.objectives.masking import MaskPlan, draw_masks, valid_places
from dawnchorus.trainer.objectives.tokenizers.random_projection_config import RandomProjectionConfig
from dawnchorus.trainer.objectives.tokenizers.usage import codebook_usage
from dawnchorus.trainer.seeds import mix_seeds

TINY = BeatsConfig(
    layers=2, dim=48, ffn_dim=96, heads=4, patch_dim=32, conv_pos=16, num_buckets=32,
    max_distance=64, layer_drop=0.0,
)  # fmt: skip
CALM = replace(TINY, dropout=0.0, attention_dropout=0.0, input_dropout=0.0)
CODES = RandomProjectionConfig(codebook_size=64, codebook_dim=16, patch_dim=32)


def build(seed: int = 0, encoder: BeatsConfig = TINY, **changes: Any) -> tuple[Beats, MaskedTokens]:
    torch.manual_seed(seed)
    model = Beats(encoder)
    config = MaskedTokensConfig(**{"tokenizer": CODES, "predictor_layers": 2, **changes})
    return model, MaskedTokens(config, model)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keys(clips: int, seed: int = 0) -> Tensor:
    return mix_seeds(seed, torch.arange(clips))


def noise_batch(
    frames: tuple[int, ...] = (160, 160), width: int = 160, seed: int = 0
) -> FeatureBatch:
    return FeatureBatch(
        torch.randn(len(frames), width, 128, generator=rng(seed)),
        torch.tensor(frames),
        key_B=keys(len(frames)),
    )


def texture_batch(seed: int, clips: int = 24, frames: int = 96) -> FeatureBatch:
    """Each clip repeats one of 24 patches: what is masked follows from what is visible."""
    patches = torch.randn(24, 16, 16, generator=rng(123))
    which = torch.randint(24, (clips,), generator=rng(seed))
    mel_BTF = patches[which].repeat(1, frames // 16, 8)
    mel_BTF = mel_BTF + 0.05 * torch.randn(mel_BTF.shape, generator=rng(seed + 1))
    return FeatureBatch(mel_BTF, torch.full((clips,), frames), key_B=keys(clips, seed))


def predictions(
    objective: MaskedTokens, encoder: Beats, batch: FeatureBatch, plan: MaskPlan
) -> Tensor:
    valid_BN = valid_places(batch, encoder)[0]
    hidden_BNE = objective._predict(encoder, batch.x, valid_BN, plan)
    return objective._logits(hidden_BNE, plan.masked_MJ)


# ------------------------------------------------------------------ learning


def train(
    objective: MaskedTokens, encoder: Beats, batches: Callable[[int], FeatureBatch], steps: int
) -> list[dict[str, float]]:
    objective.prepare(BioEncoder(encoder), (batches(step) for step in range(8)))
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3)
    history = []
    for step in range(steps):
        out = objective.step(batches(100 + step), BioEncoder(encoder))
        (out.loss_sum / out.count).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        history.append({k: float(s) / float(c) for k, (s, c) in out.logs.items()})
    return history


@pytest.mark.parametrize("mode", ["true", "compact"])
def test_learns_far_below_the_unigram_baseline(mode: str) -> None:
    encoder, objective = build(encoder=CALM, position_mode=mode)
    history = train(objective, encoder, texture_batch, 40)
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(math.log(64), abs=0.4)
    assert first["unigram_nll"] > 2.5
    assert last["loss"] < 0.25 * last["unigram_nll"]
    assert last["masked_accuracy"] > 0.8 > 3 * last["unigram_accuracy"]


def test_noise_cannot_be_predicted() -> None:
    """The other way round: where nothing follows from what is visible, nothing must be learnt."""
    encoder, objective = build(encoder=CALM)
    last = train(objective, encoder, lambda seed: noise_batch((96,) * 16, 96, seed), 40)[-1]
    assert last["loss"] > last["unigram_nll"] - 0.1


@pytest.mark.parametrize("mode", ["true", "compact"])
def test_gradients_reach_everything(mode: str) -> None:
    encoder, objective = build(position_mode=mode)
    out = objective.step(noise_batch(), BioEncoder(encoder))
    out.loss_sum.backward()
    for name, p in [*encoder.named_parameters(), *objective.named_parameters()]:
        assert p.grad is not None, name
        # A constant added to all keys changes no softmax.
        if not name.endswith("k_proj.bias"):
            assert float(p.grad.abs().max()) > 0, name
    tables = [
        name
        for name, _ in [*encoder.named_parameters(), *objective.named_parameters()]
        if "relative_attention_bias" in name
    ]
    assert len(tables) == 2  # the predictor's is its own


# ------------------------------------------------------------------ what may be seen


@pytest.mark.parametrize("mode", ["true", "compact"])
def test_masked_patches_do_not_leak(mode: str) -> None:
    encoder, objective = build(position_mode=mode)
    encoder.eval()
    objective.eval()
    batch = noise_batch((160, 96))
    plan = draw_masks(valid_places(batch, encoder)[0], 20, batch.keys())

    def with_changed(index: Tensor, row: int) -> Tensor:
        changed = batch.x.clone()
        for n in index.tolist():
            t, f = divmod(n, 8)
            changed[row, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16] = 5.0
        return predictions(objective, encoder, FeatureBatch(changed, batch.steps_B), plan)

    before = predictions(objective, encoder, batch, plan)
    valid_MJ = plan.masked_valid_MJ
    for row in range(2):
        masked = plan.masked_MJ[row][valid_MJ[row]]
        assert torch.equal(with_changed(masked, row)[valid_MJ], before[valid_MJ])
        one = with_changed(plan.keep_MK[row][:1], row)
        assert (one[row] - before[row])[valid_MJ[row]].abs().amax(-1).min() > 1e-6
        assert torch.equal(one[1 - row][valid_MJ[1 - row]], before[1 - row][valid_MJ[1 - row]])


def test_targets_are_the_masked_tokens_alone() -> None:
    """The loss of a model that always says code 7 counts exactly the masked 7s."""
    encoder, objective = build(masks_per_clip=3)
    batch = noise_batch((160, 96))
    with torch.no_grad():
        objective.to_codes.weight.zero_()
        objective.to_codes.bias.fill_(-30.0)
        code_BN = objective.tokenizer(batch.x)
        often = int(code_BN[0].mode().values)
        objective.to_codes.bias[often] = 30.0
    out = objective.step(batch, BioEncoder(encoder))
    plan = draw_masks(valid_places(batch, encoder)[0], objective._kept(80), batch.keys(), views=3)
    hits = total = 0
    for row in range(6):
        masked = plan.masked_MJ[row][plan.masked_valid_MJ[row]]
        hits += int((code_BN[row // 3][masked] == often).sum())
        total += len(masked)
    assert (int(out.logs["masked_accuracy"][0]), int(out.count)) == (hits, total)
    # 24 of 80, and a clip of 48 tokens in proportion
    assert total == 3 * (80 - 24) + 3 * (48 - 14)
    assert float(out.loss_sum.detach()) == pytest.approx(60.0 * (total - hits), rel=1e-4)


def test_position_modes_agree_when_nothing_is_masked() -> None:
    encoder, _ = build()
    encoder.eval()
    batch = noise_batch()
    everything = torch.arange(80).expand(2, -1)
    true = encoder.encode_visible(batch.x, everything)
    compact = encoder.encode_visible(batch.x, everything, compact=True)
    torch.testing.assert_close(true, compact, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(true, encoder(batch.x).tokens_BND, atol=1e-6, rtol=1e-5)
    some = draw_masks(torch.ones(2, 80, dtype=torch.bool), 24, keys(2)).keep_MK
    true = encoder.encode_visible(batch.x, some)
    compact = encoder.encode_visible(batch.x, some, compact=True)
    assert (true - compact).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["true", "compact"])
def test_a_short_clip_in_a_batch_gives_what_it_gives_alone(mode: str) -> None:
    encoder, objective = build(position_mode=mode)
    encoder.eval()
    objective.eval()
    batch = noise_batch((160, 96))
    plan = draw_masks(valid_places(batch, encoder)[0], 24, batch.keys())
    together = predictions(objective, encoder, batch, plan)[1][plan.masked_valid_MJ[1]]
    alone = FeatureBatch(batch.x[1:, :96], batch.steps_B[1:])
    keep = plan.keep_MK[1][plan.keep_valid_MK[1]]
    masked = plan.masked_MJ[1][plan.masked_valid_MJ[1]]
    assert (len(keep), len(masked)) == (14, 34)
    own = MaskPlan(keep[None], keep[None] >= 0, masked[None], masked[None] >= 0)
    torch.testing.assert_close(
        predictions(objective, encoder, alone, own)[0], together, atol=2e-5, rtol=1e-4
    )


def test_views_of_a_clip_share_its_codes_and_have_masks_of_their_own() -> None:
    encoder, objective = build(masks_per_clip=4)
    encoder.eval()
    objective.eval()
    batch = noise_batch()
    out = objective.step(batch, BioEncoder(encoder))
    assert int(out.count) == 4 * 2 * 56
    # The same masks, one view at a time.
    plan = draw_masks(valid_places(batch, encoder)[0], objective._kept(80), batch.keys(), views=4)
    loss_sum = torch.zeros(())
    for view in range(4):
        own = MaskPlan(*(getattr(plan, field.name)[view::4] for field in fields(plan)))
        logit_BJV = predictions(objective, encoder, batch, own)
        target_BJ = objective.tokenizer(batch.x).gather(1, own.masked_MJ)
        loss_sum = loss_sum + F.cross_entropy(logit_BJV.mT, target_BJ, reduction="sum")
    torch.testing.assert_close(loss_sum, out.loss_sum)


def test_low_precision_step() -> None:
    encoder, objective = build()
    encoder.eval()
    objective.eval()
    exact = objective.step(noise_batch(), BioEncoder(encoder))
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective.step(noise_batch(), BioEncoder(encoder))
    assert rough.loss_sum.dtype == torch.float32
    torch.testing.assert_close(rough.loss_sum, exact.loss_sum, rtol=0.01, atol=0)


# ------------------------------------------------------------------ baselines and the gate


def test_unigram_figures() -> None:
    encoder, objective = build()
    batches = [noise_batch((160,) * 8, seed=s) for s in range(4)]
    usage = objective.prepare(BioEncoder(encoder), batches)
    code = torch.cat([objective.tokenizer(b.x).flatten() for b in batches])
    assert usage["tokens"] == len(code) == 4 * 8 * 80
    count_V = torch.bincount(code, minlength=64)
    expected_V = (count_V + 0.5) / (len(code) + 32)
    torch.testing.assert_close(objective.unigram_V, expected_V)
    assert "unigram_V" in objective.state_dict()

    out = objective.step(batches[0], BioEncoder(encoder))
    plan = draw_masks(valid_places(batches[0], encoder)[0], 24, batches[0].keys())
    target = objective.tokenizer(batches[0].x).gather(1, plan.masked_MJ)
    share = (target == count_V.argmax()).float().mean()
    assert float(out.logs["unigram_accuracy"][0] / out.count) == pytest.approx(float(share))
    nll = -expected_V[target].log().mean()
    assert float(out.logs["unigram_nll"][0] / out.count) == pytest.approx(float(nll), rel=1e-5)
    used = [len(code.unique()) for code in objective.tokenizer(batches[0].x)]
    assert [int(x) for x in out.logs["codes_per_clip"]] == [sum(used), 8]


def test_targets_may_be_those_of_the_clean_sound() -> None:
    encoder, objective = build(encoder=CALM)
    clean, noisy = noise_batch(seed=0), noise_batch(seed=1)
    both = replace(noisy, clean=clean.x)
    plan = draw_masks(valid_places(noisy, encoder)[0], objective._kept(80), noisy.keys())
    logit_MJV = predictions(objective, encoder, noisy, plan)
    for given, heard in ((both, clean), (noisy, noisy)):
        target_MJ = objective.tokenizer(heard.x).gather(1, plan.masked_MJ)
        expected = F.cross_entropy(logit_MJV.mT, target_MJ, reduction="sum")
        torch.testing.assert_close(objective.step(given, BioEncoder(encoder)).loss_sum, expected)


def test_rows_that_only_fill_up_count_nowhere() -> None:
    encoder, objective = build(encoder=CALM)
    batch = noise_batch((160, 96, 0, 0))
    full = replace(batch, real_B=torch.tensor([True, True, False, False]))
    part = FeatureBatch(batch.x[:2], batch.steps_B[:2], key_B=batch.keys()[:2])
    with_them, without = (objective.step(x, BioEncoder(encoder)) for x in (full, part))
    assert int(with_them.count) == int(without.count)
    torch.testing.assert_close(with_them.loss_sum, without.loss_sum)
    assert with_them.logs.keys() == without.logs.keys()
    for name, figures in without.logs.items():
        for mine, theirs in zip(with_them.logs[name], figures, strict=True):
            torch.testing.assert_close(mine, theirs, msg=name)


def test_padding_takes_no_part_in_usage() -> None:
    encoder, objective = build()
    objective.config = replace(objective.config, min_perplexity=1.0)
    batch = noise_batch((160, 32))
    usage = objective.prepare(BioEncoder(encoder), [batch])
    valid = codebook_usage(objective.tokenizer(batch.x)[1, :16], None, 64)
    assert usage["tokens"] == 80 + 16 == 80 + valid.tokens


def test_gate_stops_a_collapsed_tokenizer() -> None:
    encoder, objective = build()
    before = objective.unigram_V.clone()
    with pytest.raises(RecipeError, match=r"perplexity 1 over .*tokenizer\.seed \(now 45\)"):
        silence = FeatureBatch(torch.zeros(4, 160, 128), torch.full((4,), 160))
        objective.prepare(BioEncoder(encoder), [silence])
    assert torch.equal(objective.unigram_V, before)
    with pytest.raises(RecipeError, match="no tokens"):
        objective.prepare(BioEncoder(encoder), [])


def test_gate_threshold() -> None:
    encoder, objective = build()
    assert objective.config.least_perplexity == 8
    few = replace(CODES, codebook_size=32)
    assert MaskedTokensConfig(tokenizer=few).least_perplexity == 4
    assert MaskedTokensConfig(min_perplexity=100).least_perplexity == 100
    batches = [noise_batch((160,) * 8)]
    found = objective.prepare(BioEncoder(encoder), batches)["perplexity"]
    objective.config = replace(objective.config, min_perplexity=found + 1)
    with pytest.raises(RecipeError, match="min_perplexity"):
        objective.prepare(BioEncoder(encoder), batches)


# ------------------------------------------------------------------ the rest


def test_inspect() -> None:
    encoder, objective = build()
    encoder.eval()
    objective.eval()
    batch = noise_batch((160, 96))
    found = objective.inspect(batch, encoder)
    assert {tuple(t.shape) for t in found.values()} == {(2, 80)}
    assert found["mask_BN"].sum(1).tolist() == [56, 34]
    assert found["valid_BN"].sum(1).tolist() == [80, 48]
    assert not bool((found["mask_BN"] & ~found["valid_BN"]).any())
    assert torch.equal(found["code_BN"], objective.tokenizer(batch.x))
    plan = draw_masks(valid_places(batch, encoder)[0], 24, batch.keys())
    logit = predictions(objective, encoder, batch, plan)[0]
    assert torch.equal(found["predicted_BN"][0][plan.masked_MJ[0]], logit.argmax(-1))


def test_valid_tokens_are_the_encoders() -> None:
    encoder, _ = build()
    batch = noise_batch((160, 159, 100, 16, 3))
    out = encoder(batch.x, batch.steps_B)
    assert torch.equal(valid_places(batch, encoder)[0], out.valid_BN)


def test_flops_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    encoder, objective = build(masks_per_clip=2)
    with FlopCounterMode(display=False) as counter:
        out = objective.step(noise_batch((160,)), BioEncoder(encoder))
        out.loss_sum.backward()
    counted = counter.get_total_flops()
    # The patches are embedded once for both views; there is no gradient into the input.
    stated = objective.flops(BioEncoder(encoder), encoder.grid(160))
    assert stated == pytest.approx(counted, rel=0.15)


def test_bad_configs() -> None:
    for change, message in (
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"position_mode": "both"}, "'true', 'compact'"),
        ({"keep_multiple_of": 0}, "keep_multiple_of"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"min_perplexity": -1.0}, "min_perplexity"),
        ({"predictor_dim": 0}, "predictor_dim"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskedTokensConfig(**change)
    with pytest.raises(RecipeError, match=r"multiple of encoder\.heads"):
        build(predictor_dim=30)


def test_a_predictor_of_another_width() -> None:
    encoder, objective = build(predictor_dim=32)
    out = objective.step(noise_batch(), BioEncoder(encoder))
    out.loss_sum.backward()
    assert objective.mask_token.shape == (32,)


def test_label_smoothing_changes_the_loss_and_nothing_else() -> None:
    encoder, plain = build()
    encoder.eval()
    plain.eval()
    out = plain.step(noise_batch(), BioEncoder(encoder))
    plain.config = replace(plain.config, label_smoothing=0.1)
    smooth = plain.step(noise_batch(), BioEncoder(encoder))
    assert not torch.equal(smooth.loss_sum, out.loss_sum)
    assert smooth.logs["masked_accuracy"][0] == out.logs["masked_accuracy"][0]
