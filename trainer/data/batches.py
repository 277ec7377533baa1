"""Batches and the loaders that carry them between processes.

Shape legend: B clips of a micro-batch, T samples of a window, P label pairs, R ranks, A micro-steps
of an optimiser step.

A batch is a dict:
    wav_BT        int16 [B, T], PCM; zeros behind a clip's end. Divide by 32768 on the device.
    length_B      int32 [B], samples that are the clip's; 0 in a row that only pads (validation)
    labels_P2     int64 [P, 2], (row, class); no row is listed for a clip without labels
    noise_BT      int16 [B, T]; only where the recipe has noise sources; rows without noise are zero
    snr_db_B      float32 [B], infinite for a row without noise
    position_B    int64 [B], in the training stream or the validation list; -1 in a padding row
    source_B      int64 [B], number of the dataset in the recipe's order
    clip_B        int64 [B], clip number in that dataset's index
    broken        list of str, the members that could not be decoded, and why
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from trainer.data.workers import start_worker
from trainer.errors import DataError

Batch = dict[str, Any]

_BECAUSE = " -- "


def broken_entry(name: str, reason: object) -> str:
    """An entry of a batch's `broken`."""
    return f"{name}{_BECAUSE}{reason}"


def broken_name(entry: str) -> str:
    """The clip that an entry of `broken` is about."""
    return entry.partition(_BECAUSE)[0]


class Rows:
    """A batch under construction."""

    def __init__(self, size: int, window: int, *, noise: bool) -> None:
        self.wav_BT = np.empty((size, window), dtype=np.int16)
        self.noise_BT = np.zeros((size, window), dtype=np.int16) if noise else None
        self.length_B = np.zeros(size, dtype=np.int32)
        self.snr_db_B = np.full(size, np.inf, dtype=np.float32)
        self.position_B = np.full(size, -1, dtype=np.int64)
        self.source_B = np.zeros(size, dtype=np.int64)
        self.clip_B = np.zeros(size, dtype=np.int64)
        self.labels: list[npt.NDArray[np.int64]] = []
        self.broken: list[str] = []

    def add_labels(self, row: int, classes: npt.NDArray[np.int32]) -> None:
        """Note the classes of the clip in a row."""
        pairs_P2 = np.empty((len(classes), 2), dtype=np.int64)
        pairs_P2[:, 0], pairs_P2[:, 1] = row, classes
        self.labels.append(pairs_P2)

    def batch(self) -> Batch:
        """The finished batch."""
        labels_P2 = np.concatenate(self.labels or [np.empty((0, 2), dtype=np.int64)])
        arrays = {
            "wav_BT": self.wav_BT,
            "length_B": self.length_B,
            "labels_P2": labels_P2,
            "snr_db_B": self.snr_db_B,
            "position_B": self.position_B,
            "source_B": self.source_B,
            "clip_B": self.clip_B,
        }
        if self.noise_BT is not None:
            arrays["noise_BT"] = self.noise_BT
        return {k: torch.from_numpy(v) for k, v in arrays.items()} | {"broken": self.broken}


class BatchDataset(Dataset[Batch], ABC):
    """A dataset whose items are whole batches, given their positions."""

    @abstractmethod
    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch at these positions."""

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The same for torch's DataLoader, which would wrap a `DataError` into a trace."""
        try:
            return self[positions]
        except DataError as error:
            return {"fatal": str(error)}


@dataclass(frozen=True)
class PositionBatches:
    """Positions of each micro-batch of one rank: arithmetic, without a state.

    Optimiser step s takes positions [s G, (s + 1) G) with G = R A B; its micro-step a of rank r
    takes the B positions from s G + (a R + r) B on. Infinite, unless `total` is given: then every
    rank has as many batches as cover `total` positions once.
    """

    first_position: int
    micro_batch: int
    rank: int
    world_size: int
    total: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.micro_batch < 1 or self.first_position < 0:
            raise ValueError(f"no such part of a batch: {self}")

    def __iter__(self) -> Iterator[range]:
        # Over whole steps, s G + (a R + r) B is the same as (n R + r) B with n = s A + a.
        stride = self.world_size * self.micro_batch
        first = self.first_position + self.rank * self.micro_batch
        number = 0
        while self.total is None or number * stride < self.total:
            yield range(first + number * stride, first + number * stride + self.micro_batch)
            number += 1

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("training positions are endless")
        return -(-self.total // (self.world_size * self.micro_batch))


class BatchLoader(DataLoader[Batch]):
    """torch's DataLoader that raises a stream's `DataError` as it is, not wrapped in a trace."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if "fatal" in batch:
                raise DataError(batch["fatal"])
            yield batch


def make_loader(
    dataset: BatchDataset, batches: PositionBatches, workers: int, prefetch: int, pin_memory: bool
) -> BatchLoader:
    """A loader of these batches, in this order whatever the number of workers."""
    return BatchLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
