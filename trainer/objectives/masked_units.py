"""Masked prediction of units: hide spans of tokens, predict the cluster of each hidden token.

HuBERT (Hsu et al., arXiv 2106.07447), which AVES is; numbers of torchaudio's recipe and fairseq's
code. The first iteration clusters MFCC, the next a layer of the encoder of the iteration before.

Shape legend: B clips, N tokens, D width of the encoder, E width of the comparison, V units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import Coverable, Encoder, Grid
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.base import (
    Context,
    FeatureBatch,
    Model,
    Objective,
    StepOutput,
)
from dawnchorus.trainer.objectives.frozen import load_frozen
from dawnchorus.trainer.objectives.masked_units_config import MaskedUnitsConfig
from dawnchorus.trainer.objectives.tokenizers.usage import codebook_usage
from dawnchorus.trainer.objectives.units import CEPSTRA, Clusters, Layer, Mfcc
from dawnchorus.trainer.panels import Panel, TokenPanel
from dawnchorus.trainer.seeds import Use, mix_seeds, uniforms

if TYPE_CHECKING:
    from collections.abc import Iterable


def cover_spans(valid_BN: Tensor, prob: float, span: int, key_B: Tensor) -> Tensor:
    """Choose the hidden tokens: spans at random places, which may overlap. Returns bool [B, N].

    A clip of n tokens has floor(prob n / span + u) spans, u uniform in (0, 1), at least one; where
    n is below twice the span, spans are half of n. A clip's spans do not depend on the others.

    Args:
        valid_BN: true where a token is sound, bool; valid tokens come first.
        prob: spans per token times their length.
        span: tokens of a span.
        key_B: key of each clip's random numbers, int64 (`FeatureBatch.key_B`).
    """
    tokens, device = valid_BN.shape[1], valid_BN.device
    slot_N = torch.arange(tokens, device=device)
    count_B1 = valid_BN.sum(1, keepdim=True)
    span_B1 = (count_B1 // 2).clamp(min=1, max=span)
    starts_B1 = (count_B1 - span_B1 + 1).clamp(min=1)
    spans_B1 = (prob * count_B1 / span_B1 + uniforms(key_B, Use.SPAN, 0)[:, None]).long()
    spans_B1 = torch.minimum(spans_B1.clamp(min=1), starts_B1)
    bits_BN = mix_seeds(key_B[:, None], Use.SPAN, 1, slot_N)
    bits_BN = bits_BN.masked_fill(slot_N >= starts_B1, torch.iinfo(torch.int64).max)
    begins_BN = bits_BN.argsort(1).argsort(1) < spans_B1
    # How many spans have begun up to a token, less those that are over there.
    begun_BN = F.pad(begins_BN.long().cumsum(1), (1, 0))
    over_BN = begun_BN.gather(1, (slot_N + 1 - span_B1).clamp(min=0))
    return (begun_BN[:, 1:] > over_BN) & valid_BN


class MaskedUnits(Objective):
    """Clusters, projection and loss; the encoder itself belongs to the model.

    Args:
        config: the objective's numbers.
        encoder: one that is `Coverable`; only its numbers are kept.
        teacher: whose layer the units are clusters of; None: MFCC.
    """

    config: MaskedUnitsConfig
    share_V: Tensor

    def __init__(
        self, config: MaskedUnitsConfig, encoder: Encoder, teacher: Encoder | None = None
    ) -> None:
        super().__init__()
        assert isinstance(encoder, Coverable)
        self.config = config
        self.features: nn.Module
        if teacher is None:
            self.features, dim = Mfcc(encoder.config.sample_rate_hz), 3 * CEPSTRA
        else:
            self.features, dim = Layer(teacher, config.units.layer), teacher.dim
        self.clusters = Clusters(config.units.codes, dim, config.units.seed)
        self.project = nn.Linear(encoder.dim, config.width)
        self.unit_VE = nn.Parameter(torch.empty(config.units.codes, config.width).uniform_())
        self.cover_D = nn.Parameter(torch.empty(encoder.dim).uniform_())
        # Share of each unit; uniform until `prepare` has seen data.
        codes = config.units.codes
        self.register_buffer("share_V", torch.full((codes,), 1.0 / codes))

    @classmethod
    def build(cls, config: MaskedUnitsConfig, model: Model, context: Context) -> Self:
        """See `Objective.build`."""
        if config.units.path is None:
            return cls(config, model.encoder)
        teacher = load_frozen(context, config.units.path, "objective.units.path", model.encoder)
        blocks = len(teacher.blocks())
        if config.units.layer > blocks:
            raise RecipeError(
                f"objective.units.layer={config.units.layer}: the encoder of "
                f"objective.units.path={config.units.path} has {blocks}"
            )
        return cls(config, model.encoder, teacher)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as torch does, but leave a teacher in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    # ------------------------------------------------------------------ the step

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Return the summed cross-entropy of the hidden tokens, and their number.

        The loss also has the penalty on the convolutions over samples, once per hidden token of a
        clip. Logs: `loss`, `masked_accuracy`, `unigram_nll` (what a guess from the
        units' frequencies alone would reach on the same tokens) and `stem_square`.

        Args:
            batch: waveforms, and keys from which the spans follow; labels are not used.
            model: the model whose encoder is trained.
            frozen: not used, because this objective has no head.

        Raises:
            ValueError: the batch has no keys.
        """
        del frozen
        encoder, config = model.encoder, self.config
        assert isinstance(encoder, Coverable)
        valid_BN, grid = _valid(batch, model.encoder)
        unit_BN = self._units(batch, grid)
        cover_BN = cover_spans(valid_BN, config.mask_prob, config.mask_span, batch.keys())
        out, square_B = encoder.encode_covered(batch.x, batch.steps_B, cover_BN, self.cover_D)
        logit_BNV = self._logits(out.tokens_BND)
        nll_BN = F.cross_entropy(logit_BNV.mT, unit_BN, reduction="none")
        if batch.real_B is not None:
            valid_BN = valid_BN & batch.real_B[:, None]
        hidden_BN = cover_BN & valid_BN
        count = hidden_BN.sum()
        masked = nll_BN.masked_fill(~hidden_BN, 0.0).sum()
        seen = nll_BN.masked_fill(~(valid_BN & ~cover_BN), 0.0).sum()
        penalty = (square_B * hidden_BN.sum(1)).sum()
        loss_sum = masked + config.unmasked_weight * seen + config.stem_penalty * penalty
        with torch.no_grad():
            hits = (logit_BNV.argmax(-1) == unit_BN) & hidden_BN
            guess = (-self.share_V.log()[unit_BN]).masked_fill(~hidden_BN, 0.0).sum()
            logs = {
                "loss": (loss_sum.detach(), count),
                "masked_nll": (masked.detach(), count),
                "masked_accuracy": (hits.sum(), count),
                "unigram_nll": (guess, count),
                "stem_square": (penalty.detach(), count),
            }
        return StepOutput(loss_sum, count, logs)

    def _logits(self, token_BND: Tensor) -> Tensor:
        """Return the cosine of every token and unit divided by the temperature, float32."""
        token_BNE = self.project(token_BND)
        with torch.autocast(token_BND.device.type, enabled=False):
            token_BNE = F.normalize(token_BNE.float(), dim=-1)
            unit_VE = F.normalize(self.unit_VE.float(), dim=-1)
            logit_BNV: Tensor = token_BNE @ unit_VE.T / self.config.temperature
        return logit_BNV

    def _units(self, batch: FeatureBatch, grid: Grid) -> Tensor:
        x = batch.x if batch.clean is None else batch.clean
        unit_BN: Tensor = self.clusters(self.features(x, batch.steps_B, grid))
        return unit_BN

    # ------------------------------------------------------------------ before and after training

    @torch.no_grad()
    def prepare(self, model: Model, batches: Iterable[FeatureBatch]) -> dict[str, float]:
        """Fit the clusters to the tokens of the first clips, and store the share of each unit.

        Returns:
            `tokens`, `codes_used`, `codes`, `entropy_nats`, `perplexity`.

        Raises:
            RecipeError: there are fewer tokens than clusters.
        """
        rows = []
        for batch in batches:
            valid_BN, grid = _valid(batch, model.encoder)
            rows.append(self.features(batch.x, batch.steps_B, grid)[valid_BN])
        tokens, codes = sum(map(len, rows)), self.config.units.codes
        if tokens < 2 * codes:
            raise RecipeError(
                f"objective.units.codes={codes}: the first clips have {tokens} tokens, too few for "
                "so many clusters; take fewer, or raise train.prepare_batches"
            )
        self.clusters.fit(rows)
        unit_1R = self.clusters(torch.cat(rows)[None])
        usage = codebook_usage(unit_1R, None, codes)
        self.share_V.copy_((usage.count_V + 0.5) / (tokens + 0.5 * codes))
        return usage.as_dict()

    @torch.no_grad()
    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """Show which tokens of each clip are hidden, their units and the predicted units."""
        encoder, config = model.encoder, self.config
        assert isinstance(encoder, Coverable)
        valid_BN, grid = _valid(batch, model.encoder)
        cover_BN = cover_spans(valid_BN, config.mask_prob, config.mask_span, batch.keys())
        out, _ = encoder.encode_covered(batch.x, batch.steps_B, cover_BN, self.cover_D)
        found = (cover_BN, self._units(batch, grid), self._logits(out.tokens_BND).argmax(-1))
        arrays = [tensor.cpu().numpy() for tensor in found]
        return [
            [TokenPanel(grid.token_s, 1, *(array[row, valid_N] for array in arrays))]
            for row, valid_N in enumerate(valid_BN.cpu().numpy())
        ]

    def terms(self, grid: Grid) -> float:
        """About half of the tokens are hidden."""
        return grid.tokens / 2

    def flops(self, model: Model, grid: Grid) -> float:
        """Count encoder and comparison forward and backward, and a teacher's forward pass.

        See `Objective.flops`.
        """
        config = self.config
        compare = 2 * grid.tokens * config.width * (model.encoder.dim + config.units.codes)
        teacher = 0
        if isinstance(self.features, Layer):
            teacher = self.features.encoder.clip_flops(grid)
        return float(3 * (model.encoder.clip_flops(grid) + compare) + teacher)


def _valid(batch: FeatureBatch, encoder: Encoder) -> tuple[Tensor, Grid]:
    """Return which tokens are sound, bool [B, N], and their grid."""
    grid = encoder.grid(batch.x.shape[1])
    return encoder.valid(batch.steps_B, grid), grid
