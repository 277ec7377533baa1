"""Batches and the loaders that carry them between processes.

Shape legend: B clips of a micro-batch, T samples of a window, P label pairs, R ranks, A micro-steps
of an optimiser step.

A batch is a dict:
    wav_BT        int16 [B, T], PCM; zeros behind a clip's end. Divide by 32768 on the device.
    length_B      int32 [B], samples of the clip itself; 0 in a padding row (validation)
    labels_P2     int64 [P, 2], (row, class); no row is listed for a clip without labels. Where
                  labels have times, those of the window
    noise_BT      int16 [B, T]; only where the recipe has noise sources; rows without noise are zero
    snr_db_B      float32 [B], infinite for a row without noise
    position_B    int64 [B], in the training stream or the validation list; -1 in a padding row
    source_B      int64 [B], number of the dataset in the recipe's order
    clip_B        int64 [B], clip number in that dataset's index
    broken        list of str, the members that could not be decoded, and why
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dawnchorus.trainer.data.workers import start_worker
from dawnchorus.trainer.errors import DataError

Batch = dict[str, Any]

_BECAUSE = " -- "


def broken_entry(name: str, reason: object) -> str:
    """Make an entry of a batch's `broken`."""
    return f"{name}{_BECAUSE}{reason}"


def broken_name(entry: str) -> str:
    """The name of the clip in an entry of `broken`."""
    return entry.partition(_BECAUSE)[0]


Allocate = Callable[[str, tuple[int, int]], Tensor]


def fresh(name: str, shape: tuple[int, int]) -> Tensor:
    """A new int16 array; `name` only matters to `SharedSlots`."""
    return torch.empty(shape, dtype=torch.int16)


class SharedSlots:
    """Arrays in shared memory that a worker reuses in turn.

    The memory pages of a fresh array alone cost a sixth of a FLAC decoding; reused pages cost
    nothing. When a batch is requested, torch gives its worker the task that is `prefetch` tasks
    later, and the task after that only with the worker's next batch. So with `prefetch + 1` slots
    no slot is overwritten before `BatchLoader` has copied it.
    """

    def __init__(self, prefetch: int) -> None:
        self.slots = prefetch + 1
        self._rings: dict[tuple[str, tuple[int, int]], list[Tensor]] = {}
        self._turn: dict[tuple[str, tuple[int, int]], int] = {}

    def __call__(self, name: str, shape: tuple[int, int]) -> Tensor:
        """The next array of this name and shape; it still holds its former values."""
        ring = self._rings.setdefault((name, shape), [])
        turn = self._turn.get((name, shape), 0)
        self._turn[name, shape] = (turn + 1) % self.slots
        if turn == len(ring):
            ring.append(fresh(name, shape).share_memory_())  # type: ignore[no-untyped-call]
        return ring[turn]


class Rows:
    """A batch under construction."""

    def __init__(self, size: int, window: int, allocate: Allocate, *, noise: bool) -> None:
        self._wav_BT = allocate("wav_BT", (size, window))
        self._noise_BT = allocate("noise_BT", (size, window)) if noise else None
        self.wav_BT: npt.NDArray[np.int16] = self._wav_BT.numpy()
        """The array is not cleared, so every row must be written."""
        self.noise_BT: npt.NDArray[np.int16] | None = None
        """Not cleared either."""
        if self._noise_BT is not None:
            self.noise_BT = self._noise_BT.numpy()
        self.length_B = np.zeros(size, dtype=np.int32)
        self.snr_db_B = np.full(size, np.inf, dtype=np.float32)
        self.position_B = np.full(size, -1, dtype=np.int64)
        self.source_B = np.zeros(size, dtype=np.int64)
        self.clip_B = np.zeros(size, dtype=np.int64)
        self.labels: list[npt.NDArray[np.int64]] = []
        self.broken: list[str] = []

    def add_labels(self, row: int, classes: npt.NDArray[np.int32]) -> None:
        """Add the classes of the clip in a row."""
        pairs_P2 = np.empty((len(classes), 2), dtype=np.int64)
        pairs_P2[:, 0], pairs_P2[:, 1] = row, classes
        self.labels.append(pairs_P2)

    def batch(self) -> Batch:
        """The finished batch."""
        labels_P2 = np.concatenate(self.labels or [np.empty((0, 2), dtype=np.int64)])
        small = {
            "length_B": self.length_B,
            "labels_P2": labels_P2,
            "snr_db_B": self.snr_db_B,
            "position_B": self.position_B,
            "source_B": self.source_B,
            "clip_B": self.clip_B,
        }
        batch: Batch = {"wav_BT": self._wav_BT, "broken": self.broken}
        if self._noise_BT is not None:
            batch["noise_BT"] = self._noise_BT
        return batch | {name: torch.from_numpy(array) for name, array in small.items()}


class BatchDataset(Dataset[Batch], ABC):
    """A dataset whose items are whole batches, given their positions."""

    allocate: Allocate = staticmethod(fresh)
    """Function that gives the arrays of a batch; a worker has its own `SharedSlots`."""

    @abstractmethod
    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch at these positions."""

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The same batch for `BatchLoader`, in the form in which it is sent to another process."""
        try:
            batch = self[positions]
        except DataError as error:
            return {"fatal": str(error)}
        # A shared tensor needs a connection of its own (0.7 ms); small tensors go in the pickle.
        return {k: v.numpy() if _is_private(v) else v for k, v in batch.items()}


@dataclass(frozen=True)
class PositionBatches:
    """Positions of each micro-batch of one rank, computed without any state.

    Optimiser step s takes positions [s G, (s + 1) G) with G = R A B; its micro-step a of rank r
    takes the B positions from s G + (a R + r) B on. The sequence is infinite unless `total` is
    given: then every rank has the same number of batches, and together they cover `total` positions
    once.
    """

    first_position: int
    micro_batch: int
    rank: int
    world_size: int
    total: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.micro_batch < 1 or self.first_position < 0:
            raise ValueError(f"these numbers describe no share of a batch: {self}")

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
    """torch's DataLoader, whose batches belong to the caller and whose errors are plain.

    * A batch from a worker is copied out of its shared slot.
    * A `DataError` of the stream is raised unchanged, without the trace of the worker.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # While we hold a slot's array, torch finds it again and need not map its memory again.
        slots = self.num_workers * ((self.prefetch_factor or 0) + 1)
        held: deque[list[Tensor]] = deque(maxlen=slots)
        for batch in super().__iter__():
            if "fatal" in batch:
                raise DataError(batch["fatal"])
            shared = {k: v for k, v in batch.items() if _is_shared(v)}
            held.append(list(shared.values()))
            # numpy asks for huge pages; torch's clone() does not, and takes five times as long.
            # A page-locked tensor has been copied already.
            arrays = {k: v.numpy().copy() for k, v in shared.items()}
            arrays |= {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
            yield batch | {k: self._tensor(v) for k, v in arrays.items()}

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.pin_memory and torch.cuda.is_available() else tensor


def make_loader(
    dataset: BatchDataset, batches: PositionBatches, workers: int, prefetch: int, pin_memory: bool
) -> BatchLoader:
    """Make a loader of these batches; the order is the same for any number of workers."""
    return BatchLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_as_it_is,
        num_workers=workers,
        # Python's default may be another method, but a worker must watch the process it came from.
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start, prefetch=prefetch),
    )


def _start(worker_id: int, prefetch: int) -> None:
    start_worker(worker_id)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, BatchDataset):
        info.dataset.allocate = SharedSlots(prefetch)


def _is_shared(value: object) -> bool:
    return isinstance(value, Tensor) and bool(value.is_shared())  # type: ignore[no-untyped-call]


def _is_private(value: object) -> bool:
    return isinstance(value, Tensor) and not _is_shared(value)


def _as_it_is(batch: Any) -> Any:
    return batch
