"""The clips of a dataset as the evaluation uses them: labels, groups, folds, and reading.

Shape legend: N clips, C classes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.data.reader import BrokenClip, ClipReader
from dawnchorus.trainer.errors import DataError

_LOCAL = threading.local()

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Clips:
    """The labelled clips of a dataset, with the classes that occur in them."""

    path: str
    """Dataset folder, or its URL."""
    digest: str
    """Digest of the index and the label space; the same for the same prepared data."""
    index: ShardIndex
    """The opened dataset."""
    number_N: IntArray
    """Number of each clip in `index`."""
    keys: tuple[str, ...]
    """Key of each clip: its name in the shards."""
    classes: tuple[str, ...]
    """Names of the labels that occur, in the order of the dataset's label space."""
    label_NC: BoolArray
    """Multi-hot foreground labels."""
    groups: tuple[str, ...]
    """Names of the groups."""
    group_N: IntArray
    """Group of each clip."""
    fold_N: tuple[str | None, ...]
    """Fold of each clip."""
    split_N: tuple[str, ...]
    """Split of each clip."""
    samples_N: IntArray
    """Length of each clip."""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return (Path(self.path) if self.index.remote else Path(self.path).resolve()).name

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of all clips."""
        return self.index.sample_rate_hz

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def several_labels(self) -> int:
        """Number of clips with more than one label."""
        return int((self.label_NC.sum(1) > 1).sum())

    @property
    def unlabelled(self) -> int:
        """Number of clips without a label."""
        return int((~self.label_NC.any(1)).sum())

    def read(self, clip: int, start: int, samples: int) -> npt.NDArray[np.int16]:
        """Decode a piece of a clip; may be called from several threads.

        Raises:
            DataError: the clip cannot be decoded. Results on fewer clips would not be comparable,
                so no clip is left out silently.
        """
        if not hasattr(_LOCAL, "reader"):
            _LOCAL.reader = ClipReader()
        wav_T = np.zeros(samples, dtype=np.int16)
        number = int(self.number_N[clip])
        if samples == 0:
            return wav_T
        try:
            _LOCAL.reader.read_window(self.index.member(number), start, wav_T)
        except BrokenClip as error:
            raise DataError(
                f"{self.index.describe(number)} cannot be decoded ({error}): prepare the dataset "
                "again (`chorus prep`), or restore its files from a good copy"
            ) from None
        return wav_T

    def recordings(self, clips: IntArray) -> set[str]:
        """Ids of the recordings of the clips."""
        ids = self.index.column("recording_id")
        return {str(ids[self.number_N[c]]) for c in clips}

    def take(self, numbers: IntArray) -> Clips:
        """Keep the chosen clips; classes that then have no clip are removed."""
        label_NC = self.label_NC[numbers]
        present: BoolArray = np.asarray(label_NC.any(0))
        return replace(
            self,
            number_N=self.number_N[numbers],
            keys=tuple(self.keys[i] for i in numbers),
            classes=tuple(c for c, p in zip(self.classes, present, strict=True) if p),
            label_NC=label_NC[:, present],
            group_N=self.group_N[numbers],
            fold_N=tuple(self.fold_N[i] for i in numbers),
            split_N=tuple(self.split_N[i] for i in numbers),
            samples_N=self.samples_N[numbers],
        )

    def without_classes(self, classes: Sequence[int]) -> Clips:
        """Remove classes, and the clips that had no other label."""
        kept: BoolArray = np.ones(len(self.classes), dtype=bool)
        kept[list(classes)] = False
        label_NC = self.label_NC & kept
        stays_N = label_NC.any(1) | ~self.label_NC.any(1)
        return replace(self, label_NC=label_NC).take(np.flatnonzero(stays_N))


def open_clips(path: str | Path, splits: Sequence[str] | None = None) -> Clips:
    """Open a prepared dataset for evaluation.

    Args:
        path: dataset folder.
        splits: splits to use; None for all.

    Raises:
        DataError: the dataset is missing or damaged, has no such split, or has no labels at all.
    """
    index = ShardIndex.open(path, splits=splits)
    label_NC = np.zeros((len(index), len(index.labels)), dtype=bool)
    label_NC[np.repeat(np.arange(len(index)), np.diff(index.label_start_N1)), index.label_P] = True
    if not label_NC.any():
        raise DataError(
            f"{index.location}: no clip has a label, so there is nothing to probe, retrieve or "
            "cluster by. Prepare it with its label column"
        )
    groups, group_N = np.unique([str(g) for g in index.column("group_id")], return_inverse=True)
    clips = Clips(
        path=index.location,
        digest=index.digest,
        index=index,
        number_N=np.arange(len(index)),
        keys=tuple(index.column("key")),
        classes=index.labels.names,
        label_NC=label_NC,
        groups=tuple(groups.tolist()),
        group_N=group_N.astype(np.int64),
        fold_N=tuple(None if f is None else str(f) for f in index.column("fold")),
        split_N=tuple(index.column("split")),
        samples_N=index.samples_N,
    )
    return clips.take(np.arange(len(index)))
