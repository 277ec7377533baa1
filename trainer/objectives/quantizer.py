"""Vector quantisation with a codebook that follows what is quantised, as a moving average.

BEATs (Chen et al., arXiv 2212.09058), section 3.3; VQ-VAE (van den Oord et al., arXiv 1711.00937),
appendix A.1. Codes and what is quantised have length 1, so the nearest code is the one with the
greatest cosine.

Shape legend: B clips, N tokens, D channels of a token, E width of a code, V codes, R rows, C
candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.seeds import Use, mix_seeds

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS = 4096
"""Tokens compared with the codebook at a time."""
_CANDIDATES = 64
"""Most codes that are revived in a step."""
_ITERATIONS = 10
"""Of k-means (Microsoft's `quantizer.py`)."""
_NONE = torch.iinfo(torch.int64).max
"""The lot of a token that takes part in no draw."""


class Quantizer(nn.Module):
    """Linear, tanh, linear; then the nearest of the codes.

    The codebook is a buffer, in float32: kept as a parameter and cast to bf16, a codebook is known
    to collapse (espnet#6436).

    Args:
        dim: channels of a token.
        codes: size of the codebook.
        width: of a code.
    """

    codebook_VE: Tensor

    def __init__(self, dim: int, codes: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, width))
        for linear in (self.project[0], self.project[2]):
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.register_buffer("codebook_VE", torch.zeros(codes, width))

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return len(self.codebook_VE)

    def unit(self, token_BND: Tensor) -> Tensor:
        """What is quantised: projected tokens of length 1, float32 [B, N, E]."""
        return F.normalize(self.project(token_BND).float(), dim=-1)

    @torch.no_grad()
    def nearest(self, unit_BNE: Tensor) -> Tensor:
        """Number of the nearest code, int64 [B, N]."""
        with torch.autocast(unit_BNE.device.type, enabled=False):
            rows = torch.split(unit_BNE.flatten(0, -2), _ROWS)
            code_R = torch.cat([(row @ self.codebook_VE.T).argmax(1) for row in rows])
        return code_R.view(unit_BNE.shape[:-1])

    def flops(self, places: int) -> float:
        """Forward floating-point operations for so many tokens, without the projection's bias."""
        first, last = self.project[0], self.project[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        weights = first.weight.numel() + last.weight.numel() + self.codebook_VE.numel()
        return 2.0 * places * weights


class MovingQuantizer(Quantizer):
    """A quantizer whose codebook is learnt beside the gradients.

    `tally` counts what the tokens of a micro-batch chose, `update` moves the codes once per
    optimiser step. What a step does to the codebook follows from its tokens and from the keys of
    its clips, so it is the same for any micro-batch and any number of ranks.

    Args:
        dim: channels of a token.
        codes: size of the codebook.
        width: of a code.
        decay: weight of the past in the moving averages, per step.
        revive_below: a code whose share of the tokens is below this part of an even share is
            given the place of a token; 0: never.
    """

    share_V: Tensor
    revived: Tensor
    sum_VE: Tensor
    count_V: Tensor
    lot_C: Tensor
    candidate_CE: Tensor

    def __init__(
        self, dim: int, codes: int, width: int, *, decay: float, revive_below: float
    ) -> None:
        super().__init__(dim, codes, width)
        self.decay, self.revive_below = decay, revive_below
        # Moving share of the tokens, and how many codes were revived so far.
        self.register_buffer("share_V", torch.full((codes,), 1.0 / codes))
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))
        # Of the step that is under way. Checkpoints are written between steps.
        for name, shape in (("sum_VE", (codes, width)), ("count_V", (codes,))):
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        most = min(codes, _CANDIDATES)
        lot_C = torch.full((most,), _NONE)
        self.register_buffer("lot_C", lot_C, persistent=False)
        self.register_buffer("candidate_CE", torch.zeros(most, width), persistent=False)

    @torch.no_grad()
    def tally(self, unit_BNE: Tensor, code_BN: Tensor, counted_BN: Tensor, key_B: Tensor) -> None:
        """Add a micro-batch.

        Args:
            unit_BNE: what was quantised.
            code_BN: the codes that it got.
            counted_BN: which tokens count, bool.
            key_B: key of each clip's random numbers (`FeatureBatch.key_B`).
        """
        with torch.autocast(unit_BNE.device.type, enabled=False):
            unit_RE = unit_BNE.detach().flatten(0, 1)
            for row_RE, chosen_RV in _chosen(unit_RE, code_BN, counted_BN, self.codes):
                self.sum_VE += chosen_RV.T @ row_RE
                self.count_V += chosen_RV.sum(0)
            lot_R = lots(key_B, counted_BN).flatten()
            self._draw(torch.cat([self.lot_C, lot_R]), torch.cat([self.candidate_CE, unit_RE]))

    def _draw(self, lot_R: Tensor, unit_RE: Tensor) -> None:
        """Keep the lowest lots."""
        lot_C, first_C = lot_R.topk(len(self.lot_C), largest=False)
        self.lot_C.copy_(lot_C)
        self.candidate_CE.copy_(unit_RE[first_C])

    @torch.no_grad()
    def update(self) -> None:
        """Move every code that was chosen towards what chose it; revive those long unchosen.

        All ranks call it. A step with a number that is not finite leaves everything as it was.
        """
        if dist.is_initialized():
            self._gather()
        total = self.count_V.sum()
        chosen_VE = F.normalize(self.sum_VE, dim=1)
        moved_VE = F.normalize(self.codebook_VE.lerp(chosen_VE, 1 - self.decay), dim=1)
        code_VE = torch.where(self.count_V[:, None] > 0, moved_VE, self.codebook_VE)
        share_V = self.share_V.lerp(self.count_V / total.clamp(min=1), 1 - self.decay)
        # The first dead code takes the lowest lot, and so on.
        dead_V = share_V * self.codes < self.revive_below
        turn_V = dead_V.cumsum(0) - 1
        revived_V = dead_V & (turn_V < (self.lot_C < _NONE).sum())
        taken_VE = self.candidate_CE[turn_V.clamp(min=0, max=len(self.lot_C) - 1)]
        code_VE = torch.where(revived_V[:, None], taken_VE, code_VE)
        # It has an even share to begin with, so that it has time to be chosen; all add up to 1.
        share_V = share_V.masked_fill(revived_V, 1 / self.codes)
        share_V = share_V / share_V.sum()
        fine = (total > 0) & code_VE.isfinite().all() & share_V.isfinite().all()
        self.codebook_VE.copy_(torch.where(fine, code_VE, self.codebook_VE))
        self.share_V.copy_(torch.where(fine, share_V, self.share_V))
        self.revived += revived_V.sum() * fine
        self.sum_VE.zero_(), self.count_V.zero_(), self.candidate_CE.zero_()
        self.lot_C.fill_(_NONE)

    def _gather(self) -> None:
        """Add up the ranks' counts, and draw among all their tokens."""
        dist.all_reduce(self.sum_VE)
        dist.all_reduce(self.count_V)
        ranks = dist.get_world_size()
        lot_R = self.lot_C.new_empty(ranks * len(self.lot_C))
        unit_RE = self.candidate_CE.new_empty(len(lot_R), self.candidate_CE.shape[1])
        dist.all_gather_into_tensor(lot_R, self.lot_C)
        dist.all_gather_into_tensor(unit_RE, self.candidate_CE)
        self._draw(lot_R, unit_RE)
        # The first codes were found by each rank for itself, and sums may round otherwise on
        # another machine.
        dist.broadcast(self.codebook_VE, 0)
        dist.broadcast(self.share_V, 0)

    @torch.no_grad()
    def start(self, unit_RE: Tensor, lot_R: Tensor) -> None:
        """Find first codes by k-means with cosines.

        The first centres are the tokens with the lowest lots. A cluster that loses all tokens keeps
        its centre.

        Args:
            unit_RE: what is quantised, of the first clips; at least as many as there are codes.
            lot_R: their lots.
        """
        centre_VE = unit_RE[lot_R.topk(self.codes, largest=False).indices]
        every_1R = torch.ones(1, len(unit_RE), dtype=torch.bool, device=unit_RE.device)
        count_V = torch.zeros_like(self.share_V)
        for _ in range(_ITERATIONS):
            self.codebook_VE.copy_(centre_VE)
            code_1R = self.nearest(unit_RE[None])
            sum_VE, count_V = torch.zeros_like(centre_VE), torch.zeros_like(self.share_V)
            for row_RE, chosen_RV in _chosen(unit_RE, code_1R, every_1R, self.codes):
                sum_VE += chosen_RV.T @ row_RE
                count_V += chosen_RV.sum(0)
            mean_VE = F.normalize(sum_VE, dim=1)
            centre_VE = torch.where(count_V[:, None] > 0, mean_VE, centre_VE)
        self.codebook_VE.copy_(centre_VE)
        self.share_V.copy_(count_V / count_V.sum())


def lots(key_B: Tensor, counted_BN: Tensor) -> Tensor:
    """A number for each token, by the key of its clip and its place, int64 [B, N].

    Tokens that do not count get the greatest number there is.
    """
    place_N = torch.arange(counted_BN.shape[1], device=counted_BN.device)
    return mix_seeds(key_B[:, None], Use.REVIVE, place_N).masked_fill(~counted_BN, _NONE)


def _chosen(
    unit_RE: Tensor, code_BN: Tensor, counted_BN: Tensor, codes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some tokens at a time, and 1 where a token has a code, [R, V].

    A product with these sums in the same order every time; `index_add_` does not on a GPU.
    """
    code_R, counted_R = code_BN.flatten(), counted_BN.flatten()
    for begin in range(0, len(unit_RE), _ROWS):
        rows = slice(begin, begin + _ROWS)
        counted_R1 = counted_R[rows, None]
        # Nothing of a token that does not count may come in, not even a NaN times zero.
        yield (
            unit_RE[rows].masked_fill(~counted_R1, 0.0),
            F.one_hot(code_R[rows], codes).to(unit_RE.dtype).masked_fill(~counted_R1, 0.0),
        )
