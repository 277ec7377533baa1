"""Estimates of the length of each recording, to plan shards of equal size before any is decoded."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.audio.decode import probe_duration_s
from dawnchorus.data_prep.dataset.plan import generator
from dawnchorus.data_prep.dataset.row_store import Scan
from dawnchorus.data_prep.table.recording import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBED = 2000  # headers that are read
_UNKNOWN_BYTES_PER_S = 16000.0


def lengths_s(scan: Scan, recordings: Iterable[Recording], root: Path) -> NDArray[np.float64]:
    """Estimate the length of every recording: from the table, or from the headers. Of many files
    only a random sample is opened; the others get the seconds per byte of their format.
    """
    seconds_R = np.array(scan.seconds)
    size_R = np.maximum(np.frombuffer(scan.size, np.int64), 0)
    suffix_R = np.frombuffer(scan.suffix, np.uint32)
    unknown = np.flatnonzero(seconds_R <= 0)
    order = generator(0, "sample").permutation(len(unknown))[:PROBED]
    sample = np.sort(unknown[order])
    paths = _paths(recordings, sample)
    with ThreadPoolExecutor(8) as threads:
        seconds_R[sample] = list(threads.map(lambda path: probe_duration_s(root / path), paths))
    rest = np.setdiff1d(unknown, sample, assume_unique=True)
    for suffix in np.unique(suffix_R[rest]).tolist():
        known = sample[suffix_R[sample] == suffix]
        bytes_known = float(size_R[known].sum())
        rate = (
            float(seconds_R[known].sum()) / max(bytes_known, 1.0)
            if len(known)
            else 1 / _UNKNOWN_BYTES_PER_S
        )
        here = rest[suffix_R[rest] == suffix]
        seconds_R[here] = size_R[here] * rate
    return seconds_R


def _paths(recordings: Iterable[Recording], numbers: NDArray[np.int64]) -> list[str]:
    """Return the paths of some recordings, given by their numbers in ascending order."""
    wanted = iter(numbers.tolist())
    following = next(wanted, -1)
    found = []
    for number, recording in enumerate(recordings):
        if following < 0:
            break
        if number == following:
            found.append(recording.path)
            following = next(wanted, -1)
    return found
