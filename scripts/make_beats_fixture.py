"""Outputs of an independent BEATs (avex) for the tests to compare with.

Run from the repository root with the environment that `scripts/avex_env.sh` makes:

    .venv-avex/bin/python -m scripts.make_beats_fixture           # rewrites the fixture
    .venv-avex/bin/python -m scripts.make_beats_fixture --compare # base size, prints JSON

The fixture holds random weights under avex's names, clips, and what avex makes of them: log-mel,
output of every layer, gradients, each with and without padding.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FIXTURE = Path(__file__).parents[1] / "tests/trainer/encoders/fixtures/beats.safetensors"
# Ours -> avex's. Small, but with the kernel, the buckets and the length that matter.
SMALL = {
    "layers": 3,
    "dim": 32,
    "ffn_dim": 64,
    "heads": 4,
    "patch_dim": 24,
    "conv_pos_groups": 4,
}
AVEX_NAMES = {
    "layers": "encoder_layers",
    "dim": "encoder_embed_dim",
    "ffn_dim": "encoder_ffn_embed_dim",
    "heads": "encoder_attention_heads",
    "patch_dim": "embed_dim",
    "conv_pos_groups": "conv_pos_groups",
}
RATE_HZ = 16000


def build(fields: dict[str, int], seed: int) -> nn.Module:
    """An avex encoder with weights so large that gate and bias show in the output."""
    from avex.models.beats.beats import BEATs, BEATsConfig

    torch.manual_seed(seed)
    model: nn.Module = BEATs(BEATsConfig(**{AVEX_NAMES[k]: v for k, v in fields.items()}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name or "grep" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clips(seconds: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two clips (a chirp in noise, and noise that ends early) and their lengths, in samples."""
    generator = torch.Generator().manual_seed(seed)
    samples = int(seconds * RATE_HZ)
    time_s = torch.arange(samples) / RATE_HZ
    chirp = 0.3 * torch.sin(2 * math.pi * (800 + 300 * time_s) * time_s)
    wav_BT = 0.05 * torch.randn(2, samples, generator=generator)
    wav_BT[0] += chirp
    length = samples * 5 // 8
    wav_BT[1, length:] = 0.0
    wav_BT = (wav_BT * 32768).round().clamp(-32768, 32767) / 32768
    return wav_BT, torch.tensor([samples, length])


def run(model: Any, wav_BT: Tensor, length_B: Tensor | None) -> dict[str, Tensor]:
    """Log-mel, tokens, token mask, output of every layer."""
    padding_BT = None
    if length_B is not None:
        padding_BT = torch.arange(wav_BT.shape[1]) >= length_B[:, None]
    layers: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: layers.append(out[0].transpose(0, 1)))
        for layer in model.encoder.layers
    ]
    tokens_BND, padding_BN = model(wav_BT, padding_BT)
    for hook in hooks:
        hook.remove()
    valid_BN = torch.ones(tokens_BND.shape[:2], dtype=torch.bool)
    if padding_BN is not None:
        valid_BN = ~padding_BN
    return {"tokens": tokens_BND, "valid": valid_BN, "layers": torch.stack(layers)}


def probe(tokens_BND: Tensor, valid_BN: Tensor) -> Tensor:
    """A scalar that depends on every valid token; the tests take its gradients too."""
    weight_ND = torch.linspace(-1, 1, tokens_BND[0].numel()).view(tokens_BND.shape[1:]).cos()
    return (tokens_BND * weight_ND * valid_BN[..., None]).square().sum()


def make_fixture() -> None:
    """Write the fixture."""
    model = build(SMALL, seed=0)
    wav_BT, length_B = clips(5.0, seed=0)
    tensors = {"wav": (wav_BT * 32768).short(), "length": length_B}
    tensors["mel"] = model.preprocess(wav_BT)  # type: ignore[operator]
    tied = "relative_attention_bias.weight"
    for name, tensor in model.state_dict().items():
        if not name.startswith("fbank.") and (tied not in name or "layers.0." in name):
            tensors[f"weight.{name}"] = tensor.clone()
    for case, lengths in (("whole", None), ("padded", length_B)):
        model.zero_grad()
        out = run(model, wav_BT, lengths)
        probe(out["tokens"], out["valid"]).backward()  # type: ignore[no-untyped-call]
        tensors |= {f"{case}.{name}": tensor.detach() for name, tensor in out.items()}
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            tensors[f"{case}.grad.{name}"] = parameter.grad.clone()
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, FIXTURE, {"config": json.dumps(SMALL)}
    )
    print(f"{FIXTURE}: {FIXTURE.stat().st_size / 1e6:.2f} MB")


def compare_base() -> dict[str, float]:
    """Largest difference between avex and ours at base size, per case and in the log-mel."""
    # avex's environment has no dawnchorus; a checkout's own folder stands in for it.
    importlib.import_module("trainer")
    from dawnchorus.trainer.encoders.beats import Beats
    from dawnchorus.trainer.encoders.beats_config import BeatsConfig
    from dawnchorus.trainer.frontends.kaldi import BeatsLogMel

    theirs, ours = build({}, seed=1), Beats(BeatsConfig.base()).eval()
    tied = "relative_attention_bias.weight"
    ours.load_state_dict(
        {
            name: tensor
            for name, tensor in theirs.state_dict().items()
            if not name.startswith("fbank.") and (tied not in name or "layers.0." in name)
        }
    )
    wav_BT, length_B = clips(10.0, seed=1)
    difference: dict[str, float] = {}
    with torch.no_grad():
        mel_BTF, _ = BeatsLogMel.from_config(ours.config)(wav_BT)
        mel_difference = mel_BTF - theirs.preprocess(wav_BT)  # type: ignore[operator]
        difference["mel"] = float(mel_difference.abs().max())
        for case, lengths in (("whole", None), ("padded", length_B)):
            out = run(theirs, wav_BT, lengths)
            mine = ours(mel_BTF, valid_BN=out["valid"], layers=True)
            worst = [
                (a - b)[out["valid"]] for a, b in zip(mine.layers[1:], out["layers"], strict=True)
            ]
            difference[case] = float(torch.stack([w.abs().max() for w in worst]).max())
            difference[f"{case} size"] = float(out["tokens"].abs().mean())
    return difference


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true", help="compare at base size, print JSON")
    if parser.parse_args().compare:
        print(json.dumps(compare_base()))
    else:
        make_fixture()
