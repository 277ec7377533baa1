"""EAT's objective against a second implementation, written from the paper's formulas in loops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.encoders.base import Encoder
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.masking import block_cover, draw_masks
from dawnchorus.trainer.objectives.utterance_frame import UtteranceFrame
from dawnchorus.trainer.objectives.utterance_frame_config import UtteranceFrameConfig
from dawnchorus.trainer.registry import build_encoder
from dawnchorus.trainer.seeds import mix_seeds

VIT = {"name": "vit", "layers": 3, "dim": 32, "ffn_dim": 64, "heads": 4, "mel_bins": 64}
BEATS = {"name": "beats", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 4, "mel_bins": 64,
         "patch_dim": 32, "conv_pos": 8, "conv_pos_groups": 4, "layer_drop": 0.0, "dropout": 0.0,
         "attention_dropout": 0.0, "input_dropout": 0.0}  # fmt: skip
SMALL = {"masks_per_clip": 3, "decoder_layers": 2, "decoder_groups": 8, "mask_block": 2}
BANDS, TIMES = 4, 9


def build(encoder: dict[str, Any] = VIT, **numbers: Any) -> tuple[Encoder, UtteranceFrame]:
    torch.manual_seed(3)
    made = build_encoder(dict(encoder))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    objective = UtteranceFrame(UtteranceFrameConfig(**(SMALL | numbers)), made)
    with torch.no_grad():  # a teacher that is not the student
        for parameter in objective.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made, objective


def batch(columns: list[int], first: int = 0, **more: Any) -> FeatureBatch:
    numbers = torch.arange(first, first + len(columns))
    mel = [torch.randn(16 * TIMES + 5, 64, generator=torch.Generator().manual_seed(int(n)))
           for n in numbers]  # fmt: skip
    steps_B = torch.tensor(columns) * 16 + 3
    return FeatureBatch(torch.stack(mel), steps_B, key_B=mix_seeds(7, numbers), **more)


def run(encoder: Encoder, objective: UtteranceFrame, data: FeatureBatch) -> Any:
    return objective.step(data, SimpleNamespace(encoder=encoder, head=None, labels=None))


# --------------------------------------------------------------------------- the second EAT


def positions(dim: int) -> Tensor:
    rows = []
    for t in range(TIMES):
        for f in range(BANDS):
            rows.append(
                [trig(place / 10000 ** (4 * i / dim))
                 for place in (f, t) for trig in (math.sin, math.cos) for i in range(dim // 4)]
            )  # fmt: skip
    return torch.tensor(rows)


def transformer(w: dict[str, Tensor], mel_TF: Tensor, places: list[int]) -> Any:
    """CLS and the given places of one clip through EAT's blocks: tokens, feed-forward outputs."""
    image = F.conv2d(mel_TF[None, None], w["patch_embed.weight"], w["patch_embed.bias"],
                     stride=16)[0].flatten(1).T  # fmt: skip
    x = (image + positions(32)[: len(image)])[places]
    x = torch.cat([w["cls_token"][0], x])
    x = F.layer_norm(x, (32,), w["norm_pre.weight"], w["norm_pre.bias"], 1e-6)
    fed = []
    for i in range(3):
        p = {k.split(f"layers.{i}.")[1]: v for k, v in w.items() if f"layers.{i}." in k}
        q, k, v = (x @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).chunk(3, dim=1)
        heads = []
        for h in range(4):
            at = slice(8 * h, 8 * h + 8)
            heads.append((q[:, at] @ k[:, at].T / math.sqrt(8)).softmax(1) @ v[:, at])
        y = torch.cat(heads, 1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        x = F.layer_norm(x + y, (32,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        hidden = F.gelu(x @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        fed.append(hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"])
        x = F.layer_norm(x + fed[-1], (32,), p["norm2.weight"], p["norm2.bias"], 1e-6)
    return x, fed


def second(
    w: dict[str, Tensor], teacher: dict[str, Tensor], decoder: dict[str, Tensor],
    mel_TF: Tensor, own: int, views: list[tuple[list[int], list[int], Tensor]], last: int,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """One clip of `own` tokens: frame losses of all masked tokens, utterance loss of each view.

    A view: places that are visible, places that are masked, noise of every place.
    """
    mel_TF = mel_TF[: own // BANDS * 16]
    with torch.no_grad():
        _, fed = transformer(teacher, mel_TF, list(range(own)))
        normed = []
        for y in fed[-last:]:
            y = y[1:]
            normed.append((y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt())
        target = F.layer_norm(torch.stack(normed).mean(0), (32,))
        mean = target.mean(0)
    frame, utterance = [], []
    for visible, masked, noise in views:
        x, _ = transformer(w, mel_TF, visible)
        image = noise[:own].clone()
        image[visible] = x[1:]
        image = image.view(1, own // BANDS, BANDS, 32).permute(0, 3, 1, 2)
        for i in range(2):
            weight, bias = (decoder[f"layers.{i}.conv.{n}"] for n in ("weight", "bias"))
            y = F.conv2d(image, weight, bias, padding=1, groups=8)
            y = F.layer_norm(y.permute(0, 2, 3, 1), (32,)).permute(0, 3, 1, 2)
            image = F.gelu(y) + image
        dense = image.permute(0, 2, 3, 1).reshape(own, 32)
        predicted = dense @ decoder["proj.weight"].T + decoder["proj.bias"]
        frame += [((predicted[n] - target[n]) ** 2).sum() / math.sqrt(32) for n in masked]
        utterance.append(((x[0] - mean) ** 2).sum() / math.sqrt(32))
    return torch.stack(frame), utterance


def leaves(module: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone().requires_grad_() for k, v in module.named_parameters()}


@pytest.mark.parametrize(("weights", "last"), [((1.0, 0.0), 3), ((0.0, 1.0), 3), ((1.0, 192.0), 2)])
def test_losses_and_gradients(weights: tuple[float, float], last: int) -> None:
    encoder, objective = build(
        frame_weight=weights[0], utterance_weight=weights[1], average_layers=last
    )
    data = batch([TIMES, 5, TIMES])
    out = run(encoder, objective, data)
    valid_BN = encoder.valid(data.steps_B, encoder.grid(data.x.shape[1]))[:, 1:]
    plan = objective._plan(valid_BN, encoder.grid(data.x.shape[1]), data.keys())
    noise_MND = objective._filler(data.keys(), TIMES * BANDS)
    assert abs(float(noise_MND.std()) - 0.01) < 1e-3
    w, decoder, teacher = leaves(encoder), leaves(objective.decoder), leaves(objective.teacher)
    frames, utterances, counts = [], [], []
    for clip in range(3):
        views = []
        for m in range(3 * clip, 3 * clip + 3):
            visible = plan.keep_MK[m][plan.keep_valid_MK[m]].tolist()
            masked = plan.masked_MJ[m][plan.masked_valid_MJ[m]].tolist()
            assert sorted(visible + masked) == list(range(int(valid_BN[clip].sum())))
            views.append((visible, masked, noise_MND[m]))
            counts.append(len(masked))
        own = int(valid_BN[clip].sum())
        frame, utterance = second(w, teacher, decoder, data.x[clip], own, views, last)
        frames.append(frame)
        utterances += utterance
    count = torch.tensor(counts)
    frame_mean = torch.cat(frames).mean()
    utterance_mean = (torch.stack(utterances) * count).sum() / count.sum()
    loss = weights[0] * frame_mean + weights[1] * utterance_mean
    assert int(out.count) == int(count.sum())
    torch.testing.assert_close(out.loss_sum / out.count, loss, rtol=1e-5, atol=0)
    for name, mean in (("frame_loss", frame_mean), ("utterance_loss", utterance_mean)):
        total, number = out.logs[name]
        torch.testing.assert_close(total / number, mean.detach(), rtol=1e-5, atol=0)
    loss.backward()
    (out.loss_sum / out.count).backward()
    for module, theirs in ((encoder, w), (objective.decoder, decoder)):
        for name, parameter in module.named_parameters():
            other = theirs[name].grad
            if other is None:
                assert parameter.grad is None or not parameter.grad.any(), name
                continue
            size = float(other.abs().max())
            torch.testing.assert_close(
                parameter.grad, other, rtol=0, atol=max(1e-7, 1e-4 * size), msg=name
            )
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_two_parts_of_a_batch_are_the_batch() -> None:
    """And rows that only fill up count for nothing."""
    encoder, objective = build()
    whole = run(encoder, objective, batch([TIMES, 6, 3, TIMES]))
    parts = [run(encoder, objective, batch(c, f)) for c, f in (([TIMES], 0), ([6, 3, TIMES], 1))]
    torch.testing.assert_close(sum(p.loss_sum for p in parts), whole.loss_sum, rtol=1e-5, atol=0)
    for name, pair in whole.logs.items():
        for i in range(2):
            total = sum(float(p.logs[name][i]) for p in parts)
            assert total == pytest.approx(float(pair[i]), rel=1e-5), name
    real_B = torch.tensor([True, False, False, False])
    alone = run(encoder, objective, batch([TIMES, 6, 3, TIMES], real_B=real_B))
    torch.testing.assert_close(alone.loss_sum, parts[0].loss_sum, rtol=1e-5, atol=0)
    assert all(torch.equal(alone.logs[n][1], parts[0].logs[n][1]) for n in alone.logs)


def test_what_the_teacher_is() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(dict(VIT))
    config = UtteranceFrameConfig(
        **SMALL, teacher_decay=0.5, teacher_end_decay=0.9, teacher_anneal_steps=4
    )
    objective = UtteranceFrame(config, encoder).train()
    assert not objective.teacher.training and encoder.training
    assert {k for k in objective.state_dict() if k.startswith("teacher.")}
    assert [round(objective.decay_at(s), 6) for s in (0, 1, 2, 3, 9)] == [0.6, 0.7, 0.8, 0.9, 0.9]
    expected = {k: v.clone() for k, v in encoder.named_parameters()}
    for step in range(3):
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter))
        objective.after_step(SimpleNamespace(encoder=encoder), step, 100)
        decay = 0.5 + 0.4 * (step + 1) / 4
        for name, parameter in encoder.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    for name, parameter in objective.teacher.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6)
    released = UtteranceFrame(UtteranceFrameConfig(decoder_groups=8), encoder)
    assert released.decay_at(99_999) == released.decay_at(300_000) == 0.99999


def test_the_teacher_hears_the_clean_sound_where_there_is_one() -> None:
    encoder, objective = build(clean_targets=True)
    assert objective.config.hears_clean
    data = batch([TIMES])
    same = run(encoder, objective, batch([TIMES], clean=data.x))
    torch.testing.assert_close(same.loss_sum, run(encoder, objective, data).loss_sum)
    other = run(encoder, objective, batch([TIMES], clean=data.x + 1))
    assert not torch.allclose(other.loss_sum, same.loss_sum)


def test_an_encoder_without_cls_and_without_taps() -> None:
    encoder, objective = build(BEATS, target="block")
    data = batch([TIMES, 4])
    out = run(encoder, objective, data)
    out.loss_sum.backward()
    assert torch.isfinite(out.loss_sum)
    panels = objective.look(data, SimpleNamespace(encoder=encoder))
    mask, error = panels[1]
    assert mask.times == 4 and error.image_XF.shape == (4, BANDS)
    assert (error.image_XF.ravel() > 0).tolist() == mask.mask_N.tolist()
    assert panels[0][0].mask_N.mean() == pytest.approx(0.8, abs=0.02)


def test_parameters_and_flops() -> None:
    for encoder, numbers in ((VIT, {}), (BEATS, {"target": "block", "decoder_dim": 16})):
        made, objective = build(encoder, **numbers)
        trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        assert objective.config.parameters(made.config, 0) == trained
        teacher = sum(p.numel() for p in objective.teacher.parameters())
        assert objective.config.frozen_parameters(made.config) == teacher
    # EAT base, 10 s: views of the student 859, decoder 127, teacher 97 GFLOP (by hand).
    with torch.device("meta"):
        base = build_encoder({"name": "vit"})
        objective = UtteranceFrame(UtteranceFrameConfig(), base)
    total = objective.flops(SimpleNamespace(encoder=base), base.grid(1024))
    assert total == pytest.approx((859 + 127 + 97) * 1e9, rel=0.05)


# --------------------------------------------------------------------------- the masks


def test_masks_are_eats() -> None:
    """Coverage and frequencies of EAT's released masks, by 4,000 draws of each."""
    valid_BN = torch.ones(250, 512, dtype=torch.bool)
    key_B = mix_seeds(1, torch.arange(250))
    cover_MN = block_cover(valid_BN, 8, key_B, views=16, side=5, share=1 - 0.8 + 0.07)
    covered_M = cover_MN.sum(1).float()
    assert float(covered_M.mean()) == pytest.approx(95.7, abs=0.8)
    assert float(covered_M.std()) == pytest.approx(11.5, abs=0.5)
    plan = draw_masks(valid_BN, 102, key_B, views=16, rank_MN=~cover_MN)
    assert plan.keep_MK.shape == (4000, 102) and plan.keep_valid_MK.all()
    kept_MN = torch.zeros(4000, 512).scatter(1, plan.keep_MK, 1.0)
    by_band_F = kept_MN.view(4000, 64, 8).mean((0, 1))
    assert by_band_F[0] == pytest.approx(0.15, abs=0.01) == by_band_F[7]
    assert by_band_F[3] == pytest.approx(0.23, abs=0.01)
    # All of the squares where they do not fill the count, nothing but squares where they do.
    few = covered_M < 102
    assert (kept_MN[few] >= cover_MN[few].float()).all()
    assert (kept_MN[~few] <= cover_MN[~few].float()).all()


def test_squares_lie_in_the_sound_and_follow_the_key() -> None:
    valid_BN = torch.arange(40) < torch.tensor([[40], [12], [4]])
    key_B = mix_seeds(2, torch.arange(3))
    cover_MN = block_cover(valid_BN, 4, key_B, views=50, side=3, share=0.6)
    one = block_cover(valid_BN[1:2, :12], 4, key_B[1:2], views=50, side=3, share=0.6)
    assert torch.equal(cover_MN[50:100, :12], one)
    plan = draw_masks(valid_BN, 20, key_B, views=50, rank_MN=~cover_MN)
    for m in range(150):
        own = int(valid_BN[m // 50].sum())
        kept = plan.keep_MK[m][plan.keep_valid_MK[m]]
        assert kept.max() < own and len(kept) == own // 2
    assert not torch.equal(cover_MN[0], cover_MN[1])
