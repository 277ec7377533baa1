"""The parts of BEATs against their formulas: position bias, attention, position convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.encoders import beats_cpu
from dawnchorus.trainer.encoders.beats import Attention, BeatsLayers, relative_buckets
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.registry import build_encoder
from dawnchorus.trainer.training.assembly import assemble


def some_layers(seed: int = 0, **options: Any) -> BeatsLayers:
    """Two small layers in which position, gate and every bias matter."""
    torch.manual_seed(seed)
    layers = BeatsLayers(2, 32, 48, 4, num_buckets=32, max_distance=100, **options)
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            if parameter.dim() == 1 or "grep" in name or "relative" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layers


# --- relative positions ----------------------------------------------------------------------


def test_buckets_follow_the_released_formula() -> None:
    """In float32, as the released models were trained (BEATs' code)."""
    distance = torch.arange(-20000, 20001)
    far = 80 + ((distance.abs().clamp(min=1).float() / 80).log() / math.log(800 / 80) * 80).long()
    expected = torch.where(distance.abs() < 80, distance.abs(), far.clamp(max=159))
    expected += 160 * (distance > 0)
    assert torch.equal(relative_buckets(distance, 320, 800), expected)


@pytest.mark.parametrize("length", [1, 2, 7, 24])
def test_position_bias(
    length: int,
    random_keep: Callable[..., Tensor],
) -> None:
    layers = BeatsLayers(1, 8, 8, 2, num_buckets=16, max_distance=20)
    attention = next(layers._blocks()).self_attn
    table = attention.relative_attention_bias.weight
    index = torch.arange(length)
    bucket = relative_buckets(index[None, :] - index[:, None], 16, 20)
    expected_HLL = table[bucket].permute(2, 0, 1)
    assert torch.equal(layers.position_bias(length)[0], expected_HLL)
    keep_BK = random_keep(3, length, (length + 1) // 2)
    chosen = layers.position_bias(length, keep_BK)
    for row, keep in enumerate(keep_BK):
        assert torch.equal(chosen[row], expected_HLL[:, keep][:, :, keep])


# --- attention -------------------------------------------------------------------------------


def written_out(block: Any, x_BLD: Tensor, position: Tensor, key_mask: Tensor | None) -> Any:
    """Attention term by term from the formula (BEATs' code)."""
    a: Any = block.self_attn
    clips, length, dim = x_BLD.shape
    each = dim // a.heads
    split = (clips, length, a.heads, each)
    q, k, v = (p(x_BLD).view(split).permute(0, 2, 1, 3) for p in (a.q_proj, a.k_proj, a.v_proj))
    g = q @ a.grep_linear.weight.t() + a.grep_linear.bias
    gate, update = torch.sigmoid(g[..., :4].sum(-1)), torch.sigmoid(g[..., 4:].sum(-1))
    r_BHL = gate * (update * a.grep_a[..., 0] - 1) + 2
    logits = torch.einsum("bhic,bhjc->bhij", q, k) / math.sqrt(each)
    logits = logits + r_BHL[..., None] * position
    if key_mask is not None:
        logits = logits + key_mask
    out = torch.einsum("bhij,bhjc->bihc", logits.softmax(-1), v)
    return a.out_proj(out.reshape(clips, length, dim))


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("piece", [1, 1500, 2**20])
@pytest.mark.parametrize("own_positions", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients(
    piece: int,
    own_positions: bool,
    masked: bool,
    monkeypatch: pytest.MonkeyPatch,
    random_keep: Callable[..., Tensor],
) -> None:
    """For x (hence q, k, v), all weights, E, W_g, b_g and w_h; cut into pieces of any size."""
    pieces = beats_cpu._pieces
    monkeypatch.setattr(beats_cpu, "_pieces", lambda q: pieces(q, piece))
    layers = some_layers()
    block = layers.layers[0]
    x_BLD = torch.randn(3, 20, 32)
    keep_BL = random_keep(3, 60, 20) if own_positions else None
    key_mask = None
    if masked:
        key_mask = torch.zeros(3, 1, 1, 20)
        key_mask[1, ..., 11:] = -math.inf
    weight = torch.randn(3, 20, 32)
    results = []
    for function in (written_out, lambda block, *args: block.self_attn(*args)):
        layers.zero_grad()
        leaf = x_BLD.clone().requires_grad_()
        position = layers.position_bias(60 if own_positions else 20, keep_BL)
        out = function(block, leaf, position, key_mask)
        (out * weight).sum().backward()
        grads = {n: p.grad.clone() for n, p in layers.named_parameters() if p.grad is not None}
        results.append((out.detach(), grads | {"x": leaf.grad}))
    (expected, expected_grads), (out, grads) = results
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)
    assert grads.keys() == expected_grads.keys()
    assert {"grep_a", "weight"} <= {name.split(".")[-1] for name in grads}
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("clips_share", [True, False])
def test_cpu_kernel_against_finite_differences(dropout: float, clips_share: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 3, 2, 4), (8, 4), (8,), (1, 2, 1, 1), (1 if clips_share else 2, 2, 5, 5)]
    inputs = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]

    def run(*tensors: Tensor) -> Any:
        torch.manual_seed(7)  # the same weights drop at every evaluation
        return beats_cpu.CpuAttention.apply(*tensors, None, dropout, True)  # type: ignore[no-untyped-call]

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
def test_the_trainer_fills_the_slots_on_a_cpu(accelerator: str) -> None:
    """In the encoder and in the predictor; a model that is loaded computes without."""
    recipe = load_recipe("ssl_beats_tiny", [f"train.accelerator={accelerator}"])
    with torch.device("meta"):
        model, objective = assemble(recipe)
        loaded = build_encoder(recipe.encoder)
    for part, filled in ((model, accelerator == "cpu"), (objective, accelerator == "cpu"),
                         (loaded, False)):  # fmt: skip
        found = [m.cpu_kernel is not None for m in part.modules() if isinstance(m, Attention)]
        assert found and set(found) == {filled}
    assert (model.encoder.encoder.cpu_convolution is not None) == (accelerator == "cpu")


@pytest.mark.usefixtures("attention")
def test_attention_dropout_keeps_the_mean() -> None:
    block = some_layers(attention_dropout=0.5).layers[0]
    x_BLD, position = torch.randn(2, 12, 32), torch.zeros(1, 4, 12, 12)
    with torch.no_grad():
        draws = torch.stack([block.self_attn(x_BLD, position, None) for _ in range(1000)])
        block.eval()
        expected = block.self_attn(x_BLD, position, None)
    error = (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(1000))
    assert float(error.square().mean()) == pytest.approx(1.0, abs=0.25)


# --- position convolution --------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 8, 24, 100, 496])
@pytest.mark.parametrize("kernel", [16, 128, 25])
def test_convolution_by_fft(length: int, kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, length, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(12, 3, kernel, generator=generator)).requires_grad_()
    bias = torch.randn(12, generator=generator).requires_grad_()
    expected = F.conv1d(x, weight, bias, padding=kernel // 2, groups=4)[..., :length]
    ours = beats_cpu.overlap_save(x, weight, bias, 4)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    toward = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(expected, (x, weight, bias), toward),
        torch.autograd.grad(ours, (x, weight, bias), toward),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5 * float(a.abs().max()), rtol=1e-4)
