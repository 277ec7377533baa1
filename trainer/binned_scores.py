"""Rows of integer scores as histograms whose bins follow the range of each row.

* Bin b of a row holds the scores q with q >> e = b. The exponent e of a row is the smallest for
  which the range seen so far spans at most `bins` bins; when the range grows, pairs of bins merge.
  It depends on the smallest and the largest score alone, so the outcome is the same in any order
  and on any number of ranks.
* A bin holds two integers in one 64-bit word: its count, and the sum of the positions of its
  scores within the bin. So a bin with a single score is exact, which matters for rare classes
  with a handful of negatives above their positives. A bin whose scores are all equal is exact too.
  In other bins the mean tells where the scores lie.
* Scores equal to the extremes are counted separately, so that saturated scores tie exactly.

On a GPU nothing here waits for the host until a result is requested.

Shape legend: R rows, B scores of each row, P positives, M bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

COUNT_SHIFT = 42
"""Bits below this hold the sum of positions (at most 2^20 clips x 2^22 positions), bits above it
the count."""
MAX_CLIPS = 1 << 20
LEAST_BINS = 512
"""With fewer bins, a sum of positions could overflow into the count."""
CHUNK = 512
"""Rows that are processed at a time: few enough for the cache and for the memory of the results."""
STATE = ("packed_RM", "exponent_R", "low_R", "high_R", "at_low_R", "at_high_R")
_EMPTY_LOW, _EMPTY_HIGH = 2**31 - 1, -(2**31)


def looking_is_free(tensor: Tensor) -> bool:
    """Whether the host may read values at once. On a GPU it would wait for all queued work."""
    return tensor.device.type == "cpu"


def _exponents(low_R: Tensor, high_R: Tensor, bins: int) -> Tensor:
    """Smallest e with (high >> e) - (low >> e) < bins, int64; 0 for rows without scores."""
    low, high = low_R.long(), high_R.long()
    span = (high - low).clamp(min=0)
    # frexp of a double is exact here: its exponent is the bit length.
    e = (torch.frexp(span.double()).exponent.long() - (bins.bit_length() - 1)).clamp(min=0)
    e = e + (((high >> e) - (low >> e)) >= bins).long()
    return torch.where(high >= low, e, 0)


class BinnedScores:
    """Histograms of int32 scores, one per row.

    Args:
        rows: number of rows.
        bins: bins per row, a power of two, at least 512.
        device: the device of the histograms.
    """

    packed_RM: Tensor
    exponent_R: Tensor
    low_R: Tensor
    high_R: Tensor
    at_low_R: Tensor
    at_high_R: Tensor

    def __init__(self, rows: int, bins: int, device: torch.device) -> None:
        if bins < LEAST_BINS or bins & (bins - 1):
            raise ValueError(f"bins is {bins}; it must be a power of two, at least {LEAST_BINS}")
        self.rows, self.bins, self.device = rows, bins, device
        self.packed_RM = torch.zeros(rows, bins, dtype=torch.int64, device=device)
        self.exponent_R = torch.zeros(rows, dtype=torch.int64, device=device)
        self.low_R = torch.full((rows,), _EMPTY_LOW, dtype=torch.int32, device=device)
        self.high_R = torch.full((rows,), _EMPTY_HIGH, dtype=torch.int32, device=device)
        self.at_low_R = torch.zeros_like(self.exponent_R)
        self.at_high_R = torch.zeros_like(self.exponent_R)

    # ------------------------------------------------------------------ adding

    def add(self, part: slice, q_RB: Tensor, counts_RB: Tensor | None = None) -> None:
        """Add scores to some rows.

        Args:
            part: the rows.
            q_RB: int32 scores.
            counts_RB: false for scores that do not count; None: all count.
        """
        if counts_RB is None:
            low_R, high_R = q_RB.aminmax(dim=1)
        else:
            low_R = q_RB.masked_fill(~counts_RB, _EMPTY_LOW).amin(1)
            high_R = q_RB.masked_fill(~counts_RB, _EMPTY_HIGH).amax(1)

        def count(edge_R: Tensor) -> Tensor:
            equal_RB = q_RB == edge_R[:, None]
            return (equal_RB if counts_RB is None else equal_RB & counts_RB).sum(1)

        held_low_R = self.low_R[part].clone()
        self._extend(part, low_R, high_R, count)
        self._coarsen(part, held_low_R)
        shift_R1 = self.exponent_R[part, None].int()
        slot_RB = (q_RB >> shift_R1) & (self.bins - 1)
        word_RB = (q_RB & ((1 << shift_R1) - 1)).long() + (1 << COUNT_SHIFT)
        if counts_RB is not None:
            word_RB = word_RB * counts_RB
        self._scatter_rows(self.packed_RM[part], slot_RB, word_RB)

    def _extend(
        self, part: slice, low_R: Tensor, high_R: Tensor, count: Callable[[Tensor], Tensor]
    ) -> None:
        """Widen the range of the rows in `part`; `count` counts the new scores at a value."""
        for edge_R, at_R, new_R in (
            (self.low_R, self.at_low_R, torch.minimum(self.low_R[part], low_R)),
            (self.high_R, self.at_high_R, torch.maximum(self.high_R[part], high_R)),
        ):
            at_R[part] = torch.where(edge_R[part] == new_R, at_R[part], 0) + count(new_R)
            edge_R[part] = new_R

    def _scatter_rows(self, packed_RM: Tensor, slot_RX: Tensor, word_RX: Tensor) -> None:
        # Flat and one-dimensional: the form that CUDA's deterministic mode allows.
        start_R1 = torch.arange(len(packed_RM), device=self.device)[:, None] * self.bins
        packed_RM.view(-1).scatter_add_(0, (slot_RX + start_R1).flatten(), word_RX.flatten())

    def _coarsen(self, part: slice, held_low_R: Tensor) -> None:
        """Merge bins of the rows in `part` until their range fits.

        `held_low_R` is the smallest q of each row, where its M consecutive bins begin. A score sits
        in slot (q >> e) mod M, so a row need not move when its range shifts.
        """
        wanted_R = _exponents(self.low_R[part], self.high_R[part], self.bins)
        wanted_R = torch.maximum(wanted_R, self.exponent_R[part])
        if looking_is_free(wanted_R):
            row_R = (wanted_R > self.exponent_R[part]).nonzero().squeeze(1)
        else:
            # All rows are computed, because the host would have to wait to know which of them grow.
            row_R = torch.arange(len(wanted_R), device=self.device)
        e_R1 = self.exponent_R[part][row_R, None]
        rise_R1 = wanted_R[row_R, None] - e_R1
        first_R1 = held_low_R[row_R, None].long() >> e_R1
        packed_RM = self.packed_RM[part][row_R]
        slot_M = torch.arange(self.bins, device=self.device)
        bin_RM = first_R1 + ((slot_M - first_R1) & (self.bins - 1))
        inside_RM = (bin_RM & ((1 << rise_R1) - 1)) << e_R1
        word_RM = packed_RM + (packed_RM >> COUNT_SHIFT) * inside_RM
        merged_RM = torch.zeros_like(packed_RM)
        self._scatter_rows(merged_RM, (bin_RM >> rise_R1) & (self.bins - 1), word_RM)
        self.packed_RM[part.start + row_R] = merged_RM
        self.exponent_R[part] = wanted_R

    def sync(self) -> None:
        """Add the histograms of the other ranks; collective."""
        own_low_R, own_high_R = self.low_R.clone(), self.high_R.clone()
        dist.all_reduce(self.low_R, dist.ReduceOp.MIN)
        dist.all_reduce(self.high_R, dist.ReduceOp.MAX)
        self.at_low_R *= self.low_R == own_low_R
        self.at_high_R *= self.high_R == own_high_R
        for start in range(0, self.rows, CHUNK):
            part = slice(start, min(start + CHUNK, self.rows))
            self._coarsen(part, own_low_R[part])
        for tensor in (self.packed_RM, self.at_low_R, self.at_high_R):
            dist.all_reduce(tensor)

    # ------------------------------------------------------------------ asking

    def above(self, row_P: Tensor, q_P: Tensor, tied_P: Tensor) -> tuple[Tensor, Tensor]:
        """For each positive, count the other scores of its row that are >= it, and > it.

        Args:
            row_P: row of each positive, ascending; the positives' own scores were added too.
            q_P: their scores, int64.
            tied_P: share of the other scores in a positive's bin that counts as equal to it, if the
                bin is not exact.

        Returns:
            Two float64 vectors [P].
        """
        at_least = torch.zeros(len(q_P), dtype=torch.float64, device=self.device)
        more = torch.zeros_like(at_least)
        row_K, own_P = torch.unique_consecutive(row_P, return_inverse=True)
        edges = torch.arange(0, len(row_K) + CHUNK, CHUNK, device=self.device)
        bound = torch.searchsorted(own_P, edges).tolist()
        for i, start in enumerate(range(0, len(row_K), CHUNK)):
            mine = slice(bound[i], bound[i + 1])
            at_least[mine], more[mine] = self._above_in(
                row_K[start : start + CHUNK], own_P[mine] - start, q_P[mine], tied_P[mine]
            )
        return at_least, more

    def _above_in(
        self, rows_R: Tensor, row_P: Tensor, q_P: Tensor, tied_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`above` for the positives (index into `rows_R`, q) of some rows."""
        low_P, high_P = self.low_R[rows_R].long()[row_P], self.high_R[rows_R].long()[row_P]
        e_R1 = self.exponent_R[rows_R, None]
        e_P = e_R1[row_P, 0]
        width_P = torch.ones_like(q_P) << e_P
        inside_P = q_P & (width_P - 1)
        # What is left in the histogram after its positives are taken out are the negatives.
        packed_RM = self.packed_RM[rows_R]
        flat_P = row_P * self.bins + ((q_P >> e_P) & (self.bins - 1))
        packed_RM.view(-1).scatter_add_(0, flat_P, -(inside_P + (1 << COUNT_SHIFT)))
        zeros_R = torch.zeros_like(rows_R)
        at_low_R = self.at_low_R[rows_R] - zeros_R.index_add(0, row_P, (q_P == low_P).long())
        at_high_R = self.at_high_R[rows_R] - zeros_R.index_add(0, row_P, (q_P == high_P).long())

        first_R1 = self.low_R[rows_R, None].long() >> e_R1
        slot_M = torch.arange(self.bins, device=self.device)
        ordered_RM = packed_RM.gather(1, (first_R1 + slot_M) & (self.bins - 1))
        count_RM = ordered_RM >> COUNT_SHIFT
        total_R = count_RM.sum(1)
        bin_P = (q_P >> e_P) - first_R1[row_P, 0]
        over_P = total_R[row_P] - count_RM.cumsum(1)[row_P, bin_P]  # in higher bins
        word_P = ordered_RM[row_P, bin_P]
        n_P, sum_P = word_P >> COUNT_SHIFT, word_P & ((1 << COUNT_SHIFT) - 1)
        # Take the scores at the extremes out of their bins: their values are known.
        for edge_P, at_P, counts_as_over in (
            (high_P, at_high_R[row_P], True),
            (low_P, at_low_R[row_P], False),
        ):
            shared_P = ((edge_P >> e_P) == (q_P >> e_P)) & (edge_P != q_P)
            taken_P = torch.where(shared_P, at_P, 0)
            n_P = n_P - taken_P
            sum_P = sum_P - taken_P * (edge_P & (width_P - 1))
            over_P = over_P + (taken_P if counts_as_over else 0)
        inside_ge_P, inside_gt_P = _split_bin(n_P, sum_P, inside_P, width_P, tied_P)
        at_least_P, more_P = over_P + inside_ge_P, over_P + inside_gt_P
        is_high_P, is_low_P = q_P == high_P, q_P == low_P
        n_high_P, n_all_P = at_high_R[row_P].double(), total_R[row_P].double()
        at_least_P = torch.where(is_low_P, n_all_P, at_least_P.where(~is_high_P, n_high_P))
        more_P = torch.where(is_low_P, n_all_P - at_low_R[row_P], more_P)
        return at_least_P, more_P.where(~is_high_P, 0.0)


def _split_bin(
    n_P: Tensor, sum_P: Tensor, at_P: Tensor, width_P: Tensor, tied_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Count how many of the n scores in a bin are at least, and more than, position `at`.

    Only the sum of their positions 0 .. width - 1 is known. The result is exact if n is 1, and if
    all equal `at` (their sum is then n x at; if the sum is so by coincidence, the error is less
    than n). Otherwise a share `tied` of them counts as equal to `at`, and the rest as spread evenly
    around the mean, as far as the bin allows.
    """
    count_P = n_P.double()
    mean_P = (sum_P.double() + 0.5 * count_P) / count_P.clamp(min=1)
    reach_P = torch.minimum(mean_P, width_P - mean_P).clamp(min=0.5)
    share_P = ((mean_P + reach_P - at_P - 0.5) / (2 * reach_P)).clamp(0, 1)
    single_P = n_P == 1
    share_P = torch.where(single_P, (sum_P > at_P).double(), share_P)
    tied_P = torch.where(sum_P == n_P * at_P, 1.0, torch.where(single_P, 0.0, tied_P))
    more_P = count_P * share_P * (1 - tied_P)
    return more_P + count_P * tied_P, more_P
