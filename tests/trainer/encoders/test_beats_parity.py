"""BEATs and its front end against avex, an independent implementation (see the script's docs)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.encoders.beats_cpu import quicken
from dawnchorus.trainer.frontends.kaldi import BeatsLogMel
from dawnchorus.trainer.hub.adapters.beats import state_from_microsoft

REPO = Path(__file__).parents[3]
FIXTURE = Path(__file__).parent / "fixtures" / "beats.safetensors"
TABLE = "encoder.layers.0.self_attn.relative_attention_bias.weight"
CASES = ["whole", "padded"]


@pytest.fixture(scope="module")
def fixture() -> dict[str, Tensor]:
    with safe_open(FIXTURE, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture
def model(fixture: dict[str, Tensor]) -> Beats:
    with safe_open(FIXTURE, framework="pt") as file:
        config = BeatsConfig(**json.loads(file.metadata()["config"]))
    encoder = Beats(config).eval()
    encoder.load_state_dict(weights(fixture))
    return encoder


def weights(fixture: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "weight."
    return {k.removeprefix(prefix): v for k, v in fixture.items() if k.startswith(prefix)}


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_front_end(fixture: dict[str, Tensor], model: Beats) -> None:
    mel_BTF, _ = BeatsLogMel.from_config(model.config)(fixture["wav"].float() / 32768)
    close(mel_BTF, fixture["mel"])


@pytest.mark.parametrize("case", CASES)
def test_every_layer(fixture: dict[str, Tensor], model: Beats, case: str) -> None:
    valid_BN = fixture[f"{case}.valid"]
    out = model(fixture["mel"], valid_BN=None if case == "whole" else valid_BN, layers=True)
    close(out.tokens_BND[valid_BN], fixture[f"{case}.tokens"][valid_BN])
    assert out.layers is not None and len(out.layers) == 4
    for ours_BND, theirs_BND in zip(out.layers[1:], fixture[f"{case}.layers"], strict=True):
        close(ours_BND[valid_BN], theirs_BND[valid_BN])


@pytest.mark.parametrize("case", CASES)
def test_with_the_other_attention(fixture: dict[str, Tensor], model: Beats, case: str) -> None:
    """As it trains on a CPU."""
    quicken(model)
    test_every_layer(fixture, model, case)
    test_gradients(fixture, model, case)


@pytest.mark.parametrize("case", CASES)
def test_gradients(fixture: dict[str, Tensor], model: Beats, case: str) -> None:
    valid_BN = fixture[f"{case}.valid"]
    tokens_BND = model(fixture["mel"], valid_BN=valid_BN).tokens_BND
    # The scalar of `probe` in scripts/make_beats_fixture.py.
    weight_ND = torch.linspace(-1, 1, tokens_BND[0].numel()).view(tokens_BND.shape[1:]).cos()
    (tokens_BND * weight_ND * valid_BN[..., None]).square().sum().backward()
    for name, parameter in model.named_parameters():
        theirs = fixture[f"{case}.grad.{name}"]
        assert parameter.grad is not None
        # The floor is for the key's bias, which the softmax cancels: its gradient is rounding.
        close(parameter.grad, theirs, max(1e-6, 1e-4 * float(theirs.abs().max())))


def test_microsoft_state_dict(fixture: dict[str, Tensor], model: Beats) -> None:
    """Weight norm under its old names and the bias table under every layer."""
    microsoft = {}
    for name, tensor in weights(fixture).items():
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            name = name.replace(f"parametrizations.weight.{new}", old)
        microsoft[name] = tensor
    for layer in range(1, model.config.layers):
        microsoft[TABLE.replace("layers.0.", f"layers.{layer}.")] = microsoft[TABLE]
    assert "encoder.pos_conv.0.weight_g" in microsoft
    renamed = state_from_microsoft(microsoft, "test")
    fresh = Beats(model.config).eval()
    fresh.load_state_dict({k.removeprefix("encoder."): v for k, v in renamed.items()})
    close(fresh(fixture["mel"]).tokens_BND, fixture["whole.tokens"])


@pytest.mark.avex
@pytest.mark.slow
def test_base_size_live(avex_python: Path) -> None:
    command = [str(avex_python), "-m", "scripts.make_beats_fixture", "--compare"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    difference = json.loads(done.stdout.splitlines()[-1])
    assert difference["mel"] <= 1e-5
    for case in CASES:
        assert difference[case] <= 1e-5
        assert difference[f"{case} size"] > 0.5
