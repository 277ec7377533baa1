"""Which recordings might hold the same sound: the nearest vectors, found without trying all pairs.

Up to EXACT vectors every pair is looked at (a matrix product). Beyond that an inverted file
(faiss): vectors lie in cells around 4 sqrt(V) centres, and a query looks into the PROBES nearest
cells. Its cost grows as V^1.5, with so small a factor that up to tens of millions of vectors
decoding the sound, which is linear, costs far more.

Shapes: V vectors, D dimensions, K neighbours, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = 20_000
PROBES = 16
NEIGHBOURS = 24
LEAST = 0.45  # of 67 clips Opus at 12 kbit/s leaves 0.51, at 24 kbit/s 0.72
LEAST_SHORT = 0.2  # of two recordings with one vector each: half a second, cut off, leaves less
SURE = 0.85  # at least this: always worth a look
LEAST_AROUND = 0.44  # mean with the windows before and after
TRIES, TRIES_SHORT = 3, 6  # below that: only the nearest few of a recording
_BATCH = 8192


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of several recordings, sorted by recording and place.

    `owner_V`: number of the recording; `at_V`: place, in steps of two seconds.
    """

    vector_VD: NDArray[np.float16]
    owner_V: NDArray[np.int64]
    at_V: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs of recordings to compare: `a_P` < `b_P`, the places that are alike, how much."""

    a_P: NDArray[np.int64]
    b_P: NDArray[np.int64]
    at_a_P: NDArray[np.int32]
    at_b_P: NDArray[np.int32]
    alike_P: NDArray[np.float32]


def candidates(
    vectors: Vectors,
    *,
    jobs: int,
    kind_R: NDArray[np.int8] | None = None,
    forbidden: Sequence[tuple[int, int]] = (),
    silent: int | None = None,
) -> Candidates:
    """Return the pairs of recordings that have vectors close enough to be compared.

    `forbidden`: kinds (by `kind_R`) of which no pairs are wanted, as evaluation sets among
    themselves. `silent`: a kind that is found and does not look itself; none of its pairs within
    may be wanted. All that are nearer than SURE are taken, and of the others each recording's
    TRIES nearest.
    """
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    single_R = np.bincount(vectors.owner_V) == 1
    asks_V = _asking(vectors, kind_R, silent)
    for query_B, near_BK, alike_BK in _search(vectors.vector_VD, asks_V, jobs):
        owner_BK = vectors.owner_V[near_BK]
        single_BK = single_R[owner_BK] & single_R[vectors.owner_V[query_B]][:, None]
        good_BK = (alike_BK >= np.where(single_BK, LEAST_SHORT, LEAST)) & (near_BK >= 0)
        good_BK &= owner_BK != vectors.owner_V[query_B][:, None]
        if kind_R is not None:
            mine_B1, theirs_BK = kind_R[vectors.owner_V[query_B]][:, None], kind_R[owner_BK]
            for one, other in forbidden:
                good_BK &= ~((mine_B1 == one) & (theirs_BK == other))
        at = np.nonzero(good_BK)
        v_P, u_P, alike_P = query_B[at[0]], near_BK[at], alike_BK[at]
        worth_P = (
            (alike_P >= SURE)
            | single_BK[at]
            | (_around(vectors, v_P, u_P, alike_P) >= LEAST_AROUND)
        )
        rows.append((v_P[worth_P], u_P[worth_P], alike_P[worth_P]))
    if not rows:
        none = np.zeros(0, np.int64)
        return _best_pairs(vectors, none, none, np.zeros(0, np.float32))
    v_P = np.concatenate([row[0] for row in rows])
    u_P = np.concatenate([row[1] for row in rows])
    return _best_pairs(vectors, v_P, u_P, np.concatenate([row[2] for row in rows]))


def _asking(
    vectors: Vectors, kind_R: NDArray[np.int8] | None, silent: int | None
) -> NDArray[np.int64]:
    """Return the vectors whose neighbours are searched."""
    if kind_R is None or silent is None:
        return np.arange(len(vectors.owner_V))
    return np.flatnonzero(kind_R[vectors.owner_V] != silent)


def _around(
    vectors: Vectors,
    v_P: NDArray[np.int64],
    u_P: NDArray[np.int64],
    alike_P: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Mean cosine of these pairs and of the windows before and after them, where both have one.

    Of two sounds that are alike for one window by chance, the next ones are not.
    """
    total_P, count_P = alike_P.astype(np.float32), np.ones(len(alike_P), np.float32)
    last = len(vectors.owner_V) - 1
    for step in (-1, 1):
        v2_P, u2_P = np.clip(v_P + step, 0, last), np.clip(u_P + step, 0, last)
        both_P = np.ones(len(v_P), bool)
        for x_P, x2_P in ((v_P, v2_P), (u_P, u2_P)):
            both_P &= vectors.owner_V[x_P] == vectors.owner_V[x2_P]
            both_P &= vectors.at_V[x2_P] - vectors.at_V[x_P] == step
        pair = np.flatnonzero(both_P)
        for first in range(0, len(pair), _BATCH):
            p = pair[first : first + _BATCH]
            a_PD = vectors.vector_VD[v2_P[p]].astype(np.float32)
            total_P[p] += (a_PD * vectors.vector_VD[u2_P[p]]).sum(1)
            count_P[p] += 1
    around_P: NDArray[np.float32] = total_P / count_P
    return around_P


def _best_pairs(
    vectors: Vectors,
    v_P: NDArray[np.int64],
    u_P: NDArray[np.int64],
    alike_P: NDArray[np.float32],
) -> Candidates:
    """Keep the best place of each pair, then each recording's best partners."""
    own_P, other_P = vectors.owner_V[v_P], vectors.owner_V[u_P]
    order = np.lexsort((u_P, v_P, -alike_P, other_P, own_P))
    own_P, other_P = own_P[order], other_P[order]
    first = np.ones(len(order), bool)
    first[1:] = (own_P[1:] != own_P[:-1]) | (other_P[1:] != other_P[:-1])
    order, own_P, other_P = order[first], own_P[first], other_P[first]
    v_P, u_P, alike_P = v_P[order], u_P[order], alike_P[order]

    sure_P = alike_P >= SURE
    rank = np.lexsort((other_P, -alike_P, sure_P, own_P))[: len(own_P)]
    rank = rank[~sure_P[rank]]  # copies that are sure do not take the place of one that is not
    starts = np.flatnonzero(np.r_[True, own_P[rank][1:] != own_P[rank][:-1]])[: len(rank)]
    place = np.arange(len(rank)) - np.repeat(starts, np.diff(np.r_[starts, len(rank)]))
    keep = sure_P.copy()
    single_R = np.bincount(vectors.owner_V, minlength=1) == 1
    keep[rank] = place < np.where(single_R[own_P[rank]], TRIES_SHORT, TRIES)

    swap_P = own_P > other_P
    v_P, u_P = np.where(swap_P, u_P, v_P)[keep], np.where(swap_P, v_P, u_P)[keep]
    alike_P = alike_P[keep]
    a_P, b_P = vectors.owner_V[v_P], vectors.owner_V[u_P]
    order = np.lexsort((-alike_P, b_P, a_P))
    a_P, b_P = a_P[order], b_P[order]
    first = np.ones(len(order), bool)
    first[1:] = (a_P[1:] != a_P[:-1]) | (b_P[1:] != b_P[:-1])
    order = order[first]
    return Candidates(
        a_P[first], b_P[first], vectors.at_V[v_P[order]], vectors.at_V[u_P[order]], alike_P[order]
    )


def _search(
    vector_VD: NDArray[np.float16], asks_V: NDArray[np.int64], jobs: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (queries [B], neighbours [B, K], cosines [B, K]) of all queries, batch by batch."""
    import faiss

    index: Any
    count, dimensions = vector_VD.shape
    if count == 0:
        return
    if jobs:
        faiss.omp_set_num_threads(jobs)
    if count <= EXACT:
        index = faiss.IndexFlatIP(dimensions)
    else:
        cells = int(4 * np.sqrt(count))
        index = faiss.index_factory(
            dimensions, f"IVF{cells}_HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT
        )
        # 64 vectors per centre, spread evenly over the table: more does not make better cells.
        step = max(1, count // (64 * cells))
        index.train(vector_VD[::step].astype(np.float32))
        index.nprobe = PROBES
    for first in range(0, count, _BATCH):
        index.add(vector_VD[first : first + _BATCH].astype(np.float32))
    wanted = min(NEIGHBOURS + 1, count)
    for first in range(0, len(asks_V), _BATCH):
        query_B = asks_V[first : first + _BATCH]
        alike_BK, near_BK = index.search(vector_VD[query_B].astype(np.float32), wanted)
        yield query_B, near_BK, alike_BK
