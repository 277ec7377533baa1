"""Finds recordings that are used for both training and validation: they make figures too good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dawnchorus.trainer.data.index import ShardIndex


@dataclass(frozen=True)
class Overlap:
    """Number of validation clips, and how many of them share a recording with the training set."""

    clips: int
    trained_on: int

    @property
    def sentence(self) -> str:
        """The warning to show if there is an overlap."""
        return (
            f"{self.trained_on} of {self.clips} validation clips are of recordings that the run is "
            "trained on: its validation figures measure memory, and the choice of best.ckpt may "
            "too. Keep a fold or a split for validation (data.train.NAME.exclude_folds, "
            "data.valid.NAME.folds)"
        )


def validation_overlap(train: Iterable[ShardIndex], valid: Iterable[ShardIndex]) -> Overlap:
    """Count validation clips from recordings of the training set.

    Recordings are compared by id, as `chorus evaluate` does for its exposure, so an archive that
    was prepared twice is recognised. This reads one text column of each index once.

    Args:
        train: the chosen clips of the training sources.
        valid: the chosen clips of the validation sources.
    """
    ids = [np.asarray(index.column("recording_id"), dtype=object) for index in valid]
    wanted = set().union(*ids) if ids else set()
    seen = set().union(*(_found(index, wanted) for index in train))
    return Overlap(
        sum(len(column) for column in ids),
        sum(recording in seen for column in ids for recording in column),
    )


def _found(index: ShardIndex, wanted: set[str]) -> set[str]:
    """The recordings among `wanted` of which a source has clips."""
    import polars as pl

    rows = pl.scan_parquet(index.root / "index.parquet").select("recording_id").with_row_index()
    found = rows.filter(pl.col("recording_id").is_in(list(wanted))).collect()
    drawn = np.isin(found["index"].to_numpy(), index.row_N)
    return set(found["recording_id"].filter(pl.Series(drawn)).to_list())
