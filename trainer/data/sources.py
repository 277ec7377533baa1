"""Opens the datasets of a recipe and numbers their labels in one label space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.data.config import RemoteConfig, SourceConfig
from dawnchorus.trainer.data.index import LabelSpace, ShardIndex
from dawnchorus.trainer.errors import DataError


@dataclass(frozen=True)
class Source:
    """One dataset of a recipe, opened."""

    name: str
    index: ShardIndex
    weight: float
    """Share of the mixture, relative to the other sources."""
    label_map: npt.NDArray[np.int32]
    """For each class of the dataset, its id in the run's label space."""
    drawn_clips: npt.NDArray[np.int32] | None = None
    """The clips of one epoch, where some are drawn more than once; None: each once."""

    def label_ids(
        self, clip: int, start: int = 0, samples: int | None = None
    ) -> npt.NDArray[np.int32]:
        """Classes of a clip (or of a window of it) in the run's label space, without repetition.

        Args:
            clip: its number in the index.
            start: first sample of the window.
            samples: of the window; None: the whole clip.
        """
        classes = self.label_map[self.index.label_ids(clip, start, samples)]
        return classes if len(classes) < 2 else np.unique(classes)


def open_indexes(
    configs: Mapping[str, SourceConfig],
    kind: str,
    sample_rate_hz: int,
    remote: RemoteConfig | None = None,
) -> dict[str, ShardIndex]:
    """Open the datasets of one section of a recipe.

    Args:
        configs: the datasets, by name.
        kind: the section ("train", "valid", "noise"), for messages.
        sample_rate_hz: the rate that all datasets must have.
        remote: how object stores are read.

    Raises:
        DataError: a dataset has another rate, or cannot be opened (see `ShardIndex.open`).
    """
    opened = {}
    for name, config in configs.items():
        try:
            index = ShardIndex.open(
                config.path,
                splits=config.splits,
                folds=config.folds,
                exclude_folds=config.exclude_folds,
                remote=remote,
            )
        except DataError as error:
            raise DataError(f"data.{kind}.{name}: {error}") from None
        if index.sample_rate_hz != sample_rate_hz:
            raise DataError(
                f"data.{kind}.{name}: {config.path} is at {index.sample_rate_hz} Hz, the encoder "
                f"expects {sample_rate_hz} Hz: prepare the dataset at that rate"
            )
        opened[name] = index
    return opened


def label_sources(
    configs: Mapping[str, SourceConfig], opened: Mapping[str, ShardIndex], labels: LabelSpace
) -> list[Source]:
    """Number the labels of opened datasets in one label space.

    Raises:
        DataError: a label that occurs in the chosen clips is not in the label space.
    """
    sources = []
    for name, index in opened.items():
        label_map = labels.remap(index.labels)
        unknown = np.flatnonzero((label_map < 0) & (index.label_counts() > 0)).tolist()
        if unknown:
            shown = ", ".join(repr(index.labels.names[i]) for i in unknown[:5])
            raise DataError(
                f"dataset {name} ({index.location}) has {len(unknown)} labels that the label space "
                f"of {len(labels)} classes does not know: {shown}{', ...' if unknown[5:] else ''}. "
                "Start from the union of the label spaces, or leave those clips out of the dataset"
            )
        drawn_clips = _drawn_clips(index, configs[name].class_floor)
        clips = len(index) if drawn_clips is None else len(drawn_clips)
        weight = configs[name].weight or float(clips)
        sources.append(Source(name, index, weight, label_map, drawn_clips))
    return sources


def _drawn_clips(index: ShardIndex, floor: int | None) -> npt.NDArray[np.int32] | None:
    """The clips of an epoch in which each class of the dataset has at least `floor` clips.

    A clip is repeated as its rarest class needs it: `floor` / (clips of the class), rounded up.
    """
    if floor is None:
        return None
    counts_C = index.label_counts()
    factor_C = -(-floor // np.maximum(counts_C, 1))
    times_N = np.ones(len(index), dtype=np.int64)
    clip_P = np.repeat(np.arange(len(index)), np.diff(index.label_start_N1))
    np.maximum.at(times_N, clip_P, factor_C[index.label_P])
    return np.repeat(np.arange(len(index), dtype=np.int32), times_N)
