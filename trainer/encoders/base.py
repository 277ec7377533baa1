"""What every encoder builds on: the grid of its tokens, its output, attention with a mask.

This file needs only torch and `base_config.py`, because exported models have a copy of it beside
their encoder.

Shape legend: B clips, M masked views, N tokens, K kept tokens, D channels, H heads, L queries, S
keys, C channels per head, Q frequencies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base_config import EncoderConfig

Result = TypeVar("Result")

WITH_MASK = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""Kernels that may get a mask. cuDNN's kernel may not: in torch 2.11 its gradient of the queries is
NaN where a mask is passed, L % 128 == 64 and a row's logsumexp is below -88.7 (pytorch#196678)."""


@dataclass(frozen=True)
class Grid:
    """The order of an encoder's tokens: token `prefix + bands * t + f` is band f of column t."""

    times: int
    """Number of columns, in the order of time."""
    bands: int = 1
    """Number of tokens in a column, from low frequencies to high."""
    prefix: int = 0
    """Number of tokens in front that stand for the whole clip (CLS)."""
    token_s: float = math.nan
    """Seconds from one column to the next."""

    @property
    def tokens(self) -> int:
        """Number of all tokens, including those in front."""
        return self.prefix + self.places

    @property
    def places(self) -> int:
        """Number of tokens that stand for a place in time and frequency."""
        return self.times * self.bands


@dataclass
class EncoderOutput:
    """The output of an encoder for a batch."""

    tokens_BND: Tensor
    """Output of the last layer; unspecified where `valid_BN` is False."""
    valid_BN: Tensor
    """Which tokens stand for sound, bool."""
    layers: list[Tensor] | None = None
    """`layers[0]` is the input of the first block, `layers[i]` the output of block i; [B, N, D_i],
    where a block may have its own D."""
    clip_BD: Tensor | None = None
    """The encoder's own vector for the whole clip, where it has one."""


# `torch.export` needs to know the type of an encoder's output.
torch.export.register_dataclass(EncoderOutput)


class Stack(nn.Module):
    """A module that runs blocks one after the other.

    Each block is compiled, gathered (FSDP) and recomputed by itself. Code that compiles, shards or
    sets rates by layer asks the methods below; it does not guess from the names of modules.
    """

    grad_checkpoint: bool = False
    """Recompute each block in the backward pass: less memory, about a third more compute."""

    def blocks(self) -> list[nn.Module]:
        """Return the blocks in the order of the forward pass."""
        raise NotImplementedError

    def gathered_alone(self) -> list[nn.Module]:
        """Return modules inside blocks that are used before their block runs. FSDP gathers each of
        them by itself.
        """
        return []

    def flops(self, tokens: int) -> int:
        """Return the forward floating-point operations for so many tokens (2 per multiply-add)."""
        raise NotImplementedError


class Encoder(Stack):
    """Turns the output of the front end into tokens.

    A subclass sets `config`, and its `grid` and `valid` count the tokens; no other code does.
    """

    config: EncoderConfig

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.config.dim

    def grid(self, steps: int) -> Grid:
        """Return the grid of the tokens for an input of so many steps of the front end."""
        raise NotImplementedError

    def valid(self, steps_B: Tensor, grid: Grid) -> Tensor:
        """Return which tokens of a batch stand for sound, bool [B, N].

        Args:
            steps_B: steps of each clip that stand for sound, int64.
            grid: the grid of the whole batch.
        """
        raise NotImplementedError

    def forward(
        self, x: Tensor, steps_B: Tensor | None = None, *, layers: bool = False
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            x: the output of the front end, [B, steps, ...].
            steps_B: steps of each clip that stand for sound (None: all of them).
            layers: also return the input and output of every block.
        """
        raise NotImplementedError

    def tail(self) -> list[nn.Module]:
        """Return the modules after the last block (a final norm). They get its learning rate."""
        return []

    def begin_step(self, seed: int) -> None:
        """Prepare for a training step.

        `seed` is the same on all ranks and in all micro-batches. Everything that the step drops for
        all clips alike (layers, for example) follows from it.
        """
        del seed

    def clip_flops(self, grid: Grid, kept: int | None = None) -> int:
        """Return the forward floating-point operations for one clip that fills `grid`.

        A multiply-add counts as 2. `kept`: how many places go through the blocks (None: all).
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initialise everything anew."""
        raise NotImplementedError


@runtime_checkable
class Maskable(Protocol):
    """An encoder that can encode a part of a clip's tokens, for masked pre-training.

    Its config sets `maskable`, and `patch`, the side of a square patch in steps and mel bins.
    """

    def encode_visible(
        self,
        x: Tensor,
        keep_MK: Tensor,
        valid_BN: Tensor | None = None,
        *,
        compact: bool = False,
    ) -> Tensor:
        """Encode only the kept tokens of each clip.

        Args:
            x: the output of the front end.
            keep_MK: sorted numbers of the visible places, 0 for the first place after the prefix.
                With M = k B rows, rows k b .. k b + k - 1 are k views of clip b.
            valid_BN: tokens that stand for sound (None: all), as `Encoder.valid` gives them. No
                token attends to a kept token that is padding.
            compact: treat the kept tokens as neighbours. False: use their places in the grid.

        Returns:
            The tokens [M, prefix + K, D], unspecified where the kept token is padding.
        """
        ...

    def stack(self, layers: int, dim: int, **options: Any) -> Stack:
        """A stack of blocks of the encoder's kind, at another width, for a predictor.

        It takes (x_BLD, valid_BL) on the places of a whole grid, in its order, and adds positions
        by itself. All take `heads`; one of an encoder with tokens in front takes `prefix`, how many
        of them there are in `x_BLD` as well (0: none), which get no positions.
        """
        ...


@runtime_checkable
class Coverable(Protocol):
    """An encoder that can hide some of a clip's tokens behind a learned vector (HuBERT).

    Its config sets `coverable`.
    """

    def encode_covered(
        self, x: Tensor, steps_B: Tensor, cover_BN: Tensor, cover_D: Tensor
    ) -> tuple[EncoderOutput, Tensor]:
        """Encode a batch in which some tokens are hidden, before positions are added.

        Args:
            x: the output of the front end.
            steps_B: steps of each clip that stand for sound.
            cover_BN: which tokens are hidden, bool.
            cover_D: the vector that replaces a hidden token.

        Returns:
            The output, and the mean square of each clip's valid tokens before the projection, [B].
            A loss may keep that small.
        """
        ...


def sincos(places: int, bands: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions of the first places of a grid, float32 [N, D]; place n is bands x t + f.

    The first half of the channels holds sines and cosines of the band, the second half those of
    the column, at D / 4 frequencies from 1 down to nearly 1 / 10,000 (MAE's code; EAT's).
    """
    step_Q = torch.arange(dim // 4, dtype=torch.float64, device=device)
    frequency_Q = 10000.0 ** (-step_Q / (dim // 4))
    place_N1 = torch.arange(places, device=device)[:, None]
    band_NQ, time_NQ = (place_N1 % bands) * frequency_Q, (place_N1 // bands) * frequency_Q
    return torch.cat([band_NQ.sin(), band_NQ.cos(), time_NQ.sin(), time_NQ.cos()], 1).float()


def eager_cpu(x: Tensor) -> bool:
    """Return whether `x` is on a CPU and nothing is traced, so that reading values is cheap."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


@functools.cache
def _cpu_has(dtype: torch.dtype) -> bool:
    checks = {
        torch.bfloat16: "_is_mkldnn_bf16_supported",
        torch.float16: "_is_mkldnn_fp16_supported",
    }
    check = getattr(torch.ops.mkldnn, checks.get(dtype, ""), None)
    return check is None or bool(check())


def useful_autocast(method: Callable[..., Result]) -> Callable[..., Result]:
    """Turn autocast off for a method on a CPU without matrix kernels of the autocast dtype.

    There torch falls back to plain loops, which take nine times as long as float32.
    """

    @functools.wraps(method)
    def run(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Result:
        if (
            not eager_cpu(x)
            or not torch.is_autocast_enabled("cpu")
            or _cpu_has(torch.get_autocast_dtype("cpu"))
        ):
            return method(self, x, *args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return method(self, x.float(), *args, **kwargs)

    return run


class Skipped(torch.autograd.Function):
    """Identity that gives a skipped layer's parameters zero gradients, as DDP wants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """Return `x` as it is."""
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradient as it is, and zeros for the parameters."""
        return grads[0], *(torch.zeros_like(p) for p in ctx.saved_tensors)


def attend(
    q_BHLC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Return softmax(q k' / sqrt(C) + mask) v, by the fastest kernel that is correct with a mask.

    Args:
        q_BHLC: queries.
        k_BHSC: keys, of the dtype of the queries.
        v_BHSC: values, of the dtype of the queries.
        mask: added to the scores, or bool (true: may be attended to). It is broadcast to
            [B, H, L, S], and every query needs at least one key. A mask of another floating-point
            dtype is cast to that of the queries, because kernels misread it (pytorch#191612).
        dropout: probability that an attention weight is dropped; 0 in evaluation.

    Returns:
        [B, H, L, C], of the dtype of the queries.
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q_BHLC.dtype)
    if torch.compiler.is_exporting():
        # An exported graph gets plain operations. The fused kernel of the exporting machine assumes
        # strides that an ONNX graph does not have.
        return _written_out(q_BHLC, k_BHSC, v_BHSC, mask, dropout)
    if mask is None:
        return F.scaled_dot_product_attention(q_BHLC, k_BHSC, v_BHSC, dropout_p=dropout)
    with sdpa_kernel(list(WITH_MASK)):
        return F.scaled_dot_product_attention(
            q_BHLC, k_BHSC, v_BHSC, attn_mask=mask, dropout_p=dropout
        )


def _written_out(
    q_BHLC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    score_BHLS = (q_BHLC / math.sqrt(q_BHLC.shape[-1])) @ k_BHSC.mT
    if mask is not None and mask.dtype == torch.bool:
        score_BHLS = score_BHLS.masked_fill(~mask, -math.inf)
    elif mask is not None:
        score_BHLS = score_BHLS + mask
    weight_BHLS = score_BHLS.softmax(-1)
    if dropout:
        weight_BHLS = F.dropout(weight_BHLS, dropout)
    return weight_BHLS @ v_BHSC
