"""Figures on their way from the device to the host, which waits for nothing else."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor that is under way; `read` waits for it, but not for what was queued later.

    `tensor.tolist()` would wait for everything that the device has still to do. Reading a while
    after the copy began costs no wait at all.

    Args:
        tensor: small, of any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    @property
    def waits(self) -> bool:
        """Whether reading at once would wait."""
        return self._event is not None

    def read(self) -> list[float]:
        """The numbers of a one-dimensional tensor."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers
