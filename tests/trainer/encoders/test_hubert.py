"""HuBERT against torchaudio's and transformers', padded against alone.

Shape legend: B clips, T samples, N tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import Coverable
from dawnchorus.trainer.encoders.hubert import Hubert
from dawnchorus.trainer.encoders.hubert_config import KERNELS, STRIDES, HubertConfig
from dawnchorus.trainer.encoders.hubert_cpu import quicken

TINY: dict[str, Any] = {
    "layers": 3, "dim": 64, "ffn_dim": 96, "heads": 4, "conv_dim": 32, "conv_pos": 16,
    "conv_pos_groups": 4,
}  # fmt: skip


def tiny(**changes: Any) -> Hubert:
    """Every parameter, norms and biases included, is its own random number."""
    encoder = Hubert(HubertConfig(**TINY | changes)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_every_layer_is_torchaudio_s() -> None:
    encoder = tiny()
    shapes = [(32, k, s) for k, s in zip(KERNELS, STRIDES, strict=True)]
    theirs = torchaudio.models.wav2vec2_model(
        "group_norm", shapes, False, 64, 0.1, 16, 4, 3, 4, 0.1, 96, 0.0, 0.1, False, 0.05, None
    ).eval()
    theirs.load_state_dict(encoder.state_dict())
    wav_BT = 0.1 * torch.randn(2, 9000)
    with torch.no_grad():
        layers, _ = theirs.extract_features(wav_BT)
        out = encoder(wav_BT, layers=True)
    assert out.layers is not None and len(out.layers) == 4
    for ours_BND, theirs_BND in zip(out.layers[1:], layers, strict=True):
        close(ours_BND, theirs_BND)
    assert torch.equal(out.layers[-1], out.tokens_BND)


def in_transformers(name: str) -> str:
    """transformers' name of a torchaudio tensor."""
    name = name.replace("encoder.feature_projection", "feature_projection")
    return name.replace("encoder.transformer.", "encoder.")


def test_every_layer_is_transformers_s() -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (extra: export)"
    )
    encoder = tiny()
    theirs = transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
            conv_dim=[32] * 7, num_feat_extract_layers=7, num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    state = {in_transformers(name): tensor for name, tensor in encoder.state_dict().items()}
    missing, left = theirs.load_state_dict(state, strict=False)
    assert missing == ["masked_spec_embed"] and not left
    wav_BT = 0.1 * torch.randn(2, 9000)
    with torch.no_grad():
        layers = theirs(wav_BT, output_hidden_states=True).hidden_states
        out = encoder(wav_BT, layers=True)
    assert out.layers is not None
    for ours_BND, theirs_BND in zip(out.layers, layers, strict=True):
        close(ours_BND, theirs_BND)


@pytest.mark.parametrize("behind", [0.0, 3.0], ids=["silence", "noise"])
def test_a_padded_clip_gives_what_it_gives_alone(behind: float) -> None:
    """torchaudio's own does not: its first norm is taken over the padding too."""
    encoder = tiny()
    steps_B = torch.tensor([12000, 7777, 719, 400])
    wav_BT = 0.1 * torch.randn(4, 12000)
    wav_BT[torch.arange(12000) >= steps_B[:, None]] = behind
    with torch.no_grad():
        out = encoder(wav_BT, steps_B, layers=True)
        assert out.layers is not None
        for row, steps in enumerate(steps_B.tolist()):
            alone = encoder(wav_BT[row : row + 1, :steps], layers=True)
            assert bool(alone.valid_BN.all())
            assert alone.valid_BN.shape[1] == int(out.valid_BN[row].sum())
            for ours_BND, theirs_BND in zip(out.layers, alone.layers, strict=True):
                close(ours_BND[row, out.valid_BN[row]], theirs_BND[0])
    grid = encoder.grid(12000)
    assert grid.tokens == 37 and grid.token_s == pytest.approx(0.02)
    assert out.valid_BN.sum(1).tolist() == [37, 24, 1, 1]


def test_hidden_tokens_are_not_seen() -> None:
    encoder = tiny()
    assert isinstance(encoder, Coverable)
    steps_B = torch.tensor([8000, 6000])
    wav_BT = 0.1 * torch.randn(2, 8000)
    cover_BN = torch.zeros(2, encoder.grid(8000).tokens, dtype=torch.bool)
    with torch.no_grad():
        bare, square_B = encoder.encode_covered(wav_BT, steps_B, cover_BN, torch.ones(64))
        plain = encoder(wav_BT, steps_B)
        close(bare.tokens_BND[bare.valid_BN], plain.tokens_BND[plain.valid_BN])
        _, alone_1 = encoder.encode_covered(
            wav_BT[1:, :6000], steps_B[1:], cover_BN[1:, :18], torch.ones(64)
        )
        close(square_B[1:], alone_1)
        cover_BN[:, 3:9] = True
        some, _ = encoder.encode_covered(wav_BT, steps_B, cover_BN, torch.ones(64))
        # Where all is hidden, nothing of the sound is left but its length.
        first, again = (
            encoder.encode_covered(wav, steps_B, torch.ones_like(cover_BN), torch.ones(64))[0]
            for wav in (wav_BT, wav_BT.flip(1))
        )
    assert not torch.equal(bare.tokens_BND, some.tokens_BND)
    close(first.tokens_BND[first.valid_BN], again.tokens_BND[again.valid_BN])


def test_layers_are_dropped_alike_and_still_get_gradients() -> None:
    encoder = tiny(layer_drop=0.6, layers=6, dropout=0.0, attention_dropout=0.0, input_dropout=0.0)
    encoder.train()
    wav_BT = 0.1 * torch.randn(1, 4000)
    answers = []
    for seed in (1, 1, 2):
        encoder.begin_step(seed)
        answers.append(encoder(wav_BT).tokens_BND)
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    answers[0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_the_gradient_into_the_convolutions_is_scaled() -> None:
    encoder, other = tiny(), tiny(stem_gradient=0.25)
    other.load_state_dict(encoder.state_dict())
    wav_BT = 0.1 * torch.randn(1, 4000)
    for network in (encoder, other):
        network(wav_BT).tokens_BND.square().sum().backward()
    for (name, ours), theirs in zip(encoder.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        factor = 0.25 if name.startswith("feature_extractor") else 1.0
        torch.testing.assert_close(theirs.grad, factor * ours.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("numbers", [{}, TINY], ids=["base", "tiny"])
def test_costs_are_known_without_building_it(numbers: dict[str, Any]) -> None:
    config = HubertConfig(**numbers)
    with torch.device("meta"):
        encoder = Hubert(config)
    each = {sum(p.numel() for p in block.parameters()) for block in encoder.blocks()}
    assert config.parameters == sum(p.numel() for p in encoder.parameters())
    assert each == {config.largest_block}
    assert config.blocks_parameters == config.layers * config.largest_block


def test_operations_are_those_that_torch_counts() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    encoder = tiny()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        encoder(0.1 * torch.randn(1, 320 * 40 + 80))
    counted = counter.get_total_flops()
    assert encoder.clip_flops(encoder.grid(320 * 40 + 80)) == pytest.approx(counted, rel=0.03)


def test_the_cpu_s_convolution_gives_the_same() -> None:
    """Padded, forward and backward; the class itself stays without it."""
    wav_BT, steps_B = 0.1 * torch.randn(2, 9000), torch.tensor([9000, 5000])
    found = []
    encoder = tiny(dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0).train()
    for turn in range(2):
        if turn:
            quicken(nn.ModuleList([encoder]))
            assert encoder.cpu_convolution is not None and Hubert.cpu_convolution is None
        encoder.zero_grad()
        out_BND = encoder(wav_BT, steps_B).tokens_BND
        out_BND.square().sum().backward()  # type: ignore[no-untyped-call]
        conv = encoder.encoder.transformer.pos_conv_embed.conv
        direction = conv.get_parameter("parametrizations.weight.original1")
        assert direction.grad is not None
        found.append((out_BND.detach(), direction.grad.clone()))
    close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-4, rtol=1e-4)
