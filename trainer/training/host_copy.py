"""Copies figures from the device to the host without waiting for other work."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor in progress; `read` waits for it, but not for work that was queued later.

    `tensor.tolist()` would wait for all queued work of the device. If some time has passed since
    the copy began, reading costs no wait at all.

    Args:
        tensor: a small tensor on any device.
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
        """Whether reading now would have to wait."""
        return self._event is not None

    def read(self) -> list[float]:
        """The numbers of a one-dimensional tensor."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers
