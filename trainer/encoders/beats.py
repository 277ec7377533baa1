"""BEATs: an audio transformer with gated relative position bias and DeepNorm.

Paper: Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers" (arXiv 2212.09058).
This file needs only torch, its config and `base.py`, because exported models have a copy of it.
State-dict names are those of the released checkpoints. These repeat the relative-position table
under every layer; here it exists once, under layer 0.

Two slots, `Attention.cpu_kernel` and `BeatsTransformer.cpu_convolution`, are empty. When it trains
on a CPU, the trainer fills them from `beats_cpu.py`, which is not exported. Results are the same up
to rounding.

Shape legend: B clips, M masked views, T frames, F mel bins, N tokens of the full grid (index
n = 8 t + f: time-major), K kept tokens, L tokens in general, P patch channels, D width,
H heads, C channels per head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from .base import (
    Encoder,
    EncoderOutput,
    Grid,
    Skipped,
    Stack,
    attend,
    eager_cpu,
    useful_autocast,
)
from .beats_config import BeatsConfig

CpuKernel = Callable[[Tensor, tuple[Tensor, Tensor, Tensor], Tensor, Tensor | None, float], Tensor]
"""(qkv [B, L, 3, H, C], the three tensors of the gate, position [1 or B, H, L, L], mask or None
[B, 1, 1, L], dropout) -> [B, L, H, C]; see `Attention.forward`."""


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of each signed token distance (key minus query), int64, same shape.

    Distances below a quarter of the buckets have a bucket each; longer ones up to `max_distance`
    share buckets of logarithmic width. Positive distances use the upper half of the buckets.
    """
    half = num_buckets // 2
    exact = half // 2
    size = distance.abs()
    # float64, because a bucket edge must not depend on the device's logarithm.
    octave = (size.clamp(min=1).double() / exact).log() / math.log(max_distance / exact)
    far = (exact + (octave * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, far) + half * (distance > 0)


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """Call a module and return its output as a Tensor (`Module.__call__` has no type)."""
    out: Tensor = module(*args, **kwargs)
    return out


def gate_of(q_BHLC: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """Return the factor of the position bias per query, [B, H, L, 1]. The query is not scaled."""
    # Only the sums of two groups of four outputs are used, so the weights are summed instead.
    weight, bias = weight.view(2, 4, -1).sum(1), bias.view(2, 4).sum(1)
    a, u = F.linear(q_BHLC, weight, bias).sigmoid().chunk(2, dim=-1)
    return a * (u * scale - 1.0) + 2.0


class Attention(nn.Module):
    """Self-attention with a relative position bias that each query gates (paper, section 3.2)."""

    cpu_kernel: CpuKernel | None = None

    def __init__(
        self, dim: int, heads: int, dropout: float, bias_table: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))
        if bias_table is not None:
            buckets, self.max_distance = bias_table
            self.relative_attention_bias = nn.Embedding(buckets, heads)

    def forward(self, x_BLD: Tensor, position: Tensor, key_mask: Tensor | None) -> Tensor:
        """`position`: [1 or B, H, L, L]; `key_mask`: [B, 1, 1, L], 0 or -inf."""
        proj = (self.q_proj, self.k_proj, self.v_proj)
        weight, bias = torch.cat([p.weight for p in proj]), torch.cat([p.bias for p in proj])
        qkv = F.linear(x_BLD, weight, bias).view(*x_BLD.shape[:2], 3, self.heads, -1)
        gate = (self.grep_linear.weight, self.grep_linear.bias, self.grep_a)
        dropout = self.dropout if self.training else 0.0
        if self.cpu_kernel is not None and eager_cpu(x_BLD):
            out_BLHC = self.cpu_kernel(qkv, gate, position, key_mask, dropout)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            factor, position = gate_of(q, *gate).to(q.dtype), position.to(q.dtype)
            if key_mask is None:
                position = factor * position
            else:
                position = torch.addcmul(key_mask.to(q.dtype), factor, position)
            out_BLHC = attend(q, k, v, position, dropout).transpose(1, 2)
        return _call(self.out_proj, out_BLHC.flatten(2))


class Block(nn.Module):
    """One post-norm transformer layer with DeepNorm residuals."""

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        heads: int,
        alpha: float,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        bias_table: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.self_attn = Attention(dim, heads, attention_dropout, bias_table)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(self, x_BLD: Tensor, position: Tensor, key_mask: Tensor | None) -> Tensor:
        """See `Attention.forward`."""
        y = self.dropout(self.self_attn(x_BLD, position, key_mask))
        x_BLD = self.self_attn_layer_norm(torch.add(y, x_BLD, alpha=self.alpha))
        y = self.fc2(self.activation_dropout(F.gelu(self.fc1(x_BLD))))
        y = torch.add(self.dropout(y), x_BLD, alpha=self.alpha)
        return _call(self.final_layer_norm, y)


class BeatsLayers(Stack):
    """A stack of blocks that share one relative-position table, which the first block holds.

    `BeatsTransformer` adds the convolutional position embedding. The predictor of masked-token
    pre-training uses this class as it is.
    """

    def __init__(
        self,
        layers: int,
        dim: int,
        ffn_dim: int,
        heads: int,
        *,
        num_buckets: int = 320,
        max_distance: int = 800,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layer_drop: float = 0.0,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.layer_drop = layer_drop
        self.grad_checkpoint = grad_checkpoint
        self.dim, self.ffn_dim = dim, ffn_dim
        self.beta = 1 / math.sqrt(math.sqrt(8 * layers))
        # The trainer seeds it from the step, so that all ranks skip the same layers.
        self.layer_rng = torch.Generator()
        self.layers = nn.ModuleList(
            Block(
                dim,
                ffn_dim,
                heads,
                math.sqrt(math.sqrt(2 * layers)),
                dropout,
                attention_dropout,
                activation_dropout,
                (num_buckets, max_distance) if i == 0 else None,
            )
            for i in range(layers)
        )
        BeatsLayers.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Initialise with N(0, 0.02), then Xavier with DeepNorm's gains; norms get 1 and 0."""
        for module in self.layers.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for block in self._blocks():
            nn.init.ones_(block.self_attn.grep_a)
            for name, gain in (("q", 1.0), ("k", 1.0), ("v", self.beta), ("out", self.beta)):
                linear = getattr(block.self_attn, f"{name}_proj")
                nn.init.xavier_normal_(linear.weight, gain=gain)
            nn.init.xavier_normal_(block.fc1.weight, gain=self.beta)
            nn.init.xavier_normal_(block.fc2.weight, gain=self.beta)

    def _blocks(self) -> Iterator[Block]:
        for block in self.layers:
            assert isinstance(block, Block)
            yield block

    def blocks(self) -> list[nn.Module]:
        """Return the layers."""
        return list(self.layers)

    def gathered_alone(self) -> list[nn.Module]:
        """Return the table of relative positions: it is used before the first block, its holder."""
        return [next(self._blocks()).self_attn.relative_attention_bias]

    def position_bias(self, length: int, positions_BK: Tensor | None = None) -> Tensor:
        """Return the bias E[bucket(j - i)] before the gate: [1, H, L, L], or [B, H, K, K] at the
        given positions.

        `length`: tokens L of the sequence, or of the grid that `positions_BK` points into.
        """
        attention = next(self._blocks()).self_attn
        table = attention.relative_attention_bias
        distance = torch.arange(1 - length, length, device=table.weight.device)
        bucket = relative_buckets(distance, table.num_embeddings, attention.max_distance)
        if torch.compiler.is_exporting() and positions_BK is None:
            # The code below needs to know the length, which is symbolic in an exported graph.
            place_L = torch.arange(length, device=bucket.device)
            offset_LL = place_L[None, :] - place_L[:, None] + (length - 1)
            return table.weight[bucket[offset_LL]].permute(2, 0, 1)[None]
        by_distance = _call(table, bucket).t()
        if positions_BK is not None:
            offset_BKK = positions_BK[:, None, :] - positions_BK[:, :, None] + (length - 1)
            # One copy of the vector per clip, so that the gradient is not collected in one place.
            by_distance = by_distance.expand(len(offset_BKK), -1, -1)
            index = offset_BKK.flatten(1)[:, None].expand(-1, by_distance.shape[1], -1)
            return by_distance.gather(2, index).view(*index.shape[:2], *offset_BKK.shape[1:])
        # Row i of the result is by_distance[L-1-i : 2L-1-i]. Repeating the vector L times and
        # re-cutting it into rows one shorter shifts each row by one: a gather without indices.
        if length == 1:
            return by_distance[None, :, :, None]
        flat = by_distance[None, :, None, :].expand(-1, -1, length, -1).flatten(2)
        rows = flat[..., length - 1 : -1].view(1, -1, length, 2 * length - 2)
        return rows[..., :length].contiguous()

    @useful_autocast
    def forward(
        self,
        x_BLD: Tensor,
        valid_BL: Tensor | None = None,
        *,
        positions_BL: Tensor | None = None,
        grid: int | None = None,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks.

        `valid_BL`: tokens that may be attended to (None: all). `positions_BL` with `grid`:
        places of the tokens in a grid of that many tokens (None: contiguous). `collect`: takes
        the input and the output of every block.
        """
        position = self.position_bias(grid or x_BLD.shape[1], positions_BL)
        if torch.is_autocast_enabled(x_BLD.device.type):
            position = position.to(torch.get_autocast_dtype(x_BLD.device.type))
        key_mask = None
        # Where reading values is cheap, leave the mask out if there is nothing to mask.
        if valid_BL is not None and not (eager_cpu(valid_BL) and bool(valid_BL.all())):
            key_mask = torch.zeros_like(valid_BL, dtype=position.dtype)
            key_mask = key_mask.masked_fill(~valid_BL, -math.inf)[:, None, None, :]
        skipped = self._draw_skipped()
        if collect is not None:
            collect.append(x_BLD)
        for block, skip in zip(self._blocks(), skipped, strict=True):
            if skip:
                x_BLD = Skipped.apply(x_BLD, *block.parameters())  # type: ignore[no-untyped-call]
            elif self.grad_checkpoint and self.training:
                x_BLD = checkpoint(block, x_BLD, position, key_mask, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, position, key_mask)
            if collect is not None:
                collect.append(x_BLD)
        return x_BLD

    def flops(self, tokens: int) -> int:
        """Return the forward operations for a sequence of `tokens` (2 per multiply-add)."""
        linear = 2 * tokens * (4 * self.dim**2 + 2 * self.dim * self.ffn_dim)
        return len(self.layers) * (linear + 4 * tokens**2 * self.dim)

    def _draw_skipped(self) -> list[bool]:
        if not self.training or self.layer_drop == 0:
            return [False] * len(self.layers)
        draws = torch.rand(len(self.layers), generator=self.layer_rng, device="cpu")
        return [draw < self.layer_drop for draw in draws.tolist()]


def _shared_options(config: BeatsConfig) -> dict[str, Any]:
    """Return the options that all stacks of an encoder share, including its predictor's."""
    names = ("num_buckets", "max_distance", "dropout", "attention_dropout", "activation_dropout",
             "grad_checkpoint")  # fmt: skip
    return {name: getattr(config, name) for name in names}


class BeatsTransformer(BeatsLayers):
    """Convolutional position embedding, norm, and the blocks."""

    cpu_convolution: Callable[[nn.Conv1d, Tensor], Tensor] | None = None

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(
            config.layers,
            config.dim,
            config.ffn_dim,
            config.heads,
            layer_drop=config.layer_drop,
            **_shared_options(config),
        )
        conv = nn.Conv1d(
            config.dim,
            config.dim,
            config.conv_pos,
            padding=config.conv_pos // 2,
            groups=config.conv_pos_groups,
        )
        self.pos_conv = nn.Sequential(weight_norm(conv, dim=2))
        self.layer_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self._reset_position()

    def reset_parameters(self) -> None:
        """Initialise as `BeatsLayers`; position kernels get N(0, 4 / (kernel x width)), as in
        Microsoft's code.
        """
        super().reset_parameters()
        self._reset_position()

    def _reset_position(self) -> None:
        self.layer_norm.reset_parameters()
        length = self._conv.get_parameter("parametrizations.weight.original0")
        direction = self._conv.get_parameter("parametrizations.weight.original1")
        width, _, kernel = direction.shape
        nn.init.normal_(direction, std=math.sqrt(4 / (kernel * width)))
        with torch.no_grad():
            length.copy_(direction.norm(dim=(0, 1), keepdim=True))
        if self._conv.bias is not None:
            nn.init.zeros_(self._conv.bias)

    @property
    def _conv(self) -> nn.Conv1d:
        conv = self.pos_conv[0]
        assert isinstance(conv, nn.Conv1d)
        return conv

    def add_position(self, x_BLD: Tensor, keep_BK: Tensor | None = None) -> Tensor:
        """Add the convolutional position embedding and normalise; keep only `keep_BK` if given.

        Tokens that are padding or masked must be zero in `x_BLD`.
        """
        conv = self._conv
        if self.cpu_convolution is not None and eager_cpu(x_BLD):
            y_BDL = self.cpu_convolution(conv, x_BLD.mT)
        else:
            y_BDL = conv(x_BLD.mT)[..., : x_BLD.shape[1]]
        y_BLD = F.gelu(y_BDL).mT
        if keep_BK is not None:
            index = keep_BK[..., None].expand(-1, -1, x_BLD.shape[-1])
            x_BLD, y_BLD = x_BLD.gather(1, index), y_BLD.gather(1, index)
        return _call(self.dropout, self.layer_norm(x_BLD + y_BLD))


class Beats(Encoder):
    """The BEATs encoder: it turns a normalised log-mel into tokens."""

    config: BeatsConfig

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(
            1, config.patch_dim, config.patch, stride=config.patch, bias=False
        )
        self.layer_norm = nn.LayerNorm(config.patch_dim)
        self.post_extract_proj = (
            nn.Linear(config.patch_dim, config.dim) if config.patch_dim != config.dim else None
        )
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.encoder = BeatsTransformer(config)
        self._reset_input()

    @property
    def grad_checkpoint(self) -> bool:
        """Recompute each layer in the backward pass."""
        return self.encoder.grad_checkpoint

    @grad_checkpoint.setter
    def grad_checkpoint(self, recompute: bool) -> None:
        self.encoder.grad_checkpoint = recompute

    def blocks(self) -> list[nn.Module]:
        """Return the transformer layers."""
        return self.encoder.blocks()

    def gathered_alone(self) -> list[nn.Module]:
        """See `BeatsLayers.gathered_alone`."""
        return self.encoder.gathered_alone()

    def begin_step(self, seed: int) -> None:
        """Choose the layers that LayerDrop skips in this step."""
        self.encoder.layer_rng.manual_seed(seed)

    def stack(self, layers: int, dim: int, **options: Any) -> BeatsLayers:
        """Return layers with a position table of their own and no position convolution.

        `heads` and what `BeatsLayers` takes may be given.

        Raises:
            ValueError: the heads do not divide `dim`.
        """
        c = self.config
        name = "heads" if "heads" in options else "encoder.heads"
        heads = options.pop("heads", c.heads)
        if dim % heads:
            raise ValueError(f"a width of {dim} must be a multiple of {name} ({heads})")
        return BeatsLayers(
            layers,
            dim,
            c.ffn_dim,
            heads,
            **_shared_options(c),
            **options,
        )

    def reset_parameters(self) -> None:
        """Initialise everything anew by Microsoft's scheme, the patch convolution by torch's."""
        self.encoder.reset_parameters()
        self._reset_input()

    def _reset_input(self) -> None:
        self.patch_embedding.reset_parameters()
        self.layer_norm.reset_parameters()
        if self.post_extract_proj is not None:
            nn.init.normal_(self.post_extract_proj.weight, std=0.02)
            nn.init.zeros_(self.post_extract_proj.bias)

    def grid(self, steps: int) -> Grid:
        """Return the grid of the whole patches in so many frames; at least one column."""
        c = self.config
        return Grid(max(steps // c.patch, 1), c.bands, token_s=c.patch * c.hop_s)

    def valid(self, steps_B: Tensor, grid: Grid) -> Tensor:
        """Return the tokens of whole time columns; at least one column of each clip."""
        return self._valid(steps_B, grid.tokens)

    def _valid(self, frames_B: Tensor, tokens: int) -> Tensor:
        own_B = (frames_B.long() // self.config.patch).clamp(min=1) * self.config.bands
        return torch.arange(tokens, device=frames_B.device) < own_B[:, None]

    def patches(self, mel_BTF: Tensor) -> Tensor:
        """Run the patch convolution: [B, N, P], n = bands x t + f. Frames that do not fill a patch
        are left out.
        """
        if mel_BTF.shape[1] < self.config.patch or mel_BTF.shape[2] != self.config.mel_bins:
            raise ValueError(
                f"log-mel of shape {tuple(mel_BTF.shape)}; expected [clips, at least "
                f"{self.config.patch} frames, {self.config.mel_bins} mel bins]"
            )
        mel_BTF = mel_BTF.to(self.patch_embedding.weight.dtype)
        if torch.compiler.is_exporting():
            return self._gathered_patches(mel_BTF)
        return _call(self.patch_embedding, mel_BTF[:, None]).flatten(2).mT

    def _gathered_patches(self, mel_BTF: Tensor) -> Tensor:
        """Compute the patch convolution as a gather and a product.

        No axis may have length 1 for some clips only: `torch.export` would then refuse short clips.
        """
        side, bands = self.config.patch, self.config.bands
        token_N = torch.arange(mel_BTF.shape[1] // side * bands, device=mel_BTF.device)
        pixel_S = torch.arange(side, device=mel_BTF.device)
        frame_NS = (token_N // bands * side)[:, None] + pixel_S
        bin_NS = (token_N % bands * side)[:, None] + pixel_S
        pixel_BNSS = mel_BTF[:, frame_NS[:, :, None], bin_NS[:, None, :]]
        return pixel_BNSS.flatten(2) @ self.patch_embedding.weight.flatten(1).t()

    def _project(self, patch_BLP: Tensor, valid_BL: Tensor | None) -> Tensor:
        x_BLD = _call(self.layer_norm, patch_BLP)
        if self.post_extract_proj is not None:
            x_BLD = _call(self.post_extract_proj, x_BLD)
        x_BLD = _call(self.input_dropout, x_BLD)
        # Padding is set to zero, so that the convolution does not carry it into its neighbours.
        return x_BLD if valid_BL is None else x_BLD.masked_fill(~valid_BL[..., None], 0.0)

    @useful_autocast
    def forward(
        self,
        mel_BTF: Tensor,
        steps_B: Tensor | None = None,
        *,
        valid_BN: Tensor | None = None,
        layers: bool = False,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            mel_BTF: normalised log-mel, at least one patch of frames.
            steps_B: frames of each clip that stand for sound (None: all of them).
            valid_BN: tokens that stand for sound, instead of those that follow from `steps_B`.
            layers: also return the input and output of every block.

        Raises:
            ValueError: the log-mel is too short or has another number of bins.
        """
        patch_BNP = self.patches(mel_BTF)
        if valid_BN is None and steps_B is not None:
            valid_BN = self._valid(steps_B, patch_BNP.shape[1])
        x_BND = self.encoder.add_position(self._project(patch_BNP, valid_BN))
        collected: list[Tensor] | None = [] if layers else None
        x_BND = self.encoder(x_BND, valid_BN, collect=collected)
        if valid_BN is None:
            valid_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
        return EncoderOutput(x_BND, valid_BN, collected)

    @useful_autocast
    def encode_visible(
        self,
        mel_BTF: Tensor,
        keep_MK: Tensor,
        valid_BN: Tensor | None = None,
        *,
        compact: bool = False,
    ) -> Tensor:
        """Encode only the kept tokens of each clip, as masked-token pre-training does.

        Args:
            mel_BTF: normalised log-mel.
            keep_MK: sorted grid indices of the visible tokens. With M = k B rows, rows
                k b .. k b + k - 1 are k views of clip b.
            valid_BN: tokens that stand for sound (None: all). Attention and position convolution
                ignore kept tokens that are padding.
            compact: treat the kept tokens as contiguous. Otherwise every token keeps its place in
                the grid: masked tokens are zeros for the position convolution, and the bias uses
                grid distances.

        Returns:
            Tokens [M, K, D], unspecified where the kept token is padding.
        """
        patch_BNP = self.patches(mel_BTF)
        views = keep_MK.shape[0] // patch_BNP.shape[0]
        if views * patch_BNP.shape[0] != keep_MK.shape[0]:
            raise ValueError("keep_MK must have a whole number of views per clip")
        if views > 1:
            patch_BNP = patch_BNP.repeat_interleave(views, 0)
        index = keep_MK[..., None]
        patch_MKP = patch_BNP.gather(1, index.expand(-1, -1, patch_BNP.shape[-1]))
        keep_valid_MK = None
        if valid_BN is not None:
            keep_valid_MK = valid_BN.repeat_interleave(views, 0).gather(1, keep_MK)
        x_MKD = self._project(patch_MKP, keep_valid_MK)
        if compact:
            return _call(self.encoder, self.encoder.add_position(x_MKD), keep_valid_MK)
        grid = patch_BNP.shape[1]
        x_MND = x_MKD.new_zeros(x_MKD.shape[0], grid, x_MKD.shape[-1])
        x_MND = x_MND.scatter(1, index.expand_as(x_MKD), x_MKD)
        x_MKD = self.encoder.add_position(x_MND, keep_MK)
        return _call(self.encoder, x_MKD, keep_valid_MK, positions_BL=keep_MK, grid=grid)

    def flops(self, tokens: int) -> int:
        """Return the operations of the layers alone; see `Stack.flops`."""
        return self.encoder.flops(tokens)

    def clip_flops(self, grid: Grid, kept: int | None = None) -> int:
        """See `Encoder.clip_flops`. Both convolutions run over the whole grid (true positions)."""
        c, tokens = self.config, grid.tokens if kept is None else kept
        position = 2 * grid.tokens * c.dim * (c.dim // c.conv_pos_groups) * c.conv_pos
        patch = 2 * grid.tokens * c.patch_dim * c.patch**2
        project = 2 * tokens * c.patch_dim * c.dim if self.post_extract_proj is not None else 0
        return self.flops(tokens) + position + patch + project
