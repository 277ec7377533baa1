"""All pairs of recordings with the same sound: proposed by fingerprints, decided on waveforms.

Shapes: P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dawnchorus.data_prep.select.compare import Match
from dawnchorus.data_prep.select.fingerprints import STEP_S
from dawnchorus.data_prep.select.neighbours import Candidates, Vectors, candidates
from dawnchorus.data_prep.select.sound import Audio, compare_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dawnchorus.trainer.progress import Progress

LARGEST = 32  # copies of one sound of which all pairs are looked at


def find_same(
    audios: Sequence[Audio],
    vectors: Vectors,
    durations_s: NDArray[np.float64],
    cache: Path,
    *,
    jobs: int,
    progress: Progress,
    kind_R: NDArray[np.int8] | None = None,
    forbidden: Sequence[tuple[int, int]] = (),
    silent: int | None = None,
) -> list[tuple[int, int, Match]]:
    """Return (a, b, match), a < b, of all pairs that are found to have a sound in common.

    Two copies of a third are compared as well, though they may be no neighbours of each other.
    `kind_R`, `forbidden`: kinds of recordings of which no pairs are wanted; `silent`: a kind that
    is not searched for by itself.
    """

    def compare(pairs: Candidates) -> list[tuple[int, int, Match]]:
        found = compare_pairs(audios, pairs, durations_s, cache, jobs=jobs, progress=progress)
        rows = zip(pairs.a_P.tolist(), pairs.b_P.tolist(), found, strict=True)
        return [row for row in rows if row[2].same]

    proposed = candidates(vectors, jobs=jobs, kind_R=kind_R, forbidden=forbidden, silent=silent)
    same = compare(proposed)
    tried = set(zip(proposed.a_P.tolist(), proposed.b_P.tolist(), strict=True))
    kinds = {} if kind_R is None else dict(enumerate(kind_R.tolist()))
    barred = {*forbidden, *((b, a) for a, b in forbidden)}
    rows = [
        row
        for row in _unproposed(same, durations_s)
        if row[:2] not in tried and (kinds.get(row[0]), kinds.get(row[1])) not in barred
    ]
    return same + compare(_candidates(rows))


def _unproposed(
    same: Sequence[tuple[int, int, Match]], durations_s: NDArray[np.float64]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (a, b, place in a, place in b) of all pairs that are connected through others.

    Places in steps of two seconds, in the middle of what the two have in common by the lags.
    """
    for begin_s in _clusters(same):
        if len(begin_s) > LARGEST:
            continue
        for a, b in combinations(sorted(begin_s), 2):
            start_s = max(begin_s[a], begin_s[b])
            end_s = min(begin_s[a] + durations_s[a], begin_s[b] + durations_s[b])
            if end_s > start_s:
                at_s = (start_s + end_s) / 2
                places = (round((at_s - begin_s[x]) / STEP_S) for x in (a, b))
                yield (a, b, *places)


def _clusters(same: Sequence[tuple[int, int, Match]]) -> Iterator[Mapping[int, float]]:
    """Yield {recording: when it begins, in the time of one of them} of all connected recordings."""
    beside: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for a, b, match in same:
        beside[a].append((b, match.lag_s))
        beside[b].append((a, -match.lag_s))
    seen: set[int] = set()
    for first in sorted(beside):
        if first in seen:
            continue
        begin_s = {first: 0.0}
        ahead = [first]
        while ahead:
            here = ahead.pop()
            for other, lag_s in beside[here]:
                if other not in begin_s:
                    begin_s[other] = begin_s[here] + lag_s
                    ahead.append(other)
        seen |= set(begin_s)
        yield begin_s


def _candidates(rows: Sequence[tuple[int, int, int, int]]) -> Candidates:
    table_P4 = np.asarray(rows, np.int64).reshape(-1, 4)
    places = table_P4[:, 2:].astype(np.int32)
    return Candidates(
        table_P4[:, 0], table_P4[:, 1], places[:, 0], places[:, 1], np.ones(len(rows), np.float32)
    )
