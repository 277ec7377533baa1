from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from dawnchorus.trainer.encoders import base
from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.frontends.kaldi import BeatsLogMel
from dawnchorus.trainer.registry import build_encoder

TINY = BeatsConfig(
    layers=2,
    dim=32,
    ffn_dim=48,
    heads=4,
    patch_dim=24,
    conv_pos=24,
    conv_pos_groups=4,
    num_buckets=32,
    max_distance=100,
    dropout=0.0,
    attention_dropout=0.0,
    input_dropout=0.0,
    layer_drop=0.0,
)


def tiny(seed: int = 0, **changes: Any) -> Beats:
    """A small encoder in which position, gate and every bias matter."""
    torch.manual_seed(seed)
    encoder = Beats(replace(TINY, **changes))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 1 or "grep" in name or "relative" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def mels(clips: int = 3, frames: int = 90, seed: int = 0) -> Tensor:
    return torch.randn(clips, frames, 128, generator=torch.Generator().manual_seed(seed))


# --- padding ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("attention")
def test_a_padded_clip_gives_what_it_gives_alone() -> None:
    encoder = tiny().eval()
    frames_B = torch.tensor([200, 16, 95, 17, 160, 33])
    mel_BTF = mels(6, 200)
    out = encoder(mel_BTF, frames_B, layers=True)
    assert out.valid_BN.sum(1).tolist() == [96, 8, 40, 8, 80, 16]
    assert out.layers is not None
    for row, frames in enumerate(frames_B):
        alone = encoder(mel_BTF[row : row + 1, :frames], layers=True)
        valid = alone.tokens_BND.shape[1]
        assert valid == out.valid_BN[row].sum()
        for padded_BND, alone_BND in zip(out.layers, alone.layers, strict=True):
            difference = padded_BND[row, :valid] - alone_BND[0]
            assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("frontend", ["beats", "eat"])
def test_from_the_waveform_too(frontend: Any) -> None:
    encoder = tiny(frontend=frontend).eval()
    front_end = BeatsLogMel.from_config(encoder.config)
    length_B = torch.tensor([48000, 300, 31111, 2959])
    wav_BT = 0.1 * torch.randn(4, 48000, generator=torch.Generator().manual_seed(0))
    out = encoder(*front_end(wav_BT, length_B))
    for row, length in enumerate(length_B):
        alone = encoder(*front_end(wav_BT[row : row + 1, :length]))
        tokens_ND = out.tokens_BND[row][out.valid_BN[row]]
        torch.testing.assert_close(
            tokens_ND, alone.tokens_BND[0][alone.valid_BN[0]], atol=1e-5, rtol=0
        )


@pytest.mark.usefixtures("attention")
def test_nothing_of_the_padding_reaches_the_clip() -> None:
    encoder = tiny().eval()
    mel_BTF, frames_B = mels(2, 96), torch.tensor([96, 48])
    loud_BTF = mel_BTF.clone()
    loud_BTF[1, 48:] = 1000.0
    quiet, loud = encoder(mel_BTF, frames_B), encoder(loud_BTF, frames_B)
    assert torch.equal(quiet.tokens_BND[quiet.valid_BN], loud.tokens_BND[quiet.valid_BN])


def test_too_few_frames_still_make_one_column() -> None:
    encoder, expected = tiny(), {0: 8, 15: 8, 16: 8, 31: 8, 32: 16, 998: 496}
    assert {frames: encoder.grid(frames).tokens for frames in expected} == expected
    valid_BN = encoder.valid(torch.tensor(list(expected)), encoder.grid(998))
    assert valid_BN.sum(1).tolist() == list(expected.values())


# --- visible tokens only ---------------------------------------------------------------------


@pytest.mark.usefixtures("attention")
def test_true_positions_equal_hiding_the_masked_tokens(random_keep: Callable[..., Tensor]) -> None:
    """Masked tokens as padding in the full grid is the same thing, only slower."""
    encoder = tiny().eval()
    mel_BTF, keep_BK = mels(), random_keep(3, 40, 16)
    keep_BN = torch.zeros(3, 40, dtype=torch.bool).scatter(1, keep_BK, True)
    full_BND = encoder(mel_BTF, valid_BN=keep_BN).tokens_BND
    visible_BKD = encoder.encode_visible(mel_BTF, keep_BK, compact=False)
    expected_BKD = full_BND.gather(1, keep_BK[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(visible_BKD, expected_BKD, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("attention")
def test_compact_positions_equal_a_shorter_clip(random_keep: Callable[..., Tensor]) -> None:
    encoder = tiny().eval()
    mel_BTF, keep_BK = mels(), random_keep(3, 40, 16)
    # Move the kept patches (16 x 16 of the log-mel) together.
    patch_BNtf = mel_BTF[:, :80].unflatten(1, (5, 16)).unflatten(3, (8, 16)).permute(0, 1, 3, 2, 4)
    patch_BNtf = patch_BNtf.flatten(1, 2)
    kept = torch.stack([patches[keep] for patches, keep in zip(patch_BNtf, keep_BK, strict=True)])
    short_BTF = kept.unflatten(1, (2, 8)).permute(0, 1, 3, 2, 4).reshape(3, 32, 128)
    compact_BKD = encoder.encode_visible(mel_BTF, keep_BK, compact=True)
    torch.testing.assert_close(compact_BKD, encoder(short_BTF).tokens_BND, atol=1e-5, rtol=0)
    assert (compact_BKD - encoder.encode_visible(mel_BTF, keep_BK)).abs().max() > 1e-2


@pytest.mark.parametrize("compact", [False, True])
def test_kept_padding_changes_nothing(compact: bool, random_keep: Callable[..., Tensor]) -> None:
    encoder = tiny().eval()
    mel_BTF = mels(2, 96)
    valid_BN = torch.arange(48) < torch.tensor([48, 24])[:, None]
    # Eight tokens of sound, then (as an objective fills up to a fixed count) eight of padding.
    sound = random_keep(1, 24, 8)[0]
    keep_BK = torch.stack([random_keep(1, 48, 16)[0], torch.cat([sound, torch.arange(30, 38)])])
    visible_BKD = encoder.encode_visible(mel_BTF, keep_BK, valid_BN, compact=compact)
    alone_BKD = encoder.encode_visible(mel_BTF[1:, :48], sound[None], compact=compact)
    torch.testing.assert_close(visible_BKD[1:, :8], alone_BKD, atol=1e-5, rtol=0)


def test_several_views_of_a_clip(random_keep: Callable[..., Tensor]) -> None:
    encoder = tiny().eval()
    mel_BTF, keep_MK = mels(2), random_keep(6, 40, 16)
    valid_BN = torch.arange(40) < torch.tensor([40, 32])[:, None]
    together = encoder.encode_visible(mel_BTF, keep_MK, valid_BN)
    for row in range(6):
        clip = slice(row // 3, row // 3 + 1)
        alone = encoder.encode_visible(mel_BTF[clip], keep_MK[row : row + 1], valid_BN[clip])
        seen = valid_BN[clip].gather(1, keep_MK[row : row + 1])
        torch.testing.assert_close(together[row][seen[0]], alone[0][seen[0]], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="whole number of views"):
        encoder.encode_visible(mel_BTF, keep_MK[:5])


# --- training --------------------------------------------------------------------------------


def test_every_parameter_is_initialised() -> None:
    torch.manual_seed(0)
    encoder = Beats(replace(TINY, layers=12, dim=768, ffn_dim=96, heads=12, conv_pos_groups=16))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(math.nan)
    encoder.reset_parameters()
    for name, parameter in encoder.named_parameters():
        assert bool(parameter.isfinite().all()), name
    attention: Any = encoder.encoder.layers[5].self_attn
    # At width 768 and 12 layers (Xavier, DeepNorm's gain); the position kernels' is
    # sqrt(4 / (24 x 768)).
    assert attention.q_proj.weight.std().item() == pytest.approx(0.0361, rel=0.02)
    assert attention.out_proj.weight.std().item() == pytest.approx(0.0115, rel=0.02)
    assert attention.grep_linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert bool((attention.grep_a == 1).all())
    conv: Any = encoder.encoder.pos_conv[0]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(4 / (24 * 768)), rel=0.02)


def test_layer_drop_follows_its_generator() -> None:
    encoder = tiny(layers=6, layer_drop=0.5)
    mel_BTF = mels(1, 16)

    def outputs(seed: int) -> Tensor:
        encoder.begin_step(seed)
        layers = encoder(mel_BTF, layers=True).layers
        assert layers is not None
        return torch.tensor([float(torch.equal(a, b)) for a, b in itertools.pairwise(layers)])

    torch.manual_seed(1)
    first = outputs(3)
    torch.manual_seed(2)
    assert torch.equal(outputs(3), first), "a rank with another global seed skips alike"
    skipped = torch.stack([outputs(seed) for seed in range(200)])
    assert float(skipped.mean()) == pytest.approx(0.5, abs=0.06)
    assert not torch.equal(skipped[0], skipped[1])
    encoder.eval()
    assert not outputs(3).any()


@pytest.mark.parametrize("layer_drop", [0.5, 0.999])
def test_skipped_layers_get_zero_gradients(layer_drop: float) -> None:
    encoder = tiny(layers=4, layer_drop=layer_drop)
    encoder.begin_step(0)
    encoder(mels()).tokens_BND.square().sum().backward()
    blocks: Any = encoder.encoder.layers
    empty = [not bool(block.fc1.weight.grad.any()) for block in blocks]
    assert any(empty)
    for parameter in encoder.parameters():
        assert parameter.grad is not None


def test_recomputing_layers_changes_no_gradient() -> None:
    grads = []
    for grad_checkpoint in (False, True):
        encoder = tiny(grad_checkpoint=grad_checkpoint, attention_dropout=0.2, dropout=0.2)
        torch.manual_seed(5)
        encoder(mels()).tokens_BND.square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("native", [False, True])
def test_autocast(
    native: bool, monkeypatch: pytest.MonkeyPatch, random_keep: Callable[..., Tensor]
) -> None:
    """On a CPU without bfloat16 kernels autocast changes nothing; elsewhere, little."""
    monkeypatch.setattr(base, "_cpu_has", lambda dtype: native)
    encoder = tiny().eval()
    mel_BTF, frames_B, keep_BK = mels(), torch.tensor([90, 40, 16]), random_keep(3, 16, 8)
    plain = encoder(mel_BTF, frames_B)
    valid = plain.valid_BN
    plain_BKD = encoder.encode_visible(mel_BTF, keep_BK)
    with torch.autocast("cpu", torch.bfloat16):
        cast_BND = encoder(mel_BTF, frames_B).tokens_BND
        cast_BKD = encoder.encode_visible(mel_BTF, keep_BK)
    for ours, expected in ((cast_BND[valid], plain.tokens_BND[valid]), (cast_BKD, plain_BKD)):
        assert torch.equal(ours, expected) is not native
        torch.testing.assert_close(ours.float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.usefixtures("attention")
def test_weights_in_bfloat16(random_keep: Callable[..., Tensor]) -> None:
    """As `from_pretrained(..., dtype=torch.bfloat16)` makes them."""
    encoder = tiny().eval()
    mel_BTF, frames_B, keep_BK = mels(), torch.tensor([90, 40, 16]), random_keep(3, 16, 8)
    plain, plain_BKD = encoder(mel_BTF, frames_B), encoder.encode_visible(mel_BTF, keep_BK)
    encoder.bfloat16()
    out, out_BKD = encoder(mel_BTF, frames_B), encoder.encode_visible(mel_BTF, keep_BK)
    assert out.tokens_BND.dtype == out_BKD.dtype == torch.bfloat16
    error_BND = (out.tokens_BND.float() - plain.tokens_BND)[plain.valid_BN]
    assert error_BND.abs().mean() < 0.03
    assert (out_BKD.float() - plain_BKD).abs().mean() < 0.03


def test_blocks_compile_into_whole_graphs() -> None:
    encoder = tiny().eval()
    mel_BTF, frames_B = mels(), torch.tensor([90, 40, 16])
    expected = encoder(mel_BTF, frames_B)
    for block in encoder.blocks():
        block.compile(backend="aot_eager", fullgraph=True)
    out = encoder(mel_BTF, frames_B)
    valid = out.valid_BN
    torch.testing.assert_close(out.tokens_BND[valid], expected.tokens_BND[valid], atol=1e-5, rtol=0)
    whole = torch.compile(tiny().eval(), backend="aot_eager", fullgraph=True)
    tokens_BND = whole(mel_BTF, frames_B).tokens_BND
    torch.testing.assert_close(tokens_BND[valid], expected.tokens_BND[valid], atol=1e-5, rtol=0)


def test_copies_are_independent() -> None:
    encoder = tiny(layer_drop=0.5)
    clone = copy.deepcopy(encoder)
    clone.begin_step(1)
    encoder.begin_step(2)
    assert not torch.equal(*(e.encoder.layer_rng.get_state() for e in (clone, encoder)))
    assert torch.equal(clone.patch_embedding.weight, encoder.patch_embedding.weight)


# --- sizes, names, numbers -------------------------------------------------------------------


def test_sizes() -> None:
    with torch.device("meta"):
        base, large = Beats(BeatsConfig.base()), Beats(BeatsConfig.large())
    assert sum(p.numel() for p in base.parameters()) == 90_311_792  # as avex's port has it
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(310e6, rel=0.02)
    assert BeatsConfig.base().alpha == pytest.approx(2.2134, abs=1e-4)
    assert BeatsConfig.large().beta == pytest.approx(0.2686, abs=1e-4)


def test_names_are_microsofts() -> None:
    names = set(tiny().state_dict())
    layer = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
        "self_attn.grep_linear", "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm",
    }  # fmt: skip
    expected = {
        f"encoder.layers.{i}.{part}.{kind}"
        for i in range(2)
        for part in layer
        for kind in ("weight", "bias")
    }
    expected |= {f"encoder.layers.{i}.self_attn.grep_a" for i in range(2)}
    expected |= {
        f"{part}.{kind}"
        for part in ("layer_norm", "post_extract_proj", "encoder.layer_norm")
        for kind in ("weight", "bias")
    }
    expected |= {
        "patch_embedding.weight",
        "encoder.pos_conv.0.bias",
        "encoder.pos_conv.0.parametrizations.weight.original0",
        "encoder.pos_conv.0.parametrizations.weight.original1",
        "encoder.layers.0.self_attn.relative_attention_bias.weight",
    }
    assert names == expected
    assert "post_extract_proj.weight" not in tiny(patch_dim=32).state_dict()


def test_flops_are_what_torch_counts(
    monkeypatch: pytest.MonkeyPatch, random_keep: Callable[..., Tensor]
) -> None:
    # The fused kernel has no formula in torch's counter; the products it stands for have.
    monkeypatch.setattr(base, "WITH_MASK", (SDPBackend.MATH,))
    encoder = tiny().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(mels(1, 160))
    # Ours leaves out the gates (and torch the softmax and everything elementwise).
    grid = encoder.grid(160)
    assert encoder.clip_flops(grid) == pytest.approx(counter.get_total_flops(), rel=0.01)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.encode_visible(mels(1, 160), random_keep(1, 80, 24))
    assert encoder.clip_flops(grid, 24) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_flops_of_base() -> None:
    with torch.device("meta"):
        base = Beats(BeatsConfig.base())
    # 98 GF per clip of 10 s; 21.6 GF for 124 visible tokens, and the position convolution's
    # 9.4 MF for each of the 496 places of the grid.
    assert base.clip_flops(base.grid(998)) == pytest.approx(98e9, rel=0.02)
    assert base.clip_flops(base.grid(998), 124) == pytest.approx(21.6e9 + 496 * 9.4e6, rel=0.02)


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": 100, "heads": 12},
        {"mel_bins": 100},
        {"dropout": 1.0},
        {"layer_drop": -0.1},
        {"layers": 0},
        {"num_buckets": 30},
        {"max_distance": 80},
        {"frontend": "mfcc"},
    ],
)
def test_impossible_configs_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        BeatsConfig(**fields)


def test_wrong_input_and_wrong_name() -> None:
    with pytest.raises(ValueError, match="128 mel bins"):
        tiny()(torch.zeros(1, 100, 64))
    with pytest.raises(ValueError, match="at least 16 frames"):
        tiny()(torch.zeros(1, 15, 128))
    assert isinstance(build_encoder({"name": "beats", "layers": 1, "dim": 32, "heads": 2}), Beats)
    with pytest.raises(ValueError, match=r"no encoder 'bets'\. Did you mean 'beats'"):
        build_encoder({"name": "bets"})
