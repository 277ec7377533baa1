"""Running statistics of batch norms: one update per optimiser step, the same on all ranks.

A batch norm normalises a micro-batch by itself (ghost batch norm, Hoffer et al. 2017), whatever
the ranks and the accumulation. What it keeps for evaluation is the moving average over *steps* of
the mean, over all micro-batches of all ranks, of their statistics. So runs whose micro-batches are
equal have equal buffers, however many ranks share them. (torch's SyncBatchNorm needs GPUs, and
would make the normalisation itself depend on how many clips the ranks see at once.)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """The batch norms of a module that keep running statistics, with their names."""
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None:
            yield name, part


def averages(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Running means and variances by their names in the state dict."""
    for name, norm in norms(module):
        assert norm.running_mean is not None and norm.running_var is not None
        yield f"{name}.running_mean", norm.running_mean
        yield f"{name}.running_var", norm.running_var


class RunningStatistics:
    """Keeps the batch norms of a module on the rule above.

    Args:
        module: whose batch norms; those built later are not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [norm for _, norm in norms(module)]
        self._momentum = [0.1 if norm.momentum is None else norm.momentum for norm in self._norms]
        self._before: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._count = 0
        for norm in self._norms:
            norm.momentum = 1.0  # what is kept is the last micro-batch's; the rest happens here

    def _buffers(self) -> list[Tensor]:
        return [b for n in self._norms for b in (n.running_mean, n.running_var) if b is not None]

    @torch.no_grad()
    def begin_step(self) -> None:
        """The first micro-step of an optimiser step comes."""
        self._before = [buffer.clone() for buffer in self._buffers()]
        self._sums = [torch.zeros_like(buffer) for buffer in self._before]
        self._count = 0

    @torch.no_grad()
    def collect(self) -> None:
        """A micro-step has run forward in training mode."""
        if self._norms:
            torch._foreach_add_(self._sums, self._buffers())
            self._count += 1

    @torch.no_grad()
    def end_step(self, ranks: int) -> None:
        """The last micro-step is done: average over micro-batches and ranks, and move on.

        Every rank must have collected as often.
        """
        if not self._count:
            return
        if ranks > 1:
            flat = torch.cat([total.flatten() for total in self._sums])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [total.numel() for total in self._sums])
            self._sums = [p.view_as(t) for p, t in zip(pieces, self._sums, strict=True)]
        shares = [momentum for momentum in self._momentum for _ in range(2)]
        for buffer, before, total, share in zip(
            self._buffers(), self._before, self._sums, shares, strict=True
        ):
            buffer.copy_(before.lerp(total / (self._count * ranks), share))
        for norm in self._norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += self._count * (ranks - 1)  # those of the other ranks
        self._count = 0
