"""When an event counts for a clip or a window: one rule for the preparation and for training.

Shape legend: E events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_TINY_S = 1e-6
"""Below a sample at any rate: times are compared up to this, whatever they are relative to."""
KEY = "strong"
"""The rule's name in a dataset's `labels.json`."""


@dataclass(frozen=True)
class OverlapRule:
    """How much of an event must lie within a window, so that the window has its label."""

    share: float = 0.2
    """Of the shorter of event and window, 0 to 1. The default is that of BEANS' detection sets
    (github.com/earthspecies/beans, beans/datasets.py)."""
    seconds: float | None = None
    """Replaces the share: so many seconds, or the whole of what is shorter (event or window)."""

    def counts(
        self,
        start_E: npt.NDArray[np.float64],
        end_E: npt.NDArray[np.float64],
        first_s: float,
        last_s: float,
    ) -> npt.NDArray[np.bool_]:
        """Whether each event counts for the window [first_s, last_s); all times in seconds.

        An event without a length counts where it lies within.
        """
        overlap_E = np.minimum(end_E, last_s) - np.maximum(start_E, first_s)
        shorter_E = np.minimum(end_E - start_E, last_s - first_s)
        if self.seconds is None:
            need_E = self.share * shorter_E
        else:
            need_E = np.minimum(self.seconds, shorter_E)
        enough_E = (overlap_E > _TINY_S) & (overlap_E >= need_E - _TINY_S)
        point_E = (end_E - start_E <= _TINY_S) & (start_E >= first_s) & (start_E < last_s)
        return np.asarray(enough_E | point_E)

    def to_json(self) -> dict[str, Any]:
        """The rule as `labels.json` has it."""
        return {"least_overlap": self.share, "least_overlap_s": self.seconds}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> OverlapRule:
        """Read what `to_json` gave. Raises ValueError, KeyError or TypeError for anything else."""
        seconds = found["least_overlap_s"]
        return cls(float(found["least_overlap"]), None if seconds is None else float(seconds))


def touches(
    start_E: npt.NDArray[np.float64], end_E: npt.NDArray[np.float64], first_s: float, last_s: float
) -> npt.NDArray[np.bool_]:
    """Whether any part of each event lies within [first_s, last_s)."""
    overlap_E = np.minimum(end_E, last_s) - np.maximum(start_E, first_s)
    point_E = (end_E - start_E <= _TINY_S) & (start_E >= first_s) & (start_E < last_s)
    return np.asarray((overlap_E > _TINY_S) | point_E)
