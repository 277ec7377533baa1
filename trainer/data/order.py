"""Position -> everything random about one training sample, as a pure function of (seed, position).

No object here has a state that a call could change, so any process may ask for any position at any
time and gets the same answer. So a run can resume, and can change its ranks, workers or
micro-batches, at no cost.

Shape legend: S sources, R positions of one round of the mixture, B positions, L random lanes.
"""

from __future__ import annotations

import functools
import heapq
import logging
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Shares are multiples of 1 / (at most this), finer than any effect; laying a round takes 0.2 s.
FINEST_SHARE = 1 << 17
# Below this, grain's shuffle walks through many positions that are not in the range: 5 us a draw at
# 20,000 clips, 70 us at 400, 5 ms at 4 (measured). A table of one epoch is cheaper.
_SMALL = 8192
_LANES = 8
_MIX_KEY, _SHUFFLE_KEY = 0x64617774, 0x73687566


class Draw(NamedTuple):
    """Everything that one position draws. Fractions in [0, 1) get scaled by the lengths later."""

    position: int
    source: int
    """Number of the training source."""
    clip: int
    """Clip number in that source."""
    window_u: float
    """Start of the window, as a fraction of all possible starts."""
    noisy: bool
    """Whether noise is added."""
    noise_source: int
    """Number of the noise source; it is drawn for every position, even if `noisy` is false."""
    noise_clip: int
    noise_u: float
    """Start of the noise window, as a fraction of all possible starts."""
    snr_db: float
    """Signal-to-noise ratio of the mixture; infinite if `noisy` is false."""


class Mixture:
    """Interleaves sources so that every prefix holds each source's share to within one position.

    After k positions, source i was drawn floor(k w_i) or ceil(k w_i) times. Each draw of a source
    has a release and a deadline that follow from this; taking the earliest deadline among the
    released meets them all (the chairman assignment problem: Tijdeman, Discrete Mathematics 32,
    1980). Shares with a common denominator R repeat after R positions, so one round is a table.

    Args:
        weights: one positive number per source; only their ratios count.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        quotas = integer_shares(weights)
        self.round = sum(quotas)
        self.quotas = quotas
        self.shares = tuple(Fraction(q, self.round) for q in quotas)
        """Exact share of each source. It equals that of `weights` up to 1 / FINEST_SHARE."""
        self._source_R, self._rank_R = _lay_round(quotas)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """The source at a position, and how many times it was drawn before."""
        rounds, place = divmod(position, self.round)
        source = int(self._source_R[place])
        return source, rounds * self.quotas[source] + int(self._rank_R[place])

    def drawn(self, position: int, source: int) -> int:
        """How many of the positions before `position` drew `source`."""
        rounds, place = divmod(position, self.round)
        inside = int(np.count_nonzero(self._source_R[:place] == source))
        return rounds * self.quotas[source] + inside


def integer_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in the ratio of the weights, with a sum of at most `FINEST_SHARE`.

    They are exact if possible (0.7 and 0.3 become 7 and 3); otherwise they are the nearest by the
    method of largest remainders, and at least 1 each.
    """
    # The decimal number that was written counts, not the binary fraction nearest to it.
    exact = [Fraction(str(weight)) for weight in weights]
    if not exact or min(exact) <= 0:
        raise ValueError(f"weights must be positive, got {list(weights)}")
    total = sum(exact, Fraction(0))
    shares = [weight / total for weight in exact]
    common = math.lcm(*(share.denominator for share in shares))
    if common <= FINEST_SHARE:
        return tuple(int(share * common) for share in shares)
    ideal = [share * FINEST_SHARE for share in shares]
    quotas = [max(1, int(x)) for x in ideal]
    neediest = sorted(range(len(ideal)), key=lambda i: quotas[i] - ideal[i])
    for i in neediest[: max(0, FINEST_SHARE - sum(quotas))]:
        quotas[i] += 1
    return tuple(quotas)


def _lay_round(
    quotas: Sequence[int],
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    """Source of each position of a round, and how often it occurred earlier in the round."""
    size = sum(quotas)
    source_R = np.zeros(size, dtype=np.uint16)
    rank_R = np.zeros(size, dtype=np.int32)
    drawn = [0] * len(quotas)
    released: list[tuple[int, int]] = []  # (deadline, source)
    waiting = [(0, source) for source in range(len(quotas))]  # (release, source)
    heapq.heapify(waiting)
    for place in range(size):
        while waiting and waiting[0][0] <= place:
            source = heapq.heappop(waiting)[1]
            deadline = ((drawn[source] + 1) * size - 1) // quotas[source]
            heapq.heappush(released, (deadline, source))
        source = heapq.heappop(released)[1]
        source_R[place], rank_R[place] = source, drawn[source]
        drawn[source] += 1
        heapq.heappush(waiting, (drawn[source] * size // quotas[source], source))
    return source_R, rank_R


# --------------------------------------------------------------------------- clips of one source


class Shuffle:
    """Draws every clip of a source once per epoch, in another order each epoch.

    Args:
        size: number of clips.
        seed: seed of this source.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._dataset: Any = None
        if size >= _SMALL:
            # This takes constant memory: the order is computed, not stored.
            self._dataset = _grain().MapDataset.range(size).shuffle(seed=seed).repeat()

    def __reduce__(self) -> tuple[type[Shuffle], tuple[int, int]]:
        # Grain's object would import grain in the other process, with its warning and log handler.
        return Shuffle, (self.size, self.seed)

    def __getitem__(self, drawn: int) -> int:
        """The clip that is drawn after `drawn` earlier draws."""
        if self._dataset is not None:
            return int(self._dataset[drawn])
        epoch, place = divmod(drawn, self.size)
        return int(_epoch_order(self.size, self.seed, epoch)[place])


@functools.lru_cache(maxsize=64)
def _epoch_order(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    # Raw Philox words are the same in every numpy release; numpy's own permutation() is not.
    words = np.random.Philox(key=_key(seed, _SHUFFLE_KEY), counter=epoch << 64).random_raw(size)
    return np.argsort(words, kind="stable")


@functools.cache
def _grain() -> Any:
    """Import grain without the warning that it prints and the root log handler that it leaves."""
    import absl.logging as absl_logging

    root, verbosity = logging.getLogger(), absl_logging.get_verbosity()
    handlers = list(root.handlers)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        import grain
    finally:
        absl_logging.set_verbosity(verbosity)
        root.handlers[:] = handlers
    return grain


# --------------------------------------------------------------------------- the whole draw


class PositionOrder:
    """`order[position]` is everything that a position draws.

    Args:
        sizes: clips of each training source.
        weights: share of each training source; only ratios count.
        seed: seed of the recipe, any whole number from 0 on.
        noise_sizes: clips of each noise source; empty for no noise.
        noise_weights: share of each noise source.
        noise_prob: probability that a position gets noise.
        snr_db: bounds of the uniform signal-to-noise ratio.
        drawn_clips: for each training source the clips of one epoch, where some are drawn more than
            once; None, also for one source: each clip once.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        seed: int,
        noise_sizes: Sequence[int] = (),
        noise_weights: Sequence[float] = (),
        noise_prob: float = 0.0,
        snr_db: tuple[float, float] = (-10.0, 20.0),
        drawn_clips: Sequence[npt.NDArray[np.int32] | None] | None = None,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self._drawn_clips = drawn_clips or [None] * len(sizes)
        self.sizes = tuple(
            n if clips is None else len(clips)
            for n, clips in zip(sizes, self._drawn_clips, strict=True)
        )
        self.seed = seed
        self.mixture = Mixture(weights)
        self.noise_sizes = np.array(noise_sizes, dtype=np.int64)
        shares = np.array(noise_weights, dtype=np.float64)
        self._noise_edges = np.cumsum(shares / shares.sum())[:-1] if len(shares) else shares
        self.noise_prob = noise_prob if len(noise_sizes) else 0.0
        self.snr_db = snr_db
        seeds = np.random.Philox(key=_key(seed, _SHUFFLE_KEY)).random_raw(len(self.sizes)) >> 32
        self._shuffles = [Shuffle(n, int(s)) for n, s in zip(self.sizes, seeds, strict=True)]

    def __getitem__(self, position: int) -> Draw:
        return self.draws(position, 1)[0]

    def draws(self, first: int, count: int) -> list[Draw]:
        """The draws of the `count` positions from `first` on; cheaper than one by one."""
        u_BL = uniforms(self.seed, first, count)
        noise_source_B = np.searchsorted(self._noise_edges, u_BL[:, 2], side="right")
        noise_clip_B = np.zeros(count, dtype=np.int64)
        if len(self.noise_sizes):
            noise_clip_B = (u_BL[:, 3] * self.noise_sizes[noise_source_B]).astype(np.int64)
        noisy_B = u_BL[:, 1] < self.noise_prob
        low, high = self.snr_db
        snr_B = np.where(noisy_B, low + (high - low) * u_BL[:, 5], np.inf)
        chosen = [self.mixture[position] for position in range(first, first + count)]
        return [
            Draw(position, source, self._clip(source, drawn), *rest)
            for position, (source, drawn), *rest in zip(
                range(first, first + count), chosen, u_BL[:, 0].tolist(), noisy_B.tolist(),
                noise_source_B.tolist(), noise_clip_B.tolist(), u_BL[:, 4].tolist(),
                snr_B.tolist(), strict=True,
            )
        ]  # fmt: skip

    def _clip(self, source: int, drawn: int) -> int:
        place, clips = self._shuffles[source][drawn], self._drawn_clips[source]
        return place if clips is None else int(clips[place])

    def epochs(self, position: int) -> tuple[float, ...]:
        """How often each source was gone through before `position`."""
        return tuple(self.mixture.drawn(position, i) / n for i, n in enumerate(self.sizes))


def uniforms(seed: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Independent uniform numbers in [0, 1) for each of `count` positions from `first` on.

    Philox4x64 with the position as its counter (Salmon et al., Parallel random numbers: as easy as
    1, 2, 3; SC 2011): a word depends only on (seed, position, lane).

    Returns:
        [B, L].
    """
    blocks = _LANES // 4
    generator = np.random.Philox(key=_key(seed, _MIX_KEY), counter=first * blocks)
    words = generator.random_raw(count * _LANES).reshape(count, _LANES)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _key(seed: int, purpose: int) -> int:
    return (seed & ((1 << 64) - 1)) | (purpose << 64)
