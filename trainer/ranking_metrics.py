"""Validation metrics over many classes and many clips, without keeping the scores.

Average precision and AUROC need one number for each positive: how many negatives score at least as
high. So the scores of the positives, which are few, are stored exactly. All scores are counted in
two histograms per class (`trainer.binned_scores`) of the integers q = round(score x 2^20): one has
the scores within +-32, the other the scores beyond. The bins of a histogram follow the range of its
content. So a few absurd scores (a diverged clip, NaN, infinity) do not make the inner bins wider,
and scores that all lie beyond +-32 still have narrow bins.

10,000 classes take 123 MB, whatever the number of clips. On a GPU, adding clips never makes the
host wait.

Shape legend: B clips, C classes, P positives or label pairs, K classes with a positive, M bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dawnchorus.trainer.binned_scores import (
    CHUNK,
    LEAST_BINS,
    MAX_CLIPS,
    STATE,
    BinnedScores,
    looking_is_free,
)

FRACTION_BITS = 20
"""Scores that differ by less than 2^-20 (1e-6) count as equal. From 8 on, float32 is no finer."""
LIMIT = 1023.0
"""Scores are clamped to +-LIMIT, so that q fits in 31 bits."""
EDGE = 32 << FRACTION_BITS
"""Largest |q| of the inner histogram. A float32 sigmoid is 1 from 17 on and below 1e-13 at -32."""


@dataclass(frozen=True)
class ClassScores:
    """Metrics per class, for the classes with at least one positive."""

    class_P: Tensor
    """Ids of the classes, ascending, int64."""
    positives_P: Tensor
    """Number of positive clips, int64."""
    average_precision_P: Tensor
    """As `sklearn.metrics.average_precision_score`, float64."""
    auroc_P: Tensor
    """As `sklearn.metrics.roc_auc_score`; NaN where a class has no negative. float64."""


class ScoreHistogram:
    """Macro average precision, macro AUROC and top-1 accuracy of a multi-label classifier.

    Args:
        classes: number of classes C.
        bins: bins of the inner histogram of a class: a power of two, at least 512. The outer
            histogram has half as many, but at least 512.
        device: device of the histograms; `update` takes tensors of that device.
    """

    def __init__(
        self, classes: int, *, bins: int = 1024, device: torch.device | str = "cpu"
    ) -> None:
        self.classes = classes
        self.bins = bins
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.inner = BinnedScores(self.classes, self.bins, self.device)
        self.outer = BinnedScores(self.classes, max(self.bins // 2, LEAST_BINS), self.device)
        self.above_C = torch.zeros(self.classes, dtype=torch.int64, device=self.device)
        """Scores above `EDGE`."""
        self.below_C = torch.zeros_like(self.above_C)
        """Scores below -`EDGE`."""
        # Counts of: clips, labelled clips, labelled clips whose best class is one of their labels,
        # scores that were not finite.
        self.counters = torch.zeros(4, dtype=torch.int64, device=self.device)
        self._positives: list[Tensor] = []  # [P, 2] int32: class (-1: none), q
        self._added = 0
        self._synced = False

    @torch.no_grad()
    def update(self, score_BC: Tensor, labels_P2: Tensor, valid_B: Tensor | None = None) -> None:
        """Add the scores of some clips.

        Args:
            score_BC: scores of any floating type. Within a class, the scores of any two clips must
                be comparable.
            labels_P2: (row, class) of each positive, int64; repeated pairs count once.
            valid_B: False for rows that only fill up the batch.

        Raises:
            ValueError: the number of classes is wrong, or there are more than 2^20 clips in all.
        """
        if score_BC.ndim != 2 or score_BC.shape[1] != self.classes:
            raise ValueError(f"scores of shape {tuple(score_BC.shape)} for {self.classes} classes")
        if not len(score_BC):
            return
        self._added += len(score_BC)
        if self._added > MAX_CLIPS:
            raise ValueError(f"more than {MAX_CLIPS} clips do not fit; evaluate in parts")
        if valid_B is None:
            valid_B = torch.ones(len(score_BC), dtype=torch.bool, device=self.device)
        row_P, class_P, counts_P = self._once(labels_P2, valid_B)
        self._count_clips(score_BC, row_P, class_P, counts_P, valid_B)
        for start in range(0, self.classes, CHUNK):
            self._update_chunk(start, score_BC[:, start : start + CHUNK], valid_B)
        q_P = self._quantise(score_BC[row_P, class_P])
        # Pairs that do not count get class -1 and are removed at the end: removing them now would
        # make the host wait for their number.
        kept_P = class_P.masked_fill(~counts_P, -1).int()
        self._positives.append(torch.stack([kept_P, q_P], dim=1))

    def _once(self, labels_P2: Tensor, valid_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows and classes of the label pairs, sorted, and which pairs count."""
        key_P = (labels_P2[:, 0] * self.classes + labels_P2[:, 1]).sort().values
        row_P, class_P = key_P // self.classes, key_P % self.classes
        counts_P = valid_B[row_P]
        counts_P[1:] &= key_P[1:] != key_P[:-1]
        return row_P, class_P, counts_P

    @staticmethod
    def _quantise(score: Tensor) -> Tensor:
        finite = score.float().nan_to_num(nan=-LIMIT, posinf=LIMIT, neginf=-LIMIT)
        return (finite.clamp(-LIMIT, LIMIT) * (1 << FRACTION_BITS)).round().int()

    def _count_clips(
        self,
        score_BC: Tensor,
        row_P: Tensor,
        class_P: Tensor,
        counts_P: Tensor,
        valid_B: Tensor,
    ) -> None:
        zeros_B = torch.zeros(len(score_BC), dtype=torch.int64, device=self.device)
        best_B = score_BC.argmax(dim=1)
        hits_B = zeros_B.index_add(0, row_P, ((best_B[row_P] == class_P) & counts_P).long())
        labels_B = zeros_B.index_add(0, row_P, counts_P.long())
        broken = (~torch.isfinite(score_BC) & valid_B[:, None]).sum()
        self.counters += torch.stack(
            [valid_B.sum(), (labels_B > 0).sum(), (hits_B > 0).sum(), broken]
        )

    def _update_chunk(self, start: int, score_BR: Tensor, valid_B: Tensor) -> None:
        part = slice(start, start + score_BR.shape[1])
        # Class-major, so that the scores of a class fall into one row, which stays in the cache.
        q_RB = self._quantise(score_BR.t().contiguous())
        inside_RB = (q_RB.abs() <= EDGE) & valid_B
        if looking_is_free(inside_RB) and bool(inside_RB.all()):
            self.inner.add(part, q_RB)
            return
        self.inner.add(part, q_RB, inside_RB)
        outside_RB = (q_RB.abs() > EDGE) & valid_B
        self.outer.add(part, q_RB, outside_RB)
        self.above_C[part] += (outside_RB & (q_RB > 0)).sum(1)
        self.below_C[part] += (outside_RB & (q_RB < 0)).sum(1)

    # ------------------------------------------------------------------ joining and saving

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole state as tensors."""
        state = {"positives": self._all_positives()}
        for prefix, names, owner in self._parts():
            state |= {prefix + name: getattr(owner, name) for name in names}
        return state

    def _parts(self) -> tuple[tuple[str, tuple[str, ...], object], ...]:
        return ("inner.", STATE, self.inner), ("outer.", STATE, self.outer), ("", _STATE, self)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: the state has another number of classes or bins.
        """
        theirs, ours = tuple(state["inner.packed_RM"].shape), tuple(self.inner.packed_RM.shape)
        if theirs != ours:
            raise ValueError(f"a state of {theirs} classes x bins does not fit one of {ours}")
        for prefix, names, owner in self._parts():
            for name in names:
                setattr(owner, name, state[prefix + name].to(self.device, copy=True))
        self._positives = [state["positives"].to(self.device, copy=True)]
        self._added = int(self.counters[0])

    def _all_positives(self) -> Tensor:
        if len(self._positives) != 1:
            empty = torch.zeros(0, 2, dtype=torch.int32, device=self.device)
            self._positives = [torch.cat([empty, *self._positives])]
        pairs_P2 = self._positives[0]
        self._positives = [pairs_P2[pairs_P2[:, 0] >= 0]]
        return self._positives[0]

    def sync(self) -> None:
        """Add what the other ranks have seen. All ranks call it once, after the last `update`.

        Every rank then has the same state, bit for bit that of one process with all clips.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        if self._synced:
            raise RuntimeError("already synced: `reset` first, or every clip would count again")
        self.inner.sync()
        self.outer.sync()
        for name in _STATE:
            dist.all_reduce(getattr(self, name))
        self._positives = _gather_rows(self._all_positives())
        self._synced = True

    # ------------------------------------------------------------------ results

    def compute(self, trained_C: Tensor | None = None) -> dict[str, float]:
        """Return the metrics of the clips so far. With several ranks, call `sync` first.

        Args:
            trained_C: bool, the classes that had a positive clip in training. The other classes
                score the same on every clip, whatever the model learned.

        Returns:
            `map`, `auroc`: macro averages over the classes that have a positive (AUROC: and a
            negative); `top1`: share of labelled clips whose best score is one of their labels;
            `classes`: how many classes `map` averages; `clips`; `non_finite`: scores that were
            NaN or infinite. With `trained_C` also `map_trained`, `auroc_trained` and
            `classes_trained`, over those classes alone. NaN where nothing can be averaged.
        """
        scores = self.per_class()
        clips, labelled, hits, broken = self.counters.tolist()
        figures = _averages(scores, torch.ones_like(scores.class_P, dtype=torch.bool), "")
        if trained_C is not None:
            figures |= _averages(scores, trained_C.to(self.device)[scores.class_P], "_trained")
        return figures | {
            "top1": hits / labelled if labelled else float("nan"),
            "clips": float(clips),
            "non_finite": float(broken),
        }

    def per_class(self) -> ClassScores:
        """Return the metrics of each class that has a positive."""
        pairs_P2 = self._all_positives().long()
        # Ascending class, then descending score.
        key_P, order_P = ((pairs_P2[:, 0] << 32) - pairs_P2[:, 1]).sort()
        class_P, q_P = pairs_P2[order_P].unbind(1)
        class_K, own_P, size_K = _runs(class_P)
        # Positives that score at least as high: the rank within the class of the last equal score.
        _, equal_P, equals = _runs(key_P)
        first_K = size_K.cumsum(0) - size_K
        positive_above_P = equals.cumsum(0)[equal_P] - first_K[own_P]
        # Where positives tie, the same share of the negatives in their bin ties with them.
        outside_P = q_P.abs() > EDGE
        exponent_P = torch.where(
            outside_P, self.outer.exponent_R[class_P], self.inner.exponent_R[class_P]
        )
        _, bin_P, in_bin = _runs((2 * class_P + outside_P << 32) - (q_P >> exponent_P))
        tied_P = torch.where(equals > 1, equals, 0)[equal_P] / in_bin[bin_P]
        above_P, over_P = self._negatives_above(class_K, own_P, q_P, tied_P)
        precision_P = positive_above_P / (positive_above_P + above_P)
        negative_K = (self.counters[0] - size_K).double()
        rank_P = 0.5 * (above_P + over_P)
        zeros_K = torch.zeros(len(class_K), dtype=torch.float64, device=self.device)
        auroc_K = 1 - zeros_K.index_add(0, own_P, rank_P) / (size_K * negative_K)
        return ClassScores(
            class_K,
            size_K,
            zeros_K.index_add(0, own_P, precision_P) / size_K,
            auroc_K.where(negative_K > 0, torch.nan),
        )

    def _negatives_above(
        self, class_K: Tensor, own_P: Tensor, q_P: Tensor, tied_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Count the negatives that score at least as high as each positive, and those that score
        higher. Both are float64 [P].
        """
        at_least = torch.zeros(len(q_P), dtype=torch.float64, device=self.device)
        more = torch.zeros_like(at_least)
        outside_P = q_P.abs() > EDGE
        for rows, zone_P in ((self.inner, ~outside_P), (self.outer, outside_P)):
            mine = zone_P.nonzero().squeeze(1)
            class_P = class_K[own_P[mine]]
            at_least[mine], more[mine] = rows.above(class_P, q_P[mine], tied_P[mine])

        def negatives(total_C: Tensor, positive_P: Tensor) -> Tensor:
            """Count, for each positive's class, the scores in `total_C` that are no positives."""
            count_K = torch.zeros_like(class_K).index_add(0, own_P, positive_P.long())
            return (total_C[class_K] - count_K)[own_P]

        # A score above +32 beats every inner score, and every inner score beats one below -32.
        inner_C = self.counters[0] - self.above_C - self.below_C
        beyond_P = torch.where(~outside_P, negatives(self.above_C, q_P > EDGE), 0)
        beyond_P += torch.where(q_P < -EDGE, negatives(inner_C, ~outside_P), 0)
        return at_least + beyond_P, more + beyond_P


_STATE = ("above_C", "below_C", "counters")


def _averages(scores: ClassScores, which_P: Tensor, suffix: str) -> dict[str, float]:
    return {
        f"map{suffix}": float(scores.average_precision_P[which_P].mean()),
        f"auroc{suffix}": float(scores.auroc_P[which_P].nanmean()),
        f"classes{suffix}": float(which_P.sum()),
    }


def _runs(sorted_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct values of a sorted vector, the run of each entry, and the run lengths."""
    found = torch.unique_consecutive(sorted_P, return_inverse=True, return_counts=True)
    return found[0], found[1], found[2]


def _gather_rows(rows_P2: Tensor) -> list[Tensor]:
    """Return the rows of every rank, in rank order. Ranks may have different numbers of rows."""
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
