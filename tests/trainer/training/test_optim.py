from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.training.optim import (
    OptimConfig,
    ParameterEma,
    build_optimizer,
    param_groups,
)
from dawnchorus.trainer.training.schedule import learning_rate

BODY = {"kind": "body", "scale": 1.0}
HEAD = {"kind": "head", "scale": 1.0}


class Whole(nn.Module):
    """Named as the trainer names its parts."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        config = BeatsConfig(
            layers=layers, dim=32, ffn_dim=64, heads=2, patch_dim=16, conv_pos=16, num_buckets=32
        )
        self.model = nn.ModuleDict({"encoder": Beats(config), "head": nn.Linear(32, 5)})
        self.objective = nn.ModuleDict()
        self.objective.mask_token = nn.Parameter(torch.zeros(1, 1, 32))


def by_name(groups: list[dict[str, Any]], model: nn.Module) -> dict[str, dict[str, Any]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


# ------------------------------------------------------------------ groups


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    model = Whole()
    groups = param_groups(model, OptimConfig())
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members)) == len(list(model.parameters()))
    of = by_name(groups, model)
    layer = "model.encoder.encoder.layers.1"
    for name in (f"{layer}.fc1.weight", "model.encoder.patch_embedding.weight",
                 "model.encoder.encoder.pos_conv.0.parametrizations.weight.original1",
                 "model.head.weight"):  # fmt: skip
        assert of[name]["weight_decay"] == 0.01, name
    for name in (f"{layer}.fc1.bias", f"{layer}.final_layer_norm.weight", "objective.mask_token",
                 f"{layer}.self_attn.grep_a", "model.head.bias",
                 "model.encoder.encoder.pos_conv.0.parametrizations.weight.original0",
                 "model.encoder.encoder.layers.0.self_attn.relative_attention_bias.weight",
                 ):  # fmt: skip
        assert of[name]["weight_decay"] == 0, name
    assert of["model.head.weight"]["kind"] == of["model.head.bias"]["kind"] == "head"
    assert of["objective.mask_token"]["kind"] == "body"


def test_frozen_parameters_are_left_out() -> None:
    model = Whole()
    model.model["encoder"].requires_grad_(False)
    names = set(by_name(param_groups(model, OptimConfig()), model))
    assert names == {"model.head.weight", "model.head.bias", "objective.mask_token"}


def test_layer_decay_grows_from_the_top_down() -> None:
    model = Whole(layers=3)
    of = by_name(
        param_groups(model, OptimConfig(layer_decay=0.5, lr=8e-4), model.model.encoder), model
    )
    scales = [of[f"model.encoder.encoder.layers.{i}.fc1.weight"]["scale"] for i in range(3)]
    assert scales == [0.25, 0.5, 1.0]
    for name in ("patch_embedding.weight", "post_extract_proj.bias", "encoder.layer_norm.weight",
                 "encoder.pos_conv.0.bias"):  # fmt: skip
        assert of[f"model.encoder.{name}"]["scale"] == 0.125, name
    # Neither the head nor a predictor is part of the encoder.
    assert of["model.head.weight"]["scale"] == of["objective.mask_token"]["scale"] == 1.0
    group = of["model.encoder.encoder.layers.0.fc1.weight"]
    assert learning_rate(OptimConfig(warmup_steps=0, lr=8e-4), 0, 100, group) == 2e-4


def test_a_predictors_layers_are_not_the_encoders() -> None:
    from dawnchorus.trainer.encoders.beats import BeatsLayers

    model = Whole(layers=2)
    model.objective["predictor"] = BeatsLayers(3, 32, 64, 2, num_buckets=32)
    of = by_name(param_groups(model, OptimConfig(layer_decay=0.5), model.model.encoder), model)
    assert of["objective.predictor.layers.0.fc1.weight"]["scale"] == 1.0
    assert of["model.encoder.encoder.layers.1.fc1.weight"]["scale"] == 1.0
    assert of["model.encoder.encoder.layers.0.fc1.weight"]["scale"] == 0.5


def test_adamw_is_fused_and_its_state_loads_weights_only() -> None:
    model = Whole()
    config = OptimConfig(betas=(0.9, 0.95), eps=1e-7)
    optimizer = build_optimizer(param_groups(model, config), config)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"] and optimizer.defaults["eps"] == 1e-7
    assert not build_optimizer(param_groups(model, config), config, fused=False).defaults["fused"]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = build_optimizer(param_groups(model, config), config)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.param_groups[0]["name"] == optimizer.param_groups[0]["name"]
    assert again.state_dict()["state"][0]["step"] == 1


# ------------------------------------------------------------------ schedules


def test_warm_up_is_a_straight_line_that_ends_at_the_peak() -> None:
    config = OptimConfig(lr=1e-3, warmup_steps=10, warmup_from=0.1)
    assert learning_rate(config, 0, 100) == pytest.approx(1e-4)
    assert learning_rate(config, 5, 100) == pytest.approx(5.5e-4)
    assert learning_rate(config, 10, 100) == 1e-3


@pytest.mark.parametrize(
    ("schedule", "step", "lr"),
    [
        ("cosine", 60, 0.5 * (1e-3 + 1e-5)),
        ("cosine", 35, 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi / 4))),
        ("cosine", 110, 1e-5),
        ("linear", 60, 0.5 * (1e-3 + 1e-5)),
        ("linear", 85, 1e-5 + 0.25 * (1e-3 - 1e-5)),
        ("linear", 110, 1e-5),
        ("wsd", 11, 1e-3),
        ("wsd", 88, 1e-3),
        ("wsd", 99, 1e-5 + (1 - math.sqrt(0.5)) * (1e-3 - 1e-5)),
        ("wsd", 110, 1e-5),
        ("flat_cosine", 88, 1e-3),
        ("flat_cosine", 99, 0.5 * (1e-3 + 1e-5)),
        ("flat_cosine", 110, 1e-5),
        ("constant", 11, 1e-3),
        ("constant", 110, 1e-3),
    ],
)
def test_values_of_the_curves(schedule: Any, step: int, lr: float) -> None:
    config = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_steps=10, schedule=schedule)
    assert learning_rate(config, step, 110) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "flat_cosine", "constant"])
def test_curves_are_continuous_and_hold_at_the_end(schedule: Any) -> None:
    """ESPnet's schedule jumps fifty-fold after its last point."""
    config = OptimConfig(lr=1e-3, min_lr=1e-6, warmup_steps=200, schedule=schedule)
    curve = [learning_rate(config, s, 20_000) for s in range(20_100)]
    assert max(curve) == 1e-3
    assert len(set(curve[20_000:])) == 1
    if schedule == "wsd":  # falls as a square root: steep at first, by 1/sqrt(4000)
        assert max(abs(a - b) for a, b in itertools.pairwise(curve)) < 1.7e-5
    else:
        assert max(abs(a - b) for a, b in itertools.pairwise(curve)) < 5.1e-6


def test_head_only_phase_then_a_warm_up_of_its_own() -> None:
    config = OptimConfig(
        lr=1e-4, min_lr=0, warmup_steps=10, warmup_from=0, schedule="linear", head_only_steps=20,
        head_lr=5e-4, head_warmup_steps=4,
    )  # fmt: skip
    head = [learning_rate(config, s, 130, HEAD) for s in range(131)]
    body = [learning_rate(config, s, 130, BODY) for s in range(131)]
    assert body[:20] == [0.0] * 20
    assert head[:5] == pytest.approx([0, 1.25e-4, 2.5e-4, 3.75e-4, 5e-4])
    assert head[4:20] == [5e-4] * 16
    # From here one schedule for both, as long as what is left.
    assert head[20:] == body[20:]
    assert body[25] == pytest.approx(5e-5) and body[30] == pytest.approx(1e-4)
    assert body[80] == pytest.approx(5e-5) and body[130] == 0


def test_head_uses_lr_where_it_has_none_of_its_own() -> None:
    config = OptimConfig(lr=2e-4, head_only_steps=5)
    assert learning_rate(config, 3, 100, HEAD) == 2e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"schedule": "step"}, "allowed: 'cosine', 'wsd'"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"min_lr": 1.0}, "min_lr"),
        ({"warmup_from": 1.5}, r"\[0, 1\]"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"head_lr": 1e-3}, "head_only_steps is 0"),
        ({"head_only_steps": 2, "head_warmup_steps": 3}, "at most head_only_steps = 2"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"decay_fraction": 0.0}, "decay_fraction"),
        ({"warmup_steps": -1}, "warmup_steps"),
    ],
)
def test_bad_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**change)


# ------------------------------------------------------------------ moving average


def test_average_of_bf16_weights_follows_the_exact_one() -> None:
    """A bf16 average would not move at all: its last bit is 40 times a step of 1e-4."""
    torch.manual_seed(0)
    module = nn.Linear(64, 32).bfloat16()
    start = module.weight.detach().double()
    ema = ParameterEma(module, 0.9999)
    exact = start.clone()
    frozen = module.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            module.weight.copy_((start * (1 + 0.001 * step)).bfloat16())
        ema.update(module)
        exact.lerp_(module.weight.detach().double(), 1e-4)
        frozen.lerp_(module.weight.detach(), 1e-4)
    mine = ema.state_dict()["weight"]
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine.double(), exact, rtol=5e-6, atol=1e-8)
    moved = (exact - start).norm()
    assert (frozen.double() - start).norm() < 0.5 * moved < moved


def test_average_warms_up_by_the_step_alone() -> None:
    module = nn.Linear(3, 2, bias=False)
    ema = ParameterEma(module, 0.999)
    assert ema.decay_at(0) == 0.1 and ema.decay_at(10) == 11 / 20
    assert ema.decay_at(10**6) == ema.decay_at(None) == 0.999
    first = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    ema.update(module, step=0)
    torch.testing.assert_close(ema.state_dict()["weight"], 0.1 * first + 0.9 * module.weight)


def test_average_resumes_exactly() -> None:
    def run(steps: range, module: nn.Module, ema: ParameterEma) -> None:
        for step in steps:
            g = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for p in module.parameters():
                    p.add_(torch.randn(p.shape, generator=g))
            ema.update(module, step)

    torch.manual_seed(0)
    straight = nn.Linear(4, 4)
    ema = ParameterEma(straight, 0.99)
    run(range(12), straight, ema)

    torch.manual_seed(0)
    first = nn.Linear(4, 4)
    half = ParameterEma(first, 0.99)
    run(range(5), first, half)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "ema": half.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = nn.Linear(4, 4)
    again = ParameterEma(second, 0.99)
    second.load_state_dict(state["model"])
    again.load_state_dict(state["ema"])
    run(range(5, 12), second, again)
    for name, tensor in ema.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_swap_gives_the_weights_back_even_after_an_error() -> None:
    model = Whole()
    ema = ParameterEma(model, 0.5)
    assert set(ema.state_dict()) <= set(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="stop"), ema.swapped(model):
        for name, p in model.named_parameters():
            torch.testing.assert_close(p, before[name] - 1.0, atol=1e-6, rtol=0)
        raise RuntimeError("stop")
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


def test_average_of_another_model_is_refused() -> None:
    ema = ParameterEma(nn.Linear(3, 2), 0.9)
    with pytest.raises(ValueError, match="bias"):
        ema.load_state_dict({"weight": torch.zeros(2, 3)})
