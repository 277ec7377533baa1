"""Folds of whole groups, for archives that bring none."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import FOREGROUND, Recording


def make_folds(recordings: Sequence[Recording], count: int, seed: int = 0) -> list[Recording]:
    """Return the recordings with a fold "0" ... each, with whole groups and labels spread as evenly
    as possible.

    A recording counts for its first foreground label. Raises PrepError when there are fewer
    groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [recording.group_id for recording in recordings]
    if len(set(groups)) < count:
        raise PrepError(
            f"{len(set(groups))} groups cannot make {count} folds: a group is never divided. "
            "Ask for fewer folds, or choose another --group-column."
        )
    names = [next(iter(recording.names(FOREGROUND)), "") for recording in recordings]
    label_R = np.unique(names, return_inverse=True)[1]
    if np.bincount(label_R).max() < count:
        label_R = np.zeros_like(label_R)  # labels too rare to balance: balance the sizes
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    fold_R = np.empty(len(recordings), int)
    with warnings.catch_warnings():
        # scikit-learn warns of labels rarer than the number of folds; those are usual in archives.
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, held_out) in enumerate(splitter.split(label_R, label_R, groups)):
            fold_R[held_out] = fold
    return [
        dataclasses.replace(recording, fold=str(fold))
        for recording, fold in zip(recordings, fold_R, strict=True)
    ]
