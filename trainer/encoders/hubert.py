"""HuBERT: convolutions over the waveform, then a transformer; AVES and BirdAVES are HuBERTs.

Paper: Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of
Hidden Units" (arXiv 2106.07447). torchaudio builds the network, so state-dict names are those of
its checkpoints and of AVES'. The file needs torch, torchaudio, its config and `base.py`, because
exported models have a copy of it.

Two parts are not torchaudio's. Attention goes through `base.attend`. The norm in the first
convolution takes each channel's mean and variance over the whole clip in torchaudio, so silence
that pads a clip would change all of its tokens; here it takes them over the clip's own outputs. The
convolutions have no padding, and tokens of padding are hidden from the position embedding and from
attention. So a clip has the same tokens in a padded batch as alone.

Shape legend: B clips, T samples or outputs of a convolution, C channels, N tokens, D width,
L tokens in general, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchaudio.models import wav2vec2_model

from .base import Encoder, EncoderOutput, Grid, Skipped, attend, eager_cpu, useful_autocast
from .hubert_config import (
    KERNELS,
    RECEPTIVE_SAMPLES,
    STRIDES,
    TOKEN_SAMPLES,
    HubertConfig,
    tokens_of,
)


class Attention(nn.Module):
    """Self-attention with torchaudio's names of parameters, computed by `base.attend`."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.q_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(
        self, x_BLD: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Return the output, and None for a position bias. `attention_mask`: bool [B, 1, 1, L]."""
        q, k, v = (
            project(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out_BHLC = attend(q, k, v, attention_mask, self.dropout if self.training else 0.0)
        return self.out_proj(out_BHLC.transpose(1, 2).flatten(2)), None


class _Scaled(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.factor, None


def _norm_own(norm: nn.GroupNorm, x_BCT: Tensor, own_B: Tensor) -> Tensor:
    """Normalise each channel of a clip by the mean and variance of the clip's own outputs."""
    own_B1T = (torch.arange(x_BCT.shape[-1], device=x_BCT.device) < own_B[:, None])[:, None]
    count_B11 = own_B[:, None, None]
    wide_BCT = x_BCT.float().masked_fill(~own_B1T, 0.0)
    wide_BCT = wide_BCT - wide_BCT.sum(-1, keepdim=True) / count_B11
    wide_BCT = wide_BCT.masked_fill(~own_B1T, 0.0)
    variance_BC1 = wide_BCT.square().sum(-1, keepdim=True) / count_B11
    scale_BC1 = norm.weight.float()[:, None] * (variance_BC1 + norm.eps).rsqrt()
    return (wide_BCT * scale_BC1 + norm.bias.float()[:, None]).to(x_BCT.dtype)


class Hubert(Encoder):
    """The HuBERT encoder: it turns a waveform into one token per 320 samples."""

    config: HubertConfig
    cpu_convolution: Callable[[nn.Conv1d, Tensor], Tensor] | None = None
    """What convolves on a CPU in its place, [B, D, N] to the same shape; see `hubert_cpu.py`."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpoint = config.grad_checkpoint
        shapes = [(config.conv_dim, k, s) for k, s in zip(KERNELS, STRIDES, strict=True)]
        network = wav2vec2_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=shapes,
            extractor_conv_bias=False,
            encoder_embed_dim=config.dim,
            encoder_projection_dropout=config.input_dropout,
            encoder_pos_conv_kernel=config.conv_pos,
            encoder_pos_conv_groups=config.conv_pos_groups,
            encoder_num_layers=config.layers,
            encoder_num_heads=config.heads,
            encoder_attention_dropout=config.attention_dropout,
            encoder_ff_interm_features=config.ffn_dim,
            encoder_ff_interm_dropout=config.activation_dropout,
            encoder_dropout=config.dropout,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        self.feature_extractor, self.encoder = network.feature_extractor, network.encoder
        for layer in self.blocks():
            layer.attention = Attention(config.dim, config.heads, config.attention_dropout)
        # The trainer seeds it from the step, so that all ranks skip the same layers.
        self.layer_rng = torch.Generator()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise everything anew, as HuBERT's code does (fairseq).

        Linear maps get N(0, 0.02), convolutions over samples Kaiming-normal values, norms 1 and 0,
        and position kernels N(0, 4 / (kernel x width)).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()
        for layer in self.feature_extractor.conv_layers:
            nn.init.kaiming_normal_(cast("Any", layer).conv.weight)
        conv = self.encoder.transformer.pos_conv_embed.conv
        direction = conv.get_parameter("parametrizations.weight.original1")
        width, _, kernel = direction.shape
        nn.init.normal_(direction, std=math.sqrt(4 / (kernel * width)))
        with torch.no_grad():
            length = conv.get_parameter("parametrizations.weight.original0")
            length.copy_(direction.norm(dim=(0, 1), keepdim=True))
        nn.init.zeros_(conv.bias)

    # ------------------------------------------------------------------ what runs in what order

    def blocks(self) -> list[nn.Module]:
        """Return the transformer's layers."""
        return list(self.encoder.transformer.layers)

    def begin_step(self, seed: int) -> None:
        """Seed the choice of the layers that this step skips."""
        self.layer_rng.manual_seed(seed)

    def grid(self, steps: int) -> Grid:
        """Return one token per 320 samples, as far as its receptive field of 400 lies within."""
        return Grid(int(tokens_of(steps)), token_s=TOKEN_SAMPLES / self.config.sample_rate_hz)

    def valid(self, steps_B: Tensor, grid: Grid) -> Tensor:
        """Return the tokens whose receptive field lies within the clip; see `Encoder.valid`."""
        token_N = torch.arange(grid.tokens, device=steps_B.device)
        valid_BN: Tensor = token_N < tokens_of(steps_B)[:, None]
        return valid_BN

    @useful_autocast
    def forward(
        self, x: Tensor, steps_B: Tensor | None = None, *, layers: bool = False
    ) -> EncoderOutput:
        """Encode waveforms [B, T]; see `Encoder.forward`."""
        steps_B = self._to_mask(x, steps_B)
        token_BND, valid_BN = self._project(self._stem(x, steps_B), steps_B)
        return self._transform(token_BND, valid_BN, layers=layers)

    @useful_autocast
    def encode_covered(
        self, x: Tensor, steps_B: Tensor, cover_BN: Tensor, cover_D: Tensor
    ) -> tuple[EncoderOutput, Tensor]:
        """Encode waveforms some of whose tokens are hidden; see `base.Coverable`."""
        masked_B = self._to_mask(x, steps_B)
        stem_BNC = self._stem(x, masked_B)
        valid_BN = self.valid(steps_B, Grid(stem_BNC.shape[1]))
        square_BN = stem_BNC.float().square().mean(-1).masked_fill(~valid_BN, 0.0)
        token_BND, _ = self._project(stem_BNC, masked_B)
        token_BND = torch.where(cover_BN[..., None], cover_D.to(token_BND.dtype), token_BND)
        out = self._transform(token_BND, None if masked_B is None else valid_BN)
        return out, square_BN.sum(1) / valid_BN.sum(1).clamp(min=1)

    @staticmethod
    def _to_mask(x_BT: Tensor, steps_B: Tensor | None) -> Tensor | None:
        """Return the lengths; None if reading values is cheap and shows that no clip is padded."""
        if steps_B is None or not eager_cpu(x_BT):
            return steps_B
        return None if bool((steps_B >= x_BT.shape[1]).all()) else steps_B

    def _stem(self, x_BT: Tensor, own_B: Tensor | None) -> Tensor:
        """Run the convolutions over samples; returns [B, N, C]."""
        x_BCT = x_BT[:, None]
        for index, layer in enumerate(self.feature_extractor.conv_layers):
            part = cast("Any", layer)
            x_BCT = part.conv(x_BCT)
            if index == 0 and own_B is None:
                x_BCT = part.layer_norm(x_BCT)
            elif index == 0 and own_B is not None:
                own_B = (own_B - KERNELS[0]) // STRIDES[0] + 1
                x_BCT = _norm_own(part.layer_norm, x_BCT, own_B)
            x_BCT = F.gelu(x_BCT)
        if self.config.stem_gradient != 1 and torch.is_grad_enabled():
            x_BCT = _Scaled.apply(x_BCT, self.config.stem_gradient)  # type: ignore[no-untyped-call]
        return x_BCT.mT

    def _project(self, stem_BNC: Tensor, own_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        token_BND = self.encoder.feature_projection(stem_BNC)
        return token_BND, None if own_B is None else self.valid(own_B, Grid(token_BND.shape[1]))

    def _transform(
        self, x_BND: Tensor, valid_BN: Tensor | None, *, layers: bool = False
    ) -> EncoderOutput:
        transformer, mask = self.encoder.transformer, None
        if valid_BN is not None:
            # Padding is set to zero, so that the convolution does not carry it into its neighbours.
            x_BND = x_BND.masked_fill(~valid_BN[..., None], 0.0)
            mask = valid_BN[:, None, None]
        x_BND = transformer.layer_norm(x_BND + self._position(x_BND))
        x_BND = transformer.dropout(x_BND)
        found = [x_BND] if layers else None
        for layer, skip in zip(transformer.layers, self._draw_skipped(), strict=True):
            if skip:
                x_BND = Skipped.apply(x_BND, *layer.parameters())  # type: ignore[no-untyped-call]
            elif self.grad_checkpoint and self.training:
                x_BND, _ = checkpoint(layer, x_BND, mask, use_reentrant=False)
            else:
                x_BND, _ = layer(x_BND, mask)
            if found is not None:
                found.append(x_BND)
        if valid_BN is None:
            valid_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
        return EncoderOutput(x_BND, valid_BN, found)

    def _position(self, x_BND: Tensor) -> Tensor:
        """Return the position embedding: a convolution over the tokens."""
        embed = self.encoder.transformer.pos_conv_embed
        if self.cpu_convolution is not None and eager_cpu(x_BND):
            return F.gelu(self.cpu_convolution(embed.conv, x_BND.mT)).mT
        position_BND: Tensor = embed(x_BND)
        return position_BND

    def _draw_skipped(self) -> list[bool]:
        layers = self.config.layers
        if not self.training or self.config.layer_drop == 0:
            return [False] * layers
        draws = torch.rand(layers, generator=self.layer_rng, device="cpu")
        return [draw < self.config.layer_drop for draw in draws.tolist()]

    # ------------------------------------------------------------------ what it costs

    def flops(self, tokens: int) -> int:
        """Return the operations of the layers alone; see `Stack.flops`."""
        c = self.config
        linear = 2 * tokens * (4 * c.dim**2 + 2 * c.dim * c.ffn_dim)
        return c.layers * (linear + 4 * tokens**2 * c.dim)

    def clip_flops(self, grid: Grid, kept: int | None = None) -> int:
        """See `Encoder.clip_flops`. Most of the operations are in the convolutions over samples."""
        del kept
        c, before, stem = self.config, 1, 0
        outputs = (grid.times - 1) * TOKEN_SAMPLES + RECEPTIVE_SAMPLES
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            outputs = (outputs - kernel) // stride + 1
            stem += 2 * outputs * before * c.conv_dim * kernel
            before = c.conv_dim
        project = 2 * grid.times * c.conv_dim * c.dim
        position = 2 * grid.times * c.dim * (c.dim // c.conv_pos_groups) * c.conv_pos
        return stem + project + position + self.flops(grid.times)
