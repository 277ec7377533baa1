"""Computes how an optimiser step's clips are divided among ranks and micro-steps; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dawnchorus.trainer.errors import RecipeError

LEAST_SHARE = 0.5
"""A micro-batch is never smaller than this share of the requested one. A smaller one would leave
the device idle for no visible reason."""


@dataclass(frozen=True)
class Topology:
    """Division of the global batch among ranks and micro-steps.

    Optimiser step s uses positions [sG, (s+1)G) with G = ranks x accumulate x micro; micro-step a
    of rank r takes the `micro` positions from sG + (a W + r) micro on.
    """

    rank: int
    ranks: int
    accumulate: int
    micro: int

    @property
    def global_batch(self) -> int:
        """Clips per optimiser step."""
        return self.ranks * self.accumulate * self.micro

    def first_position(self, step: int, micro_step: int, rank: int | None = None) -> int:
        """First position of a micro-batch."""
        rank = self.rank if rank is None else rank
        return step * self.global_batch + (micro_step * self.ranks + rank) * self.micro


def total_steps(train: Mapping[str, Any]) -> int | None:
    """Optimiser steps of the `train` section of a recipe; None if it gives no length."""
    if train.get("max_steps") is not None:
        return int(train["max_steps"])
    clips, batch = train.get("max_clips"), train.get("global_batch")
    return -(-int(clips) // int(batch)) if clips and batch else None


def fit_micro_batch(global_batch: int, ranks: int, asked: int, *, pairs: bool = False) -> int:
    """Clips of a micro-step: the largest that divides a rank's share, and is at most `asked`.

    Args:
        global_batch: clips per optimiser step.
        ranks: processes that share them.
        asked: most clips that a device may work on at once (`train.micro_batch`).
        pairs: whether clips are mixed in pairs, so that a micro-batch must hold whole pairs.

    Raises:
        RecipeError: the ranks cannot share the batch evenly, or the largest fitting micro-batch is
            less than half of `asked`. The message names the nearest numbers that work.
    """
    found = _largest(global_batch, ranks, asked, pairs)
    if found:
        return found
    share = f"{global_batch} clips"
    if ranks > 1:
        share += f" on {ranks} ranks"
    even = "even, since mixup takes clips in pairs, " if pairs else ""
    message = (
        f"train.global_batch={global_batch}: {share} cannot be worked on in equal micro-batches, "
        f"{even}of at most train.micro_batch={asked} and at least half of that"
    )
    ways = [f"train.global_batch={n}" for n in _near(global_batch, ranks, asked, pairs)]
    if global_batch % ranks == 0:
        ways += [f"train.micro_batch={n}" for n in _other(global_batch // ranks, asked, pairs)]
    if pairs and not ways:
        ways = ["an even train.micro_batch"]
    if pairs:
        ways.append("augment.mixup_prob=0")
    raise RecipeError(f"{message}. Use {' or '.join(ways)}")


def _largest(global_batch: int, ranks: int, asked: int, pairs: bool) -> int | None:
    if global_batch % ranks:
        return None
    share, step = global_batch // ranks, 2 if pairs else 1
    most = min(asked, share)
    for size in range(most - most % step, 0, -step):
        if share % size == 0:
            return size if size >= LEAST_SHARE * most else None
    return None


def _near(global_batch: int, ranks: int, asked: int, pairs: bool) -> list[int]:
    """The nearest batch sizes below and above that work."""
    found = []
    whole = global_batch - global_batch % ranks
    below = range(whole, 0, -ranks)
    above = range(whole + ranks, 4 * (whole + ranks * asked), ranks)
    for sizes in (below, above):
        found += [n for n in sizes if _largest(n, ranks, asked, pairs)][:1]
    return found


def _other(share: int, asked: int, pairs: bool) -> list[int]:
    """The nearest micro-batches below and above `asked` that divide a rank's share."""
    sizes = [n for n in range(1, share + 1) if share % n == 0 and not (pairs and n % 2)]
    return [n for n in sizes if 1 < n < asked][-1:] + [n for n in sizes if n > asked][:1]
