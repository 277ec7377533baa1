"""Tensors of which each rank holds some rows, and the same tensors whole or in pieces on disk.

FSDP2 keeps parameters, gradients and optimiser state as DTensors cut along their first axis. Here
is the little that the rest of the package does with them, none of which talks to other ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only its rows of a tensor."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    # Importing it takes a second, and only who shards has met such a tensor.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank has of a sharded tensor (same memory); other tensors as they are."""
    if not is_sharded(tensor):
        return tensor
    rows: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return rows


def row_range(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """First row and end of what a rank holds: as `torch.chunk`, so that late ranks may have none.

    Args:
        rows: length of the tensor's first axis.
        rank: which rank.
        ranks: how many share the tensor.
    """
    each = -(-rows // ranks)
    return min(rank * each, rows), min((rank + 1) * each, rows)


@dataclass(frozen=True)
class Pieces:
    """A tensor that lies in pieces along its first axis, in order; read when it is asked for."""

    parts: Sequence[Tensor]

    @property
    def shape(self) -> torch.Size:
        """Shape of the whole."""
        first = self.parts[0].shape
        return torch.Size([sum(len(part) for part in self.parts), *first[1:]])

    def whole(self) -> Tensor:
        """The tensor."""
        return torch.cat(list(self.parts))

    def __getitem__(self, rows: slice) -> Tensor:
        """Some rows, from the pieces that have them."""
        found, begin = [], 0
        for part in self.parts:
            first, end = max(rows.start - begin, 0), min(rows.stop - begin, len(part))
            if first < end:
                found.append(part[first:end])
            begin += len(part)
        return torch.cat(found) if found else self.parts[0][:0]


def own_rows(source: Tensor | Pieces, like: Tensor) -> Tensor:
    """What this rank needs of a whole tensor to fill the sharded tensor `like`.

    Raises:
        ValueError: another shape.
    """
    if source.shape != like.shape:
        raise ValueError(f"shape {tuple(source.shape)} instead of {tuple(like.shape)}")
    if not is_sharded(like):
        return source.whole() if isinstance(source, Pieces) else source
    mesh = like.device_mesh  # type: ignore[attr-defined]
    first, end = row_range(like.shape[0], mesh.get_local_rank(), mesh.size())
    return source[first:end]


@torch.no_grad()
def fill(target: Tensor, source: Tensor | Pieces) -> None:
    """Copy a whole tensor, or one in pieces, into `target`, which may be sharded.

    Raises:
        ValueError: another shape.
    """
    local(target).copy_(own_rows(source, target))


def shard_like(source: Tensor | Pieces, like: Tensor) -> Tensor:
    """A new tensor with the content of `source`, laid over the ranks and devices as `like` is.

    Raises:
        ValueError: another shape.
    """
    rows = own_rows(source, like).to(local(like).device, copy=True)
    if not is_sharded(like):
        return rows
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows,
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
