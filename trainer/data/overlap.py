"""Whether a run is validated on what it is trained on: then its figures measure memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dawnchorus.trainer.data.index import ShardIndex


@dataclass(frozen=True)
class Overlap:
    """Validation clips, and how many of them are cut from a recording that is trained on."""

    clips: int
    trained_on: int

    @property
    def sentence(self) -> str:
        """What to tell people where there is an overlap."""
        return (
            f"{self.trained_on} of {self.clips} validation clips are of recordings that the run is "
            "trained on: its validation figures measure memory, and so may what best.ckpt is. "
            "Keep a fold or a split for validation (data.train.NAME.exclude_folds, "
            "data.valid.NAME.folds)"
        )


def validation_overlap(train: Iterable[ShardIndex], valid: Iterable[ShardIndex]) -> Overlap:
    """Look for recordings that are both trained on and validated on.

    Recordings are compared by id, as `chorus evaluate` does for its exposure, so the same archive
    prepared twice is recognised. One pass over a text column of each index.

    Args:
        train: the chosen clips of the training sources.
        valid: those of the validation sources.
    """
    ids = [np.asarray(index.column("recording_id"), dtype=object) for index in valid]
    wanted = set().union(*ids) if ids else set()
    seen = set().union(*(_found(index, wanted) for index in train))
    return Overlap(
        sum(len(column) for column in ids),
        sum(recording in seen for column in ids for recording in column),
    )


def _found(index: ShardIndex, wanted: set[str]) -> set[str]:
    """Those of the recordings `wanted` that a source draws from."""
    import polars as pl

    rows = pl.scan_parquet(index.root / "index.parquet").select("recording_id").with_row_index()
    found = rows.filter(pl.col("recording_id").is_in(list(wanted))).collect()
    drawn = np.isin(found["index"].to_numpy(), index.row_N)
    return set(found["recording_id"].filter(pl.Series(drawn)).to_list())
