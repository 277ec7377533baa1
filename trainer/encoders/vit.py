"""ViT: a plain transformer over the patches of a spectrogram, as EAT and the MAE family use it.

EAT: Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer" (arXiv
2401.03497); post-norm. MAE: AudioMAE (arXiv 2207.06405), Bird-MAE (arXiv 2504.12880), XenoMAE;
pre-norm. This file is self-contained (torch, einops; its config and `base.py` beside it): it is
shipped inside exported models. Parts have timm's names, except that blocks are `trunk.layers`.

Shape legend: B clips, M masked views, T frames, F mel bins, N tokens of the full grid, K kept
tokens, L tokens in general, P pixels of a patch, D width, H heads, C channels per head.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import (
    Encoder,
    EncoderOutput,
    Grid,
    Stack,
    attend,
    eager_cpu,
    sincos,
    useful_autocast,
)
from .vit_config import VitConfig


class Attention(nn.Module):
    """Self-attention; queries and keys may be normalised per head."""

    def __init__(self, dim: int, heads: int, qk_norm_eps: float | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        wide, eps = dim // heads, qk_norm_eps
        self.q_norm = nn.Identity() if eps is None else nn.LayerNorm(wide, eps)
        self.k_norm = nn.Identity() if eps is None else nn.LayerNorm(wide, eps)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """`mask`: bool, [B, 1, 1, L]: which keys may be attended to."""
        qkv = rearrange(self.qkv(x_BLD), "b l (n h c) -> n b h l c", n=3, h=self.heads)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        out_BLD: Tensor = self.proj(rearrange(attend(q, k, v, mask), "b h l c -> b l (h c)"))
        return out_BLD


class Block(nn.Module):
    """One transformer layer, with its norms before or after what they belong to."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        heads: int,
        *,
        pre_norm: bool,
        eps: float,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, qk_norm_eps)
        self.norm2 = nn.LayerNorm(dim, eps)
        fc1, fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))

    def forward(
        self, x_BLD: Tensor, mask: Tensor | None, scale_2: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The layer's output, and what its feed-forward part gave before it was added.

        `scale_2`: factors of attention and of the feed-forward part (see `VitLayers.begin_step`).
        """
        y = self.attn(self.norm1(x_BLD) if self.pre_norm else x_BLD, mask)
        x_BLD = x_BLD + (y if scale_2 is None else y * scale_2[0])
        if not self.pre_norm:
            x_BLD = self.norm1(x_BLD)
        fed = self.mlp(self.norm2(x_BLD) if self.pre_norm else x_BLD)
        x_BLD = x_BLD + (fed if scale_2 is None else fed * scale_2[1])
        return (x_BLD if self.pre_norm else self.norm2(x_BLD)), fed


class VitLayers(Stack):
    """The blocks of an encoder, or of a decoder or predictor, which adds its positions itself."""

    def __init__(
        self,
        layers: int,
        dim: int,
        hidden: int,
        heads: int,
        *,
        bands: int,
        prefix: int = 0,
        norm: str = "post",
        norm_eps: float = 1e-6,
        qk_norm_eps: float | None = None,
        drop_path: float = 0.0,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.hidden, self.bands, self.drop_path = dim, hidden, bands, drop_path
        self.prefix = prefix
        self.pre_norm, self.grad_checkpoint = norm == "pre", grad_checkpoint
        self.rng = torch.Generator()
        self.layers = nn.ModuleList(
            Block(dim, hidden, heads, pre_norm=self.pre_norm, eps=norm_eps, qk_norm_eps=qk_norm_eps)
            for _ in range(layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices N(0, 0.02) where the norms come after (EAT), Xavier-uniform where before (MAE);
        biases 0, norms 1 and 0.
        """
        for module in self.layers.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, nn.Linear):
                if self.pre_norm:
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def blocks(self) -> list[nn.Module]:
        """The layers."""
        return list(self.layers)

    def flops(self, tokens: int) -> int:
        """See `Stack.flops`."""
        linear = 2 * tokens * (4 * self.dim**2 + 2 * self.dim * self.hidden)
        return len(self.layers) * (linear + 4 * tokens**2 * self.dim)

    @useful_autocast
    def forward(self, x_BLD: Tensor, valid_BL: Tensor | None = None) -> Tensor:
        """Run the blocks over the tokens in front and the places of a whole grid, after adding the
        positions of these.
        """
        places = x_BLD.shape[1] - self.prefix
        position_LD = sincos(places, self.bands, self.dim, x_BLD.device)
        position_LD = F.pad(position_LD, (0, 0, self.prefix, 0))
        return self.run(x_BLD + position_LD.to(x_BLD.dtype), valid_BL)

    def run(
        self,
        x_BLD: Tensor,
        valid_BL: Tensor | None = None,
        *,
        collect: list[Tensor] | None = None,
        fed: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            x_BLD: tokens that know their positions.
            valid_BL: tokens that may be attended to (None: all).
            collect: takes the input and the output of every block.
            fed: takes what the feed-forward part of every block gives.
        """
        mask = None
        # Where looking costs nothing, find that there is nothing to mask.
        if valid_BL is not None and not (eager_cpu(valid_BL) and bool(valid_BL.all())):
            mask = valid_BL[:, None, None, :]
        if collect is not None:
            collect.append(x_BLD)
        for block, scale_2 in zip(self.layers, self._scales(x_BLD.device), strict=True):
            if self.grad_checkpoint and self.training and torch.is_grad_enabled():
                x_BLD, y_BLD = checkpoint(block, x_BLD, mask, scale_2, use_reentrant=False)
            else:
                x_BLD, y_BLD = block(x_BLD, mask, scale_2)
            if collect is not None:
                collect.append(x_BLD)
            if fed is not None:
                fed.append(y_BLD)
        return x_BLD

    def _scales(self, device: torch.device) -> list[Tensor | None]:
        """Factors of the parts of each block: 0 where this step leaves one out, else 1 / (1 - p),
        so that the expectation stays.
        """
        count = len(self.layers)
        if not self.training or self.drop_path == 0:
            return [None] * count
        rate_L1 = torch.linspace(0, self.drop_path, count)[:, None]
        kept_L2 = torch.rand(count, 2, generator=self.rng) >= rate_L1
        return list((kept_L2 / (1 - rate_L1)).to(device, non_blocking=True))


class Vit(Encoder):
    """The encoder: normalised spectrogram in, tokens out."""

    config: VitConfig

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(1, config.dim, config.patch, stride=config.patch)
        shape = (1, config.prefix, config.dim)
        self.cls_token = nn.Parameter(torch.empty(shape)) if config.cls_token else None
        self.pos_embed: nn.Parameter | None = None
        if config.position_times is not None:
            places = config.position_times * config.bands
            self.pos_embed = nn.Parameter(torch.empty(1, config.prefix + places, config.dim))
        norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.norm_pre: nn.Module = norm if config.norm == "post" else nn.Identity()
        self.norm: nn.Module = norm if config.norm == "pre" else nn.Identity()
        self.trunk = self.stack(config.layers, config.dim, drop_path=config.drop_path)
        self._reset_ends()

    def stack(self, layers: int, dim: int, **options: Any) -> VitLayers:
        """Blocks of this encoder's kind; `heads` and what `VitLayers` takes may be given.

        Raises:
            ValueError: the heads do not divide `dim`, or `dim` is no multiple of 4.
        """
        c = self.config
        heads = options.pop("heads", c.heads)
        if dim % heads or dim % 4:
            raise ValueError(f"a width of {dim} is no multiple of {heads} heads and of 4")
        options = {
            "bands": c.bands, "norm": c.norm, "norm_eps": c.norm_eps,
            "qk_norm_eps": c.qk_norm_eps if c.qk_norm else None,
            "grad_checkpoint": c.grad_checkpoint,
        } | options  # fmt: skip
        return VitLayers(layers, dim, c.ffn_dim * dim // c.dim, heads, **options)

    @property
    def grad_checkpoint(self) -> bool:
        """Recompute each layer in the backward pass."""
        return self.trunk.grad_checkpoint

    @grad_checkpoint.setter
    def grad_checkpoint(self, recompute: bool) -> None:
        self.trunk.grad_checkpoint = recompute

    def blocks(self) -> list[nn.Module]:
        """The transformer layers."""
        return self.trunk.blocks()

    def tail(self) -> list[nn.Module]:
        """The norm after the last block, where norms come first."""
        return [self.norm] if self.config.norm == "pre" else []

    def begin_step(self, seed: int) -> None:
        """Choose what stochastic depth leaves out in this step."""
        self.trunk.rng.manual_seed(seed)

    def reset_parameters(self) -> None:
        """Initialise everything anew: as EAT where norms come after, as MAE where before."""
        self.trunk.reset_parameters()
        self._reset_ends()

    @torch.no_grad()
    def _reset_ends(self) -> None:
        """Patches Xavier-uniform, bias as torch; CLS N(0, 1) in EAT, N(0, 0.02) in MAE."""
        c = self.config
        self.patch_embed.reset_parameters()
        nn.init.xavier_uniform_(self.patch_embed.weight.view(c.dim, -1))
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1.0 if c.norm == "post" else 0.02)
        if self.pos_embed is not None and c.position_times is not None:
            self.pos_embed.zero_()
            self.pos_embed[0, c.prefix :] = sincos(c.position_times * c.bands, c.bands, c.dim)
        for norm in (self.norm_pre, self.norm):
            if isinstance(norm, nn.LayerNorm):
                norm.reset_parameters()

    def grid(self, steps: int) -> Grid:
        """Whole patches of so many frames, at least one column, and CLS in front."""
        c = self.config
        return Grid(max(steps // c.patch, 1), c.bands, c.prefix, c.patch * c.hop_s)

    def valid(self, steps_B: Tensor, grid: Grid) -> Tensor:
        """CLS, and tokens of whole time columns; at least one column of each clip."""
        return self._valid(steps_B, grid.tokens)

    def _valid(self, steps_B: Tensor, tokens: int) -> Tensor:
        own_B = (steps_B.long() // self.config.patch).clamp(min=1) * self.config.bands
        return torch.arange(tokens, device=steps_B.device) < own_B[:, None] + self.config.prefix

    def _places(self, mel_BTF: Tensor) -> Tensor:
        """Patches of the whole grid without positions, [B, N, D]; frames that fill none drop."""
        c = self.config
        if mel_BTF.shape[1] < c.patch or mel_BTF.shape[2] != c.mel_bins:
            expected = f"[clips, at least {c.patch} frames, {c.mel_bins} mel bins]"
            raise ValueError(f"spectrogram of shape {tuple(mel_BTF.shape)}; expected {expected}")
        # The convolution as a gather and a product: as fast as it, and no axis has a length that is
        # 1 for some clips (`torch.export` would ask for more sound).
        weight, device = self.patch_embed.weight, mel_BTF.device
        place_N1 = torch.arange(mel_BTF.shape[1] // c.patch * c.bands, device=device)[:, None]
        pixel_S = torch.arange(c.patch, device=device)
        frame_NS = place_N1 // c.bands * c.patch + pixel_S
        bin_NS = place_N1 % c.bands * c.patch + pixel_S
        pixel_BNSS = mel_BTF.to(weight.dtype)[:, frame_NS[:, :, None], bin_NS[:, None, :]]
        return F.linear(pixel_BNSS.flatten(2), weight.flatten(1), self.patch_embed.bias)

    def _positions(self, places: int) -> Tensor:
        """Positions of the first places, [N, D]."""
        c, like = self.config, self.patch_embed.weight
        if self.pos_embed is None:
            return sincos(places, c.bands, c.dim, like.device).to(like.dtype)
        if places > self.pos_embed.shape[1] - c.prefix:
            clip, most = f"a clip of {places // c.bands} columns", c.position_times
            raise ValueError(f"{clip} is longer than encoder.position_times = {most}: shorten it")
        return self.pos_embed[0, c.prefix : c.prefix + places]

    def _with_cls(self, x_BLD: Tensor) -> Tensor:
        """CLS in front, which has a position only in a table of learned ones; the first norm."""
        if self.cls_token is not None:
            token: Tensor = self.cls_token
            if self.pos_embed is not None:
                token = token + self.pos_embed[:, :1]
            x_BLD = torch.cat([token.to(x_BLD.dtype).expand(x_BLD.shape[0], -1, -1), x_BLD], dim=1)
        first_BLD: Tensor = self.norm_pre(x_BLD)
        return first_BLD

    @useful_autocast
    def forward(
        self,
        mel_BTF: Tensor,
        steps_B: Tensor | None = None,
        *,
        valid_BN: Tensor | None = None,
        layers: bool = False,
        fed: list[Tensor] | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            mel_BTF: normalised spectrogram, at least one patch of frames.
            steps_B: frames of each clip that stand for sound (None: all of them).
            valid_BN: overrides what follows from `steps_B`.
            layers: also return the input and output of every block.
            fed: takes what the feed-forward part of every block gives (`FeedForwardTaps`).

        Raises:
            ValueError: the spectrogram is too short, too long for learned positions, or has
                another number of bins.
        """
        x_BND = self._places(mel_BTF)
        x_BND = self._with_cls(x_BND + self._positions(x_BND.shape[1]))
        if valid_BN is None and steps_B is not None:
            valid_BN = self._valid(steps_B, x_BND.shape[1])
        collected: list[Tensor] | None = [] if layers else None
        x_BND = self.norm(self.trunk.run(x_BND, valid_BN, collect=collected, fed=fed))
        if valid_BN is None:
            valid_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
        clip_BD = x_BND[:, 0] if self.cls_token is not None else None
        return EncoderOutput(x_BND, valid_BN, collected, clip_BD)

    @useful_autocast
    def encode_visible(
        self,
        mel_BTF: Tensor,
        keep_MK: Tensor,
        valid_BN: Tensor | None = None,
        *,
        compact: bool = False,
    ) -> Tensor:
        """Encode only the kept tokens of each clip; see `Maskable.encode_visible`."""
        x_BND = self._places(mel_BTF)
        clips, places, dim = x_BND.shape
        if len(keep_MK) % clips:
            raise ValueError("keep_MK must have a whole number of views per clip")
        if not compact:
            x_BND = x_BND + self._positions(places)
        # All views of a clip in one row, so that its tokens are not repeated before the choice.
        index_BR = keep_MK.reshape(clips, -1)
        x_MKD = x_BND.gather(1, index_BR[..., None].expand(-1, -1, dim)).view(*keep_MK.shape, dim)
        if compact:
            x_MKD = x_MKD + self._positions(places)[: keep_MK.shape[1]]
        valid_ML = None
        if valid_BN is not None:
            prefix = self.config.prefix
            valid_MK = valid_BN[:, prefix:].gather(1, index_BR).view(keep_MK.shape)
            valid_ML = F.pad(valid_MK, (prefix, 0), value=True)
        out_MLD: Tensor = self.norm(self.trunk.run(self._with_cls(x_MKD), valid_ML))
        return out_MLD

    def flops(self, tokens: int) -> int:
        """Of the layers alone; see `Stack.flops`."""
        return self.trunk.flops(tokens)

    def clip_flops(self, grid: Grid, kept: int | None = None) -> int:
        """See `Encoder.clip_flops`; the patch embedding sees the whole grid."""
        c, through = self.config, grid.places if kept is None else kept
        return self.flops(grid.prefix + through) + 2 * grid.places * c.dim * c.patch**2
