"""MAE against a second implementation, written from the formulas in loops, one clip at a time.

Shape legend: B clips, M views, N tokens, T frames, F mel bins.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.encoders.base import Encoder
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.masking import valid_places
from dawnchorus.trainer.objectives.reconstruction import Reconstruction
from dawnchorus.trainer.objectives.reconstruction_config import ReconstructionConfig
from dawnchorus.trainer.panels import ImagePanel, TokenPanel
from dawnchorus.trainer.registry import build_encoder
from dawnchorus.trainer.seeds import mix_seeds

VIT = {"name": "vit", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 4, "mel_bins": 64,
       "norm": "pre", "qk_norm": True}  # fmt: skip
BEATS = {"name": "beats", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 4, "mel_bins": 64,
         "patch_dim": 32, "conv_pos": 8, "conv_pos_groups": 4, "layer_drop": 0.0, "dropout": 0.0,
         "attention_dropout": 0.0, "input_dropout": 0.0}  # fmt: skip
SMALL: dict[str, Any] = {"decoder_layers": 2, "decoder_dim": 24, "decoder_heads": 3,
                         "masks_per_clip": 2}  # fmt: skip
BANDS, TIMES = 4, 9


def build(encoder: dict[str, Any] = VIT, **numbers: Any) -> tuple[Encoder, Reconstruction]:
    torch.manual_seed(3)
    made = build_encoder(dict(encoder))
    objective = Reconstruction(ReconstructionConfig(**(SMALL | numbers)), made)
    with torch.no_grad():
        for parameter in [*made.parameters(), *objective.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made, objective


def batch(columns: list[int], first: int = 0, **more: Any) -> FeatureBatch:
    numbers = torch.arange(first, first + len(columns))
    mel = [torch.randn(16 * TIMES + 5, 64, generator=torch.Generator().manual_seed(int(n)))
           for n in numbers]  # fmt: skip
    steps_B = torch.tensor(columns) * 16 + 3
    return FeatureBatch(torch.stack(mel), steps_B, key_B=mix_seeds(7, numbers), **more)


def run(encoder: Encoder, objective: Reconstruction, data: FeatureBatch) -> Any:
    return objective.step(data, SimpleNamespace(encoder=encoder, head=None, labels=None))


# --------------------------------------------------------------------------- the second MAE


def positions(places: int, dim: int) -> Tensor:
    rows = [
        [trig(place / 10000 ** (4 * i / dim))
         for place in (n % BANDS, n // BANDS)
         for trig in (math.sin, math.cos) for i in range(dim // 4)]
        for n in range(places)
    ]  # fmt: skip
    return torch.tensor(rows)


def blocks(w: dict[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    """x + MHSA(norm1 x), then + MLP(norm2 x); queries and keys normalised per head."""
    dim = x.shape[1]
    for i in range(2):
        p = {k.split(f"{name}.{i}.")[1]: v for k, v in w.items() if f"{name}.{i}." in k}
        y = F.layer_norm(x, (dim,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        q, k, v = (y @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).chunk(3, dim=1)
        out, wide = [], dim // heads
        for h in range(heads):
            at = slice(wide * h, wide * h + wide)
            a, b = (
                F.layer_norm(t[:, at], (wide,), p[f"attn.{n}.weight"], p[f"attn.{n}.bias"], 1e-6)
                for t, n in ((q, "q_norm"), (k, "k_norm"))
            )
            out.append((a @ b.T / math.sqrt(wide)).softmax(1) @ v[:, at])
        x = x + torch.cat(out, 1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        y = F.layer_norm(x, (dim,), p["norm2.weight"], p["norm2.bias"], 1e-6)
        hidden = F.gelu(y @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        x = x + hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
    return x


def patches(mel_TF: Tensor, own: int) -> Tensor:
    cut = [
        mel_TF[16 * (n // BANDS) : 16 * (n // BANDS) + 16, 16 * (n % BANDS) : 16 * (n % BANDS) + 16]
        for n in range(own)
    ]
    return torch.stack([c.reshape(-1) for c in cut])


def second(
    w: dict[str, Tensor], d: dict[str, Tensor], mel_TF: Tensor, own: int, visible: list[int],
    masked: list[int], normalise: bool,
) -> list[Tensor]:  # fmt: skip
    """Losses of the masked patches of one view of a clip of `own` tokens."""
    pixels = patches(mel_TF, own)
    x = pixels @ w["patch_embed.weight"].flatten(1).T + w["patch_embed.bias"]
    x = torch.cat([w["cls_token"][0], (x + positions(own, 32))[visible]])
    x = blocks(w, "trunk.layers", x, 4)
    x = F.layer_norm(x, (32,), w["norm.weight"], w["norm.bias"], 1e-6)
    x = x @ d["project.weight"].T + d["project.bias"]
    rows = [x[1 + visible.index(n)] if n in visible else d["mask_token"] for n in range(own)]
    full = torch.cat([x[:1], torch.stack(rows) + positions(own, 24)])
    full = blocks(d, "decoder.layers", full, 3)
    full = F.layer_norm(full, (24,), d["norm.weight"], d["norm.bias"], 1e-6)
    drawn = full[1:] @ d["to_pixels.weight"].T + d["to_pixels.bias"]
    losses = []
    for n in masked:
        target = pixels[n]
        if normalise:
            mean = target.sum() / 256
            variance = ((target - mean) ** 2).sum() / 255
            target = (target - mean) / (variance + 1e-4).sqrt()
        losses.append(((drawn[n] - target) ** 2).sum() / 256)
    return losses


def leaves(module: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone().requires_grad_() for k, v in module.named_parameters()}


@pytest.mark.parametrize(
    ("masker", "normalise"),
    [("random", True), ("random", False), ("block", True), ("bands", True), ("voronoi", True)],
)
def test_loss_and_gradients(masker: str, normalise: bool) -> None:
    encoder, objective = build(masker=masker, normalise_pixels=normalise)
    data = batch([TIMES, 5, TIMES])
    out = run(encoder, objective, data)
    valid_BN, grid = valid_places(data, encoder)
    plan = objective._plan(valid_BN, grid, data.keys())
    w, d, losses = leaves(encoder), leaves(objective), []
    for m in range(6):
        own = int(valid_BN[m // 2].sum())
        visible = plan.keep_MK[m][plan.keep_valid_MK[m]].tolist()
        masked = plan.masked_MJ[m][plan.masked_valid_MJ[m]].tolist()
        assert sorted(visible + masked) == list(range(own)) and len(visible) == own // 4
        losses += second(w, d, data.x[m // 2], own, visible, masked, normalise)
    loss = torch.stack(losses).mean()
    assert int(out.count) == len(losses)
    torch.testing.assert_close(out.loss_sum / out.count, loss, rtol=1e-5, atol=0)
    loss.backward()
    (out.loss_sum / out.count).backward()
    for module, theirs in ((encoder, w), (objective, d)):
        for name, parameter in module.named_parameters():
            other = theirs[name].grad
            assert other is not None and parameter.grad is not None, name
            size = max(1e-7, 1e-4 * float(other.abs().max()))
            torch.testing.assert_close(parameter.grad, other, rtol=0, atol=size, msg=name)


def test_two_parts_of_a_batch_are_the_batch() -> None:
    """And padding and rows that only fill up count for nothing."""
    encoder, objective = build()
    whole = run(encoder, objective, batch([TIMES, 6, 3, TIMES]))
    parts = [run(encoder, objective, batch(c, f)) for c, f in (([TIMES], 0), ([6, 3, TIMES], 1))]
    torch.testing.assert_close(sum(p.loss_sum for p in parts), whole.loss_sum, rtol=1e-5, atol=0)
    assert int(whole.count) == 2 * (27 + 18 + 9 + 27) == sum(int(p.count) for p in parts)
    changed = batch([TIMES, 6, 3, TIMES])
    changed.x[1, 6 * 16 + 3 :] = 100.0
    other = run(encoder, objective, changed)
    torch.testing.assert_close(other.loss_sum, whole.loss_sum, rtol=1e-5, atol=0)
    real_B = torch.tensor([True, False, False, False])
    alone = run(encoder, objective, batch([TIMES, 6, 3, TIMES], real_B=real_B))
    torch.testing.assert_close(alone.loss_sum, parts[0].loss_sum, rtol=1e-5, atol=0)
    assert all(torch.equal(alone.logs[n][1], parts[0].logs[n][1]) for n in alone.logs)


def test_what_is_drawn_may_be_the_sound_without_noise() -> None:
    encoder, objective = build(clean_targets=True)
    assert objective.config.hears_clean
    data = batch([TIMES])
    same = run(encoder, objective, batch([TIMES], clean=data.x))
    torch.testing.assert_close(same.loss_sum, run(encoder, objective, data).loss_sum)
    other = run(encoder, objective, batch([TIMES], clean=data.x.flip(1)))
    assert not torch.allclose(other.loss_sum, same.loss_sum)


def test_a_guess_of_flat_patches_has_the_flat_loss() -> None:
    encoder, objective = build()
    torch.nn.init.zeros_(objective.to_pixels.weight)
    torch.nn.init.zeros_(objective.to_pixels.bias)
    out = run(encoder, objective, batch([TIMES, 4]))
    flat, count = out.logs["flat_loss"]
    torch.testing.assert_close(out.loss_sum.detach(), flat, rtol=1e-4, atol=0)
    assert float(flat / count) == pytest.approx(255 / 256, abs=1e-3)


@pytest.mark.parametrize("encoder", [VIT, BEATS])
@pytest.mark.parametrize("normalise", [True, False])
def test_pictures(encoder: dict[str, Any], normalise: bool) -> None:
    """The visible places are as they are in all three, and the hidden ones are drawn."""
    made, objective = build(encoder, normalise_pixels=normalise)
    data = batch([TIMES, 5])
    mask, takes, sees, drawn = objective.look(data, SimpleNamespace(encoder=made))[1]
    assert isinstance(mask, TokenPanel) and mask.mask_N is not None and mask.times == 5
    assert all(isinstance(p, ImagePanel) and p.image_XF.shape == (80, 64) for p in (takes, sees))
    real_TF = data.x[1, :80].numpy()
    hidden_TF = mask.mask_N.reshape(5, BANDS).repeat(16, 0).repeat(16, 1)
    assert hidden_TF.mean() == 0.75
    assert takes.image_XF == pytest.approx(real_TF, abs=0.01)
    for panel in (sees, drawn):
        assert panel.image_XF[~hidden_TF] == pytest.approx(real_TF[~hidden_TF], abs=0.01)
    assert (sees.image_XF[hidden_TF] == sees.image_XF.min()).all()
    assert takes.step_s == pytest.approx(0.01)


def test_parameters_and_flops() -> None:
    for encoder in (VIT, BEATS):
        made, objective = build(encoder)
        trained = sum(p.numel() for p in objective.parameters())
        assert objective.config.parameters(made.config, 0) == trained
    # Bird-MAE base, 5 s: 76 GFLOP (by hand: 65 tokens through 12 layers of 768, 257 through the
    # decoder, forward and backward).
    with torch.device("meta"):
        base = build_encoder({"name": "vit", "norm": "pre"})
        objective = Reconstruction(ReconstructionConfig(), base)
    total = objective.flops(SimpleNamespace(encoder=base), base.grid(512))
    assert total == pytest.approx(76e9, rel=0.05)


def test_a_width_that_does_not_go() -> None:
    with pytest.raises(ValueError, match="decoder_heads"):
        ReconstructionConfig(decoder_dim=40)
    with pytest.raises(RecipeError, match="decoder_dim"):
        build({**VIT, "dim": 32}, decoder_dim=24, decoder_heads=3) and Reconstruction(
            SimpleNamespace(decoder_dim=30, decoder_heads=4, decoder_layers=1),  # type: ignore[arg-type]
            build_encoder(dict(VIT)),
        )
