"""Validation metrics over many classes and many clips, without keeping the scores.

Average precision and AUROC only ask, for each positive, how many negatives score at least as
high. So the positives are kept exactly (there are few), and the rest as one histogram per class:

* A logit becomes an integer q = round(logit x 2^20), and bin b of a class holds the q with
  q >> e = b. The exponent e of a class is the smallest for which the range seen so far spans at
  most `bins` bins; when the range grows, pairs of bins merge. It depends on the smallest and the
  largest score alone, so the outcome is the same in any order and on any number of ranks.
* A bin holds two integers in one 64-bit word: its count, and the sum of the positions of its
  scores within the bin. A bin with one score is thereby exact, which is what rare classes with
  a handful of negatives above their positives need; so is a bin whose scores are all equal;
  elsewhere the mean says where in the bin the scores lie.
* Scores equal to the extremes are counted apart: saturated scores tie exactly.

10,000 classes take 82 MB, whatever the number of clips.

Shape legend: B clips, C classes, P positives or label pairs, R rows of chosen classes, M bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

FRACTION_BITS = 20
"""Scores closer than 2^-20 (1e-6) count as equal; float32 is no finer from 8 on."""
LIMIT = 1023.0
"""Larger scores are clamped, so that q fits in 31 bits."""
COUNT_SHIFT = 42
"""Below it the sum of positions (at most 2^21 clips x 2^21 positions), above it the count."""
MAX_CLIPS = 1 << 21
_EMPTY_LOW, _EMPTY_HIGH = 2**31 - 1, -(2**31)
_CHUNK = 512
"""Classes worked on at a time: small enough for the cache, and for the memory of `compute`."""


@dataclass(frozen=True)
class ClassScores:
    """Metrics per class, for the classes with at least one positive."""

    class_P: Tensor
    """Ids, ascending, int64."""
    positives_P: Tensor
    """Positive clips, int64."""
    average_precision_P: Tensor
    """As `sklearn.metrics.average_precision_score`, float64."""
    auroc_P: Tensor
    """As `sklearn.metrics.roc_auc_score`; NaN where a class has no negative. float64."""


def _exponents(low_C: Tensor, high_C: Tensor, bins: int) -> Tensor:
    """Smallest e with (high >> e) - (low >> e) < bins, int64; 0 where nothing was seen."""
    low, high = low_C.long(), high_C.long()
    span = (high - low).clamp(min=0)
    # frexp of a double is exact here: its exponent is the bit length.
    e = (torch.frexp(span.double()).exponent.long() - (bins.bit_length() - 1)).clamp(min=0)
    e = e + (((high >> e) - (low >> e)) >= bins).long()
    return torch.where(high >= low, e, 0)


class ScoreHistogram:
    """Macro average precision, macro AUROC and top-1 accuracy of a multi-label classifier.

    Args:
        classes: number of classes C.
        bins: bins per class, a power of two, at least 1024.
        device: where the histograms live; `update` takes tensors of that device.
    """

    def __init__(
        self, classes: int, *, bins: int = 1024, device: torch.device | str = "cpu"
    ) -> None:
        # With fewer, a sum of positions could run over into the count.
        if bins < 1024 or bins & (bins - 1):
            raise ValueError(f"bins is {bins}; it must be a power of two, at least 1024")
        self.classes = classes
        self.bins = bins
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""

        def zeros(*size: int) -> Tensor:
            return torch.zeros(*size, dtype=torch.int64, device=self.device)

        c = self.classes
        self.packed_CM = zeros(c, self.bins)
        self.exponent_C = zeros(c)
        self.low_C = torch.full((c,), _EMPTY_LOW, dtype=torch.int32, device=self.device)
        self.high_C = torch.full((c,), _EMPTY_HIGH, dtype=torch.int32, device=self.device)
        self.at_low_C, self.at_high_C = zeros(c), zeros(c)
        # clips, labelled clips, labelled clips whose best score is one of their labels, scores
        # that were not finite
        self.counters = zeros(4)
        self._positives: list[Tensor] = []  # [P, 2] int32: class, q
        self._synced = False

    @torch.no_grad()
    def update(self, logit_BC: Tensor, labels_P2: Tensor, valid_B: Tensor | None = None) -> None:
        """Add the scores of some clips.

        Args:
            logit_BC: scores before the sigmoid, any floating type.
            labels_P2: (row, class) of each positive, int64; repeated pairs count once.
            valid_B: false for rows that only fill up the batch.

        Raises:
            ValueError: wrong number of classes, or more than 2^21 clips in all.
        """
        if logit_BC.ndim != 2 or logit_BC.shape[1] != self.classes:
            raise ValueError(f"logits of shape {tuple(logit_BC.shape)} for {self.classes} classes")
        if valid_B is not None:
            row_P, class_P = labels_P2[valid_B[labels_P2[:, 0]]].unbind(1)
            labels_P2 = torch.stack([valid_B.long().cumsum(0)[row_P] - 1, class_P], dim=1)
            logit_BC = logit_BC[valid_B]
        if not len(logit_BC):
            return
        labels_P2 = torch.unique(labels_P2, dim=0)
        self._count_clips(logit_BC, labels_P2)
        for start in range(0, self.classes, _CHUNK):
            self._update_chunk(start, logit_BC[:, start : start + _CHUNK])
        score_P = self._quantise(logit_BC[labels_P2[:, 0], labels_P2[:, 1]])
        self._positives.append(torch.stack([labels_P2[:, 1].int(), score_P], dim=1))

    @staticmethod
    def _quantise(logit: Tensor) -> Tensor:
        finite = logit.float().nan_to_num(nan=-LIMIT, posinf=LIMIT, neginf=-LIMIT)
        return (finite.clamp(-LIMIT, LIMIT) * (1 << FRACTION_BITS)).round().int()

    def _count_clips(self, logit_BC: Tensor, labels_P2: Tensor) -> None:
        hits_B = torch.zeros(len(logit_BC), dtype=torch.int64, device=self.device)
        labelled_B = torch.zeros_like(hits_B)
        row_P = labels_P2[:, 0]
        best_B = logit_BC.argmax(dim=1)
        hits_B.index_add_(0, row_P, (best_B[row_P] == labels_P2[:, 1]).long())
        labelled_B[row_P] = 1
        broken = (~torch.isfinite(logit_BC)).sum()
        clips = torch.tensor(len(logit_BC), device=self.device)
        self.counters += torch.stack([clips, labelled_B.sum(), (hits_B > 0).sum(), broken])
        if int(self.counters[0]) > MAX_CLIPS:
            raise ValueError(f"more than {MAX_CLIPS} clips do not fit; evaluate in parts")

    def _update_chunk(self, start: int, logit_BR: Tensor) -> None:
        part = slice(start, start + logit_BR.shape[1])
        # Class-major: the scores of one class then fall into one row, which stays in the cache.
        q_RB = self._quantise(logit_BR.t().contiguous())
        low_R, high_R = q_RB.aminmax(dim=1)
        held_low_R = self.low_C[part].clone()
        self._extend(part, low_R, high_R, lambda edge_R: (q_RB == edge_R[:, None]).sum(1))
        self._coarsen(part, held_low_R)
        shift_R1 = self.exponent_C[part, None].int()
        slot_RB = (q_RB >> shift_R1) & (self.bins - 1)
        word_RB = (q_RB & ((1 << shift_R1) - 1)).long() + (1 << COUNT_SHIFT)
        self._scatter_rows(self.packed_CM[part], slot_RB, word_RB)

    def _extend(
        self, part: slice, low_R: Tensor, high_R: Tensor, count: Callable[[Tensor], Tensor]
    ) -> None:
        """Widen the range of the classes in `part`; `count` counts the new scores at a value."""
        for edge_C, at_C, edge_R in (
            (self.low_C, self.at_low_C, torch.minimum(self.low_C[part], low_R)),
            (self.high_C, self.at_high_C, torch.maximum(self.high_C[part], high_R)),
        ):
            at_C[part] = torch.where(edge_C[part] == edge_R, at_C[part], 0) + count(edge_R)
            edge_C[part] = edge_R

    def _scatter_rows(self, packed_RM: Tensor, slot_RX: Tensor, word_RX: Tensor) -> None:
        # Flat and one-dimensional: the form that CUDA's deterministic mode allows.
        start_R1 = torch.arange(len(packed_RM), device=self.device)[:, None] * self.bins
        packed_RM.view(-1).scatter_add_(0, (slot_RX + start_R1).flatten(), word_RX.flatten())

    def _coarsen(self, part: slice, held_low_R: Tensor) -> None:
        """Merge bins of the classes in `part` until their range fits.

        `held_low_R`: the smallest q that a row holds. A score sits in slot (q >> e) mod M, so a
        row need not move when its range shifts; this is where its M consecutive bins begin.
        """
        wanted_R = _exponents(self.low_C[part], self.high_C[part], self.bins)
        wanted_R = torch.maximum(wanted_R, self.exponent_C[part])
        row_R = (wanted_R > self.exponent_C[part]).nonzero().squeeze(1)
        if not len(row_R):
            return
        e_R1 = self.exponent_C[part][row_R, None]
        rise_R1 = wanted_R[row_R, None] - e_R1
        first_R1 = held_low_R[row_R, None].long() >> e_R1
        packed_RM = self.packed_CM[part][row_R]
        slot_M = torch.arange(self.bins, device=self.device)
        bin_RM = first_R1 + ((slot_M - first_R1) & (self.bins - 1))
        inside_RM = (bin_RM & ((1 << rise_R1) - 1)) << e_R1
        word_RM = packed_RM + (packed_RM >> COUNT_SHIFT) * inside_RM
        merged_RM = torch.zeros_like(packed_RM)
        self._scatter_rows(merged_RM, (bin_RM >> rise_R1) & (self.bins - 1), word_RM)
        self.packed_CM[part.start + row_R] = merged_RM
        self.exponent_C[part] = wanted_R

    # ------------------------------------------------------------------ joining and saving

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        return {name: getattr(self, name) for name in _STATE} | {"positives": self._all_positives()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: it is of another number of classes or bins.
        """
        theirs, ours = tuple(state["packed_CM"].shape), tuple(self.packed_CM.shape)
        if theirs != ours:
            raise ValueError(f"a state of {theirs} classes x bins does not fit one of {ours}")
        for name in _STATE:
            setattr(self, name, state[name].to(self.device, copy=True))
        self._positives = [state["positives"].to(self.device, copy=True)]

    def _all_positives(self) -> Tensor:
        if len(self._positives) != 1:
            empty = torch.zeros(0, 2, dtype=torch.int32, device=self.device)
            self._positives = [torch.cat([empty, *self._positives])]
        return self._positives[0]

    def sync(self) -> None:
        """Take in what the other ranks have seen; collective, once, after the last `update`.

        The outcome is the same on every rank, bit for bit that of one process with all clips.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        if self._synced:
            raise RuntimeError("already synced: `reset` first, or every clip would count again")
        own_low_C, own_high_C = self.low_C.clone(), self.high_C.clone()
        dist.all_reduce(self.low_C, dist.ReduceOp.MIN)
        dist.all_reduce(self.high_C, dist.ReduceOp.MAX)
        self.at_low_C *= self.low_C == own_low_C
        self.at_high_C *= self.high_C == own_high_C
        for start in range(0, self.classes, _CHUNK):
            part = slice(start, min(start + _CHUNK, self.classes))
            self._coarsen(part, own_low_C[part])
        for tensor in (self.packed_CM, self.at_low_C, self.at_high_C, self.counters):
            dist.all_reduce(tensor)
        self._positives = _gather_rows(self._all_positives())
        self._synced = True

    # ------------------------------------------------------------------ results

    def compute(self) -> dict[str, float]:
        """Metrics of the clips seen so far (`sync` first where there are ranks).

        Returns:
            `map`, `auroc`: macro averages over the classes that have a positive (AUROC: and a
            negative); `top1`: share of labelled clips whose best score is one of their labels;
            `classes`: how many classes `map` averages; `clips`; `non_finite`: scores that were
            NaN or infinite (they make the rest meaningless). NaN where nothing can be averaged.
        """
        scores = self.per_class()
        clips, labelled, hits, broken = self.counters.tolist()
        return {
            "map": float(scores.average_precision_P.mean()),
            "auroc": float(scores.auroc_P.nanmean()),
            "top1": hits / labelled if labelled else float("nan"),
            "classes": float(len(scores.class_P)),
            "clips": float(clips),
            "non_finite": float(broken),
        }

    def per_class(self) -> ClassScores:
        """Metrics of each class that has a positive."""
        pairs_P2 = self._all_positives().long()
        # Ascending class, then descending score.
        key_P, order_P = ((pairs_P2[:, 0] << 32) - pairs_P2[:, 1]).sort()
        class_P, q_P = pairs_P2[order_P].unbind(1)
        class_K, row_P, size_K = _runs(class_P)
        # Positives scoring at least as high: the place in the class of the last of equals.
        _, equal_P, equals = _runs(key_P)
        first_K = size_K.cumsum(0) - size_K
        positive_above_P = equals.cumsum(0)[equal_P] - first_K[row_P]
        # Where positives tie with one another, as many of their bin's negatives tie with them.
        _, bin_P, in_bin = _runs((class_P << 32) - (q_P >> self.exponent_C[class_P]))
        tied_P = torch.where(equals > 1, equals, 0)[equal_P] / in_bin[bin_P]
        above_P, over_P = self._negatives_above(class_K, row_P, q_P, tied_P)
        precision_P = positive_above_P / (positive_above_P + above_P)
        negative_K = (self.counters[0] - size_K).double()
        rank_P = 0.5 * (above_P + over_P)
        zeros_K = torch.zeros(len(class_K), dtype=torch.float64, device=self.device)
        auroc_K = 1 - zeros_K.index_add(0, row_P, rank_P) / (size_K * negative_K)
        return ClassScores(
            class_K,
            size_K,
            zeros_K.index_add(0, row_P, precision_P) / size_K,
            auroc_K.where(negative_K > 0, torch.nan),
        )

    def _negatives_above(
        self, class_K: Tensor, row_P: Tensor, q_P: Tensor, tied_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Negatives that score at least, and more than, each positive; float64, both [P]."""
        at_least = torch.zeros(len(q_P), dtype=torch.float64, device=self.device)
        more = torch.zeros_like(at_least)
        bound = torch.searchsorted(
            row_P, torch.arange(0, len(class_K) + _CHUNK, _CHUNK, device=self.device)
        ).tolist()
        for i, start in enumerate(range(0, len(class_K), _CHUNK)):
            mine = slice(bound[i], bound[i + 1])
            at_least[mine], more[mine] = self._rank_chunk(
                class_K[start : start + _CHUNK], row_P[mine] - start, q_P[mine], tied_P[mine]
            )
        return at_least, more

    def _rank_chunk(
        self, class_R: Tensor, row_P: Tensor, q_P: Tensor, tied_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`_negatives_above` for the positives (row of `class_R`, q) of some classes."""
        low_P, high_P = self.low_C[class_R].long()[row_P], self.high_C[class_R].long()[row_P]
        e_R1 = self.exponent_C[class_R, None]
        e_P = e_R1[row_P, 0]
        width_P = torch.ones_like(q_P) << e_P
        inside_P = q_P & (width_P - 1)
        # What is left in the histogram after its positives are taken out are the negatives.
        packed_RM = self.packed_CM[class_R]
        flat_P = row_P * self.bins + ((q_P >> e_P) & (self.bins - 1))
        packed_RM.view(-1).scatter_add_(0, flat_P, -(inside_P + (1 << COUNT_SHIFT)))
        zeros_R = torch.zeros_like(class_R)
        at_low_R = self.at_low_C[class_R] - zeros_R.index_add(0, row_P, (q_P == low_P).long())
        at_high_R = self.at_high_C[class_R] - zeros_R.index_add(0, row_P, (q_P == high_P).long())

        first_R1 = self.low_C[class_R, None].long() >> e_R1
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


_STATE = ("packed_CM", "exponent_C", "low_C", "high_C", "at_low_C", "at_high_C", "counters")


def _split_bin(
    n_P: Tensor, sum_P: Tensor, at_P: Tensor, width_P: Tensor, tied_P: Tensor
) -> tuple[Tensor, Tensor]:
    """How many of n scores in a bin are at least, and more than, position `at`.

    Known of them: the sum of their positions 0 .. width - 1. Exact where all are equal to `at`
    (then n x at is their sum; a coincidence otherwise costs less than n) and where n is 1. Else
    a share `tied` of them is taken to equal `at`, and the rest as spread evenly, around the mean
    and as far as the bin allows.
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


def _runs(sorted_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct values of a sorted vector, the run each entry belongs to, and the run lengths."""
    found = torch.unique_consecutive(sorted_P, return_inverse=True, return_counts=True)
    return found[0], found[1], found[2]


def _gather_rows(rows_P2: Tensor) -> list[Tensor]:
    """The rows of every rank, in rank order; ranks may have different numbers of them."""
    world = dist.get_world_size()
    size = torch.tensor([len(rows_P2)], device=rows_P2.device)
    sizes = [torch.zeros_like(size) for _ in range(world)]
    dist.all_gather(sizes, size)
    longest = max(int(s) for s in sizes)
    padded = rows_P2.new_zeros(longest, 2)
    padded[: len(rows_P2)] = rows_P2
    gathered = [torch.zeros_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return [rows[: int(s)] for rows, s in zip(gathered, sizes, strict=True)]
