"""Faster attention and position convolution for training BEATs on a CPU.

Exported models do not have this file, and nothing needs it: inference is as fast without it, and
results are the same up to rounding. `quicken` puts both functions into the slots of `beats.py`.

Shape legend: as in `beats.py`; b overlapping blocks, s places in a block, h places that it adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .beats import Attention, BeatsTransformer, gate_of


def quicken(module: nn.Module) -> None:
    """Let every BEATs layer in `module` use the functions of this file when it runs on a CPU."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.cpu_kernel = attend_in_pieces
        if isinstance(part, BeatsTransformer):
            part.cpu_convolution = convolve_by_fft


def attend_in_pieces(
    qkv_BL3HC: Tensor,
    gate: tuple[Tensor, Tensor, Tensor],
    position: Tensor,
    key_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """See `beats.CpuKernel`. Computes in float32 for any dtype."""
    with torch.autocast("cpu", enabled=False):
        mask = None if key_mask is None else key_mask.float()
        fp32 = [z.float() for z in (qkv_BL3HC, *gate, position)]
        keep = torch.is_grad_enabled() and any(z.requires_grad for z in fp32)
        out_BLHC: Tensor = CpuAttention.apply(*fp32, mask, dropout, keep)  # type: ignore[no-untyped-call]
        return out_BLHC.to(qkv_BL3HC.dtype)


def convolve_by_fft(conv: nn.Conv1d, x_BDL: Tensor) -> Tensor:
    """Return `conv(x)[..., :L]`. Computes in float32 for any dtype."""
    assert conv.bias is not None
    weight, bias = conv.weight.float(), conv.bias.float()
    return overlap_save(x_BDL.float(), weight, bias, conv.groups).to(conv.weight.dtype)


class CpuAttention(torch.autograd.Function):
    """softmax(q k' / sqrt(C) + gate(q) position) v in float32, forward and backward.

    torch's fused CPU kernel has no gradient for its mask, and its fallback moves some twenty arrays
    of [B, H, L, L] through memory. Here one piece at a time stays in the cache, and only the
    attention weights are stored for the backward pass. They are stored in small arrays, because the
    C library maps a large array anew at every step, with a page fault for each 4 KiB.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv_BL3HC: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor,
        gate_scale: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        dropout: float,
        keep: bool,
    ) -> Tensor:
        """Return [B, L, H, C]. `keep`: store the attention weights for the backward pass."""
        q, k, v = qkv_BL3HC.permute(2, 0, 3, 1, 4)
        gate = gate_of(q, gate_weight, gate_bias, gate_scale)
        position = position.expand(len(q), -1, -1, -1)
        out_BLHC = torch.empty_like(qkv_BL3HC[:, :, 0], memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        for at in _pieces(q):
            weights = gate[at] * position[at]
            if key_mask is not None:
                weights += key_mask[at[0]]
            weights = weights.flatten(0, 1)
            weights.baddbmm_(_flat(q, at), _flat(k, at).mT, alpha=q.shape[3] ** -0.5)
            torch.softmax(weights, -1, out=weights)
            kept += [weights] if keep else []
            if dropout:
                drop = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)
                kept += [drop] if keep else []
                weights = weights * drop
            _matmul(weights, _flat(v, at), out_BLHC.transpose(1, 2)[at])
        ctx.save_for_backward(qkv_BL3HC, gate_weight, gate_bias, gate_scale, gate, position, *kept)
        ctx.dropout = dropout
        return out_BLHC

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of all inputs but the mask."""
        # Read once only: in recomputed layers (`checkpoint`) a second read is an error.
        qkv_BL3HC, weight, bias, scale, gate, position, *arrays = ctx.saved_tensors
        kept = iter(arrays)
        q, k, v = qkv_BL3HC.permute(2, 0, 3, 1, 4)
        dqkv_BL3HC = torch.empty_like(qkv_BL3HC)
        dq, dk, dv = dqkv_BL3HC.permute(2, 0, 3, 1, 4)
        shared = position.stride(0) == 0
        dposition = torch.zeros_like(position[:1] if shared else position)
        dgate = torch.empty_like(gate)
        for at in _pieces(q):
            weights = next(kept)
            drop = next(kept) if ctx.dropout else None
            dout = _flat(grads[0].transpose(1, 2), at)
            ds = torch.bmm(dout, _flat(v, at).mT)
            _matmul((weights if drop is None else weights * drop).mT, dout, dv[at])
            if drop is not None:
                ds *= drop
            torch._softmax_backward_data(ds, weights, -1, ds.dtype, grad_input=ds)
            _matmul(ds, _flat(k, at), dq[at], q.shape[3] ** -0.5)
            _matmul(ds.mT, _flat(q, at), dk[at], q.shape[3] ** -0.5)
            ds = ds.view_as(position[at])
            torch.sum(ds * position[at], -1, keepdim=True, out=dgate[at])
            if shared:
                for clip, ds_HLL in zip(range(at[0].start, at[0].stop), ds, strict=True):
                    dposition[0, at[1]].addcmul_(ds_HLL, gate[clip, at[1]])
            else:
                torch.mul(ds, gate[at], out=dposition[at])
        with torch.enable_grad():
            inputs = [z.detach().requires_grad_() for z in (q, weight, bias, scale)]
            dq_gate, *dparameters = torch.autograd.grad(gate_of(*inputs), inputs, dgate)
        dq += dq_gate
        return dqkv_BL3HC, *dparameters, dposition, None, None, None


def _pieces(q_BHLC: Tensor, limit: int = 2**20) -> Iterator[tuple[slice, slice]]:
    """Cut clips and heads so that the [L, L] arrays of a piece hold about `limit` numbers."""
    clips, heads, length, _ = q_BHLC.shape
    heads_each = max(1, min(heads, limit // length**2))
    clips_each = max(1, limit // (heads * length**2))
    for b in range(0, clips, clips_each):
        for h in range(0, heads, heads_each):
            yield slice(b, min(b + clips_each, clips)), slice(h, min(h + heads_each, heads))


def _flat(x_BHLC: Tensor, at: tuple[slice, slice]) -> Tensor:
    return x_BHLC[at].flatten(0, 1)


def _matmul(a: Tensor, b: Tensor, out_BHLC: Tensor, alpha: float = 1.0) -> None:
    """Write a batched product into a piece of a larger tensor, without a copy if possible."""
    if len(out_BHLC) == 1:
        torch.baddbmm(out_BHLC[0], a, b, beta=0, alpha=alpha, out=out_BHLC[0])
    else:
        out_BHLC.copy_(torch.bmm(a, b).mul_(alpha).view_as(out_BHLC))


def overlap_save(x_BDL: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Compute `conv1d(x, weight, bias, padding=kernel // 2, groups=groups)[..., :L]` by FFT.

    With the position embedding's kernel this needs a tenth of the operations. The error is about
    1e-6 of the largest output.
    """
    (clips, dim, length), kernel = x_BDL.shape, weight.shape[2]
    size = _fft_size(min(int(1.6 * kernel), length + kernel - 1))
    hop = size - kernel + 1
    blocks = -(-length // hop)
    left = kernel // 2
    x_BDL = F.pad(x_BDL, (left, (blocks - 1) * hop + size - length - left))
    x_BDbs = torch.fft.rfft(x_BDL.unfold(2, size, hop))
    bins, each = x_BDbs.shape[3], dim // groups
    x = x_BDbs.view(clips, groups, each, blocks, bins).permute(1, 4, 0, 3, 2)
    w = torch.fft.rfft(weight, n=size).conj().view(groups, each, each, bins).permute(0, 3, 2, 1)
    y = torch.bmm(x.reshape(groups * bins, clips * blocks, each), w.reshape(-1, each, each))
    y = y.view(groups, bins, clips, blocks, each).permute(2, 0, 4, 3, 1)
    y_BDbh: Tensor = torch.fft.irfft(y, n=size)[..., :hop]
    return y_BDbh.reshape(clips, dim, blocks * hop)[..., :length] + bias[:, None]


def _fft_size(at_least: int) -> int:
    """Return the smallest even number from `at_least` on without prime factors above 5."""
    size = at_least + at_least % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
