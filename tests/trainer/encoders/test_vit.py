"""ViT against timm's VisionTransformer with the positions and post-norm block of the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import Maskable
from dawnchorus.trainer.encoders.vit import Vit
from dawnchorus.trainer.encoders.vit_config import VitConfig

TIMES, BANDS, DIM = 7, 3, 48
SMALL: dict[str, Any] = {"layers": 3, "dim": DIM, "ffn_dim": 96, "heads": 4, "mel_bins": 48}
KINDS: dict[str, dict[str, Any]] = {
    "eat": {},
    "mae": {"norm": "pre"},
    "xeno": {"norm": "pre", "qk_norm": True},
    "no_cls": {"norm": "pre", "cls_token": False},
    "learned": {"positions": "learned", "position_times": TIMES},
}


class PostNorm(nn.Module):
    """EAT, section 2.2: norms after the sums; timm calls it with its own arguments."""

    def __init__(self, dim: int, num_heads: int, norm_layer: Any, **_: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = TimmAttention(dim, num_heads=num_heads, qkv_bias=True)
        self.mlp = nn.Sequential()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 96), nn.Linear(96, dim)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp.fc2(F.gelu(self.mlp.fc1(x))))


def table(times: int, bands: int, dim: int) -> Tensor:
    """MAE's positions, number by number."""
    out = np.zeros((times, bands, dim))
    quarter = dim // 4
    for t in range(times):
        for f in range(bands):
            for i in range(quarter):
                rate = 1 / 10000 ** (i / quarter)
                for half, place in enumerate((f, t)):
                    out[t, f, 2 * half * quarter + i] = math.sin(place * rate)
                    out[t, f, (2 * half + 1) * quarter + i] = math.cos(place * rate)
    return torch.from_numpy(out).float().reshape(times * bands, dim)


def build(kind: str, **more: Any) -> Vit:
    torch.manual_seed(1)
    encoder = Vit(VitConfig(**SMALL, **KINDS[kind], **more))
    with torch.no_grad():
        for parameter in encoder.parameters():  # no norm of ones, no bias of zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def in_timm(name: str) -> str:
    return name.replace("trunk.layers", "blocks").replace("patch_embed", "patch_embed.proj")


def timm_of(encoder: Vit, times: int) -> VisionTransformer:
    """timm's model for clips of so many columns, with the encoder's weights."""
    c = encoder.config
    post = c.norm == "post"
    other = VisionTransformer(
        img_size=(16 * times, 48), patch_size=16, in_chans=1, num_classes=0, embed_dim=DIM,
        depth=3, num_heads=4, mlp_ratio=2, qk_norm=c.qk_norm, class_token=c.cls_token,
        global_pool="", pre_norm=post, final_norm=not post,
        norm_layer=lambda dim, **_: nn.LayerNorm(dim, 1e-6),
        **({"block_fn": PostNorm} if post else {}),
    ).eval()  # fmt: skip
    other.patch_embed.proj = nn.Conv2d(1, DIM, 16, 16)  # timm drops the bias with pre_norm
    state = {in_timm(k): v for k, v in encoder.state_dict().items()}
    prefix, places = c.prefix, times * BANDS
    if c.positions == "learned":
        state["pos_embed"] = state["pos_embed"][:, : prefix + places]
    else:
        state["pos_embed"] = F.pad(table(times, BANDS, DIM), (0, 0, prefix, 0))[None]
    other.load_state_dict(state)
    return other


def spectrogram(clips: int = 3) -> Tensor:
    return torch.randn(clips, 16 * TIMES + 9, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_timm_padded_and_alone(kind: str) -> None:
    """Tokens, gradients, and every clip of a batch as it is by itself, whatever lies behind it."""
    encoder, mel_BTF = build(kind), spectrogram()
    steps_B = torch.tensor([16 * TIMES + 9, 16 * 4 + 5, 9])
    out = encoder(mel_BTF, steps_B, layers=True)
    prefix = encoder.config.prefix
    loss = torch.zeros(())
    gradients: dict[str, Tensor] = {}
    for row, columns in enumerate((TIMES, 4, 1)):
        other = timm_of(encoder, columns)
        theirs_ND = other(mel_BTF[row : row + 1, None, : 16 * columns])[0]
        count = prefix + columns * BANDS
        assert out.valid_BN[row].tolist() == [i < count for i in range(prefix + TIMES * BANDS)]
        ours_ND = out.tokens_BND[row, :count]
        torch.testing.assert_close(ours_ND, theirs_ND, atol=1e-5, rtol=0)
        alone = encoder(mel_BTF[row : row + 1, : 16 * columns]).tokens_BND[0]
        torch.testing.assert_close(ours_ND, alone, atol=1e-5, rtol=0)
        weight_ND = torch.linspace(-1, 1, ours_ND.numel()).view_as(ours_ND).cos()
        loss = loss + (ours_ND * weight_ND).square().mean()
        (theirs_ND * weight_ND).square().mean().backward()
        for name, parameter in other.named_parameters():
            grad = parameter.grad
            if name == "pos_embed":
                grad = F.pad(grad, (0, 0, 0, (TIMES - columns) * BANDS))
            gradients[name] = gradients.get(name, 0) + grad
    loss.backward()
    for name, parameter in encoder.named_parameters():
        theirs = gradients[in_timm(name)]
        size = max(1e-6, 1e-4 * float(theirs.abs().max()))
        torch.testing.assert_close(parameter.grad, theirs, atol=size, rtol=0, msg=name)
    assert len(out.layers) == 4
    if prefix:
        assert torch.equal(out.clip_BD, out.tokens_BND[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_places(kind: str) -> None:
    encoder = build(kind)
    c = encoder.config
    assert c.parameters == sum(p.numel() for p in encoder.parameters())
    assert c.largest_block == sum(p.numel() for p in encoder.blocks()[0].parameters())
    stack = encoder.stack(2, 24)
    assert c.stack_parameters(2, 24) == sum(p.numel() for p in stack.parameters())
    grid = encoder.grid(16 * TIMES + 9)
    assert (grid.times, grid.bands, grid.prefix, grid.token_s) == (TIMES, BANDS, c.prefix, 0.16)
    assert isinstance(encoder, Maskable)
    assert VitConfig.base().parameters == 85_254_144 and VitConfig.large().parameters == 302_575_616


@pytest.mark.parametrize("kind", KINDS)
def test_visible_tokens_are_those_of_an_encoder_that_hears_nothing_else(kind: str) -> None:
    """All places kept: as `forward`. Some: as attention that may see only those."""
    encoder, mel_BTF = build(kind), spectrogram()
    steps_B = torch.tensor([16 * TIMES + 9, 16 * 4, 16 * 2])
    valid_BN = encoder.valid(steps_B, encoder.grid(mel_BTF.shape[1]))
    places = TIMES * BANDS
    every = torch.arange(places).expand(3, -1)
    whole = encoder(mel_BTF, steps_B).tokens_BND
    seen = encoder.encode_visible(mel_BTF, every, valid_BN)
    torch.testing.assert_close(seen[valid_BN], whole[valid_BN], atol=1e-5, rtol=0)
    keep_MK = torch.stack([torch.randperm(places)[:6].sort().values for _ in range(6)])
    some = encoder.encode_visible(mel_BTF, keep_MK, valid_BN)
    prefix = encoder.config.prefix
    for view, keep_K in enumerate(keep_MK):
        only_N = torch.zeros_like(valid_BN[0])
        only_N[:prefix] = True
        only_N[prefix + keep_K] = True
        only_N &= valid_BN[view // 2]
        if not only_N[prefix:].any():
            continue
        clip = mel_BTF[view // 2 : view // 2 + 1]
        alone_ND = encoder(clip, valid_BN=only_N[None]).tokens_BND[0]
        kept_K = valid_BN[view // 2][prefix + keep_K]
        ours = torch.cat([some[view, :prefix], some[view, prefix:][kept_K]])
        torch.testing.assert_close(ours, alone_ND[only_N], atol=1e-5, rtol=0)
    compact = encoder.encode_visible(mel_BTF, keep_MK, valid_BN, compact=True)
    assert not torch.allclose(compact, some, atol=1e-3)


def test_stack_adds_the_positions_of_a_grid() -> None:
    encoder = build("mae")
    stack = encoder.stack(2, 24, heads=2).eval()
    x_BLD = torch.randn(2, TIMES * BANDS, 24)
    expected = stack.run(x_BLD + table(TIMES, BANDS, 24))
    torch.testing.assert_close(stack(x_BLD), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="heads"):
        encoder.stack(1, 30)


def test_stochastic_depth_follows_the_step_alone() -> None:
    encoder = build("mae", drop_path=0.5).train()
    mel_BTF = spectrogram()

    def run(seed: int) -> Tensor:
        encoder.begin_step(seed)
        return encoder(mel_BTF).tokens_BND

    assert torch.equal(run(3), run(3))
    outputs = [run(seed) for seed in range(20)]
    assert len({float(x.detach().sum()) for x in outputs}) > 2
    assert not torch.equal(outputs[0], encoder.eval()(mel_BTF).tokens_BND)
    # What is left out still has a gradient, of zeros: DDP waits for one of each parameter.
    encoder.train().grad_checkpoint = True
    encoder.begin_step(0)
    encoder(mel_BTF).tokens_BND.square().mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_feed_forward_taps() -> None:
    encoder, fed = build("eat"), list[Tensor]()
    out = encoder(spectrogram(), layers=True, fed=fed)
    assert len(fed) == 3
    block = encoder.trunk.layers[2]
    middle = block.norm1(out.layers[2] + block.attn(out.layers[2], None))
    torch.testing.assert_close(fed[2], block.mlp(middle), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 5}, "multiple of heads"),
        ({"mel_bins": 40}, "multiple of patch"),
        ({"dim": 50, "heads": 5}, "multiple of 4"),
        ({"positions": "learned"}, "position_times"),
        ({"position_times": 4}, "position_times"),
    ],
)
def test_impossible_numbers(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VitConfig(**(SMALL | change))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="mel bins"):
        build("eat")(torch.zeros(1, 32, 16))
    with pytest.raises(ValueError, match=r"longer than encoder\.position_times"):
        build("learned")(torch.zeros(1, 16 * (TIMES + 1), 48))
