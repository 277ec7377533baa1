"""A tokenizer of BEATs as Microsoft's code makes and uses it, for the tests to compare with.

Run from the repository root with a checkout of Microsoft's code (github.com/microsoft/unilm):

    python -m scripts.make_tokenizer_fixture UNILM/beats

The fixture is a `.pt` in the layout of the released tokenizers with random weights, whose codebook
their own k-means found; clips; and the codes that their `extract_labels` gives these clips, with
how far the second best code is from the best (cosines), since a tie may fall either way.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from scripts.make_beats_fixture import clips

FOLDER = Path(__file__).parents[1] / "tests/trainer/hub/fixtures"
CFG = {
    "input_patch_size": 16, "embed_dim": 24, "conv_bias": False, "encoder_layers": 2,
    "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4,
    "activation_fn": "gelu", "layer_norm_first": False, "deep_norm": True, "dropout": 0.1,
    "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.0,
    "dropout_input": 0.0, "conv_pos": 32, "conv_pos_groups": 4,
    "relative_position_embedding": True, "num_buckets": 64, "max_distance": 128,
    "gru_rel_pos": True, "quant_n": 48, "quant_dim": 16,
}  # fmt: skip
"""Small; the keys are those of their `TokenizersConfig`."""


def main(code: Path) -> None:
    """Write the fixture."""
    sys.path.insert(0, str(code))
    from Tokenizers import Tokenizers, TokenizersConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model = Tokenizers(TokenizersConfig(CFG)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name or "grep" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
            elif parameter.dim() == 1 and not name.startswith("quantize."):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.startswith("quantize_layer."):
                parameter.mul_(8.0)
        # The first call finds the codes; noise makes tokens differ.
        many_BT = 0.1 * torch.randn(8, 32000) * torch.rand(8, 1)
        model.extract_labels(many_BT)
        wav_BT = torch.cat([clips(2.0, seed)[0] for seed in (1, 2)])
        taken: list[torch.Tensor] = []
        hook = model.quantize_layer.register_forward_hook(lambda _m, _i, out: taken.append(out))
        code_BN = model.extract_labels(wav_BT).view(len(wav_BT), -1)
        hook.remove()
        unit_BNE = torch.nn.functional.normalize(taken[0], dim=-1)
        best_BN2 = (unit_BNE @ model.quantize.embedding.weight.T).topk(2, dim=-1).values
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": CFG, "model": model.state_dict()}, FOLDER / "tokenizer.pt")
    tensors = {
        "wav": (wav_BT * 32768).round().short(), "code": code_BN.short(),
        "margin": best_BN2[..., 0] - best_BN2[..., 1],
    }  # fmt: skip
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, FOLDER / "tokenizer_codes.safetensors"
    )
    print(f"{len(code_BN.unique())} codes, {sorted(model.state_dict())[-12:]}")
    for path in sorted(FOLDER.glob("tokenizer*")):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("code", type=Path, help="folder `beats` of Microsoft's repository")
    main(parser.parse_args().code)
