"""The clips of a recipe as streams of batches (see batches.py for what a batch holds).

Shape legend: B clips of a micro-batch, T samples of a window, S sources, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dawnchorus.trainer.data.batches import (
    Batch,
    BatchDataset,
    BatchLoader,
    PositionBatches,
    Rows,
    broken_entry,
    make_loader,
)
from dawnchorus.trainer.data.config import DataConfig, RemoteConfig
from dawnchorus.trainer.data.index import LabelSpace, ShardIndex
from dawnchorus.trainer.data.order import Draw, PositionOrder
from dawnchorus.trainer.data.reader import BrokenClip, ClipReader
from dawnchorus.trainer.data.sources import Source, label_sources, open_indexes
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.sound_folders import PREPARE_AGAIN

# This many broken clips in a row mean that the data is gone, or was replaced during the run.
_MAX_REPLACEMENTS = 50
# This many clips are fetched from an object store at once; they take some 30 MB of a worker.
_AHEAD = 32


class _Stream(BatchDataset):
    """The common part of training and validation: sources, reader, and names of clips."""

    def __init__(
        self,
        sources: Sequence[Source],
        labels: LabelSpace,
        window_samples: int,
        remote: RemoteConfig,
    ) -> None:
        self.sources = tuple(sources)
        self.labels = labels
        self.window_samples = window_samples
        self._reader = ClipReader(remote=remote)

    def clip_name(self, source: int, clip: int) -> tuple[str, str]:
        """Name of the dataset and key of the clip that `source_B` and `clip_B` of a batch mean."""
        return self.sources[source].name, self.sources[source].index.key(clip)

    def _prepare(self, clips: Iterable[tuple[ShardIndex, int]]) -> None:
        """Fetch those clips that lie in an object store, all at once rather than one by one."""
        self._reader.prepare(index.member(clip) for index, clip in clips if index.remote)

    def _read(
        self, index: ShardIndex, clip: int, u: float, out_T: npt.NDArray[np.int16]
    ) -> tuple[int, int]:
        """Decode a window; its start is the fraction `u` of all possible starts in the clip.

        Returns:
            Number of valid samples, and the window's first sample.
        """
        member = index.member(clip)
        start = int(u * (max(0, member.samples - len(out_T)) + 1))
        return self._reader.read_window(member, start, out_T), start


class TrainStream(_Stream):
    """The training clips of a recipe by position; the same in every process.

    Args:
        config: the datasets.
        sample_rate_hz: the encoder's sample rate; datasets at another rate are refused.
        seed: the seed of the recipe.
        noise_prob: probability that a clip gets noise; without noise sources it is 0.
        snr_db: bounds of the uniform signal-to-noise ratio.
        labels: classes that number the labels; None: all of the training and validation sets.

    Raises:
        DataError: a dataset is missing or damaged, has no clip left after selection, has another
            sample rate, or has a label that `labels` lacks.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        sample_rate_hz: int = 16000,
        seed: int = 0,
        noise_prob: float = 0.0,
        snr_db: tuple[float, float] = (-10.0, 20.0),
        labels: LabelSpace | None = None,
    ) -> None:
        if not config.train:
            raise DataError(
                "data.train names no dataset: there is nothing to train on. Give one a name of "
                "your choice, e.g. data.train.mine.path=DATASET"
            )
        opened = {
            kind: open_indexes(getattr(config, kind), kind, sample_rate_hz, config.remote)
            for kind in ("train", "valid", "noise")
        }
        if labels is None:
            labelled = [*opened["train"].values(), *opened["valid"].values()]
            labels = LabelSpace.union([index.labels for index in labelled])
        sources = label_sources(config.train, opened["train"], labels)
        super().__init__(sources, labels, round(config.window_s * sample_rate_hz), config.remote)
        self.config = config
        self.seed = seed
        self.valid = ValidStream(
            label_sources(config.valid, opened["valid"], labels),
            labels,
            self.window_samples,
            config.remote,
        )
        """The validation clips."""
        self.noise = tuple(opened["noise"].values())
        self.digests = {
            f"{kind}.{name}": index.digest
            for kind, indexes in opened.items()
            for name, index in indexes.items()
        }
        """Digest of each dataset, by its key in the recipe's `data`."""
        self._any_remote = any(i.remote for indexes in opened.values() for i in indexes.values())
        noise = [(i, config.noise[name].weight) for name, i in opened["noise"].items()]
        self.order = PositionOrder(
            [len(source.index) for source in sources],
            [source.weight for source in sources],
            seed=seed,
            noise_sizes=[len(index) for index, _ in noise],
            noise_weights=[weight or float(len(index)) for index, weight in noise],
            noise_prob=noise_prob,
            snr_db=snr_db,
            drawn_clips=[source.drawn_clips for source in sources],
        )

    @property
    def clips(self) -> int:
        """Clips in all training and noise datasets."""
        return sum(len(s.index) for s in self.sources) + sum(len(index) for index in self.noise)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch at these positions.

        Raises:
            DataError: a tar file cannot be read, or nearly all clips are broken.
        """
        rows = Rows(len(positions), self.window_samples, self.allocate, noise=bool(self.noise))
        draws = self._draws(positions)
        for row, draw in enumerate(draws):
            if self._any_remote and row % _AHEAD == 0:
                self._prepare(self._clips(draws[row : row + _AHEAD]))
            length, start, source, clip = self._fill(rows, draw, rows.wav_BT[row], noise=False)
            rows.length_B[row], rows.source_B[row], rows.clip_B[row] = length, source, clip
            rows.position_B[row] = draw.position
            classes = self.sources[source].label_ids(clip, start, self.window_samples)
            rows.add_labels(row, classes)
            if rows.noise_BT is None:
                continue
            if draw.noisy:
                self._fill(rows, draw, rows.noise_BT[row], noise=True)
                rows.snr_db_B[row] = draw.snr_db
            else:
                rows.noise_BT[row] = 0
        return rows.batch()

    def _clips(self, draws: Sequence[Draw]) -> Iterator[tuple[ShardIndex, int]]:
        for draw in draws:
            yield self.sources[draw.source].index, draw.clip
            if draw.noisy:
                yield self.noise[draw.noise_source], draw.noise_clip

    def _draws(self, positions: Sequence[int]) -> list[Draw]:
        first, count = positions[0], len(positions)
        if positions[-1] - first == count - 1:
            return self.order.draws(first, count)
        return [self.order[position] for position in positions]

    def _fill(
        self, rows: Rows, draw: Draw, out_T: npt.NDArray[np.int16], *, noise: bool
    ) -> tuple[int, int, int, int]:
        """Decode the clip (or noise) of a draw; if it is broken, that of a following position.

        Returns:
            Number of valid samples, first sample of the window, source and clip that were used.
        """
        for position in range(draw.position, draw.position + _MAX_REPLACEMENTS):
            if position > draw.position:
                draw = self.order[position]
            source, clip = (draw.noise_source, draw.noise_clip) if noise else draw[1:3]
            index = self.noise[source] if noise else self.sources[source].index
            try:
                if noise:
                    return self._read_noise(index, clip, draw.noise_u, out_T), 0, source, clip
                return *self._read(index, clip, draw.window_u, out_T), source, clip
            except BrokenClip as error:
                rows.broken.append(broken_entry(index.describe(clip), error))
        named = "\n  ".join(rows.broken[-3:])
        raise DataError(
            f"{_MAX_REPLACEMENTS} clips in a row cannot be decoded, the last ones:\n  {named}\n"
            f"If the dataset changed during the run, put the old one back; else {PREPARE_AGAIN}"
        )

    def _read_noise(
        self, index: ShardIndex, clip: int, u: float, out_T: npt.NDArray[np.int16]
    ) -> int:
        """Read a random window of a noise clip; a short clip is repeated from a random point on."""
        samples = int(index.samples_N[clip])
        if samples >= len(out_T):
            return self._read(index, clip, u, out_T)[0]
        whole_T = np.empty(samples, dtype=np.int16)
        self._read(index, clip, 0.0, whole_T)
        out_T[:] = np.resize(np.roll(whole_T, -int(u * samples)), len(out_T))
        return len(out_T)

    def epochs(self, position: int) -> dict[str, float]:
        """How often each dataset was gone through before `position`."""
        names = [source.name for source in self.sources]
        return dict(zip(names, self.order.epochs(position), strict=True))

    def label_counts(self) -> npt.NDArray[np.int64]:
        """Positive clips [S, C] of each class in each training source."""
        counts_SC = np.zeros((len(self.sources), len(self.labels)), dtype=np.int64)
        for counts_C, source in zip(counts_SC, self.sources, strict=True):
            known = source.label_map >= 0
            counts_C[source.label_map[known]] = source.index.label_counts()[known]
        return counts_SC

    def class_presence(self) -> tuple[Tensor, Tensor]:
        """Which classes have a positive clip: anywhere [C], and in each training source [S, C]."""
        present_SC = torch.from_numpy(self.label_counts() > 0)
        return present_SC.any(0), present_SC

    def describe_sources(self) -> list[dict[str, Any]]:
        """Name, folder, clips, hours and share of each training source, as plain values."""
        return [
            {
                "name": source.name,
                "path": source.index.location,
                "clips": len(source.index),
                "hours": source.index.hours,
                "weight": float(share),
            }
            for source, share in zip(self.sources, self.order.mixture.shares, strict=True)
        ]


class ValidStream(_Stream):
    """The first window of every validation clip. Positions past the last clip are padding rows."""

    def __init__(
        self,
        sources: Sequence[Source],
        labels: LabelSpace,
        window_samples: int,
        remote: RemoteConfig,
    ) -> None:
        super().__init__(sources, labels, window_samples, remote)
        self._ends = np.cumsum([len(source.index) for source in sources], dtype=np.int64)
        self._count = int(self._ends[-1]) if len(self._ends) else 0

    def __len__(self) -> int:
        return self._count

    def first(self, clips: int | None) -> ValidStream:
        """The same stream, limited to its first `clips` clips (None: all)."""
        shorter = copy.copy(self)
        shorter._count = min(clips or self._count, self._count)
        return shorter

    def _find(self, position: int) -> tuple[int, int]:
        """Source and clip at a position."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        return number, position - int(self._ends[number]) + len(self.sources[number].index)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        """The batch at these positions; a broken clip becomes a padding row."""
        rows = Rows(len(positions), self.window_samples, self.allocate, noise=False)
        row = 0
        chosen = [
            (position, *self._find(position)) for position in positions if position < len(self)
        ]
        for place, (position, number, clip) in enumerate(chosen):
            source = self.sources[number]
            if place % _AHEAD == 0:
                ahead = chosen[place : place + _AHEAD]
                self._prepare((self.sources[n].index, c) for _, n, c in ahead)
            try:
                rows.length_B[row], _ = self._read(source.index, clip, 0.0, rows.wav_BT[row])
            except BrokenClip as error:
                rows.broken.append(broken_entry(source.index.describe(clip), error))
                continue
            rows.position_B[row] = position
            rows.source_B[row], rows.clip_B[row] = number, clip
            rows.add_labels(row, source.label_ids(clip, 0, self.window_samples))
            row += 1
        rows.wav_BT[row:] = 0
        return rows.batch()


# --------------------------------------------------------------------------- loaders


def train_loader(
    stream: TrainStream,
    *,
    first_position: int,
    micro_batch: int,
    accumulate: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Load endless micro-batches of one rank, from a position on.

    Args:
        stream: the clips.
        first_position: number of samples that all ranks together have consumed so far.
        micro_batch: clips of a micro-step of a rank.
        accumulate: micro-steps of an optimiser step. It decides only where a step ends in the same
            sequence of positions.
        rank: rank of this process.
        world_size: number of ranks.
        workers: number of processes; None: as the recipe says.
        pin_memory: whether batches are in page-locked memory (with a GPU).
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be 1 or more, got {accumulate}")
    batches = PositionBatches(first_position, micro_batch, rank, world_size)
    workers = stream.config.workers if workers is None else workers
    return make_loader(stream, batches, workers, stream.config.prefetch, pin_memory)


def valid_loader(
    stream: TrainStream | ValidStream,
    *,
    micro_batch: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    clips: int | None = None,
) -> BatchLoader | None:
    """Load a rank's share of the first `clips` validation clips; each clip is on exactly one rank.

    Every rank has the same number of batches. Padding rows come last in a batch and have length 0,
    position -1 and no labels. Returns None if the recipe has no validation datasets.
    """
    valid = (stream.valid if isinstance(stream, TrainStream) else stream).first(clips)
    if not len(valid):
        return None
    batches = PositionBatches(0, micro_batch, rank, world_size, total=len(valid))
    return make_loader(valid, batches, workers, 2, pin_memory)
