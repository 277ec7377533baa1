"""Self-distilled tokenizer training: codes from which an earlier encoder's output can be told.

BEATs (Chen et al., arXiv 2212.09058), section 3.3. The tokenizer is the encoder of the model, a
projection and a codebook; an estimator of a few layers gets the codes and answers with the
teacher's output. Masked-token pre-training of the next iteration then predicts the codes
(`tokenizers/learned.py`).

Shape legend: B clips, N tokens of the grid (without CLS), D width of the encoder, T width of the
teacher, E width of a code, V codes, R tokens of all first clips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import Encoder, Grid, Maskable
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.base import (
    Context,
    FeatureBatch,
    Model,
    Objective,
    Scorer,
    StepOutput,
)
from dawnchorus.trainer.objectives.frozen import load_frozen
from dawnchorus.trainer.objectives.masking import valid_places
from dawnchorus.trainer.objectives.quantizer import MovingQuantizer, lots
from dawnchorus.trainer.objectives.tokenizer_distillation_config import (
    START,
    TokenizerDistillationConfig,
)
from dawnchorus.trainer.objectives.tokenizers.usage import UsageScorer, codebook_usage, perplexity
from dawnchorus.trainer.panels import ImagePanel, Panel, TokenPanel

if TYPE_CHECKING:
    from collections.abc import Iterable

_USED = 0.01
"""A code counts as used while its moving share of the tokens is at least this part of an even
share."""


class TokenizerDistillation(Objective):
    """Teacher, quantizer, estimator and loss; the tokenizer's encoder belongs to the model.

    Args:
        config: the objective's numbers.
        encoder: of the tokenizer; only its numbers are kept.
        teacher: frozen; its tokens stand where the encoder's do.
    """

    config: TokenizerDistillationConfig
    mean_T: Tensor

    def __init__(
        self, config: TokenizerDistillationConfig, encoder: Encoder, teacher: Encoder
    ) -> None:
        super().__init__()
        assert isinstance(encoder, Maskable)
        self.config = config
        # Part of the state, so that a checkpoint has it.
        self.teacher = teacher.eval().requires_grad_(False)
        self.quantizer = MovingQuantizer(
            encoder.dim, config.codebook_size, config.codebook_dim,
            decay=config.codebook_decay, revive_below=config.revive_below,
        )  # fmt: skip
        self.widen = nn.Linear(config.codebook_dim, teacher.dim)
        try:
            self.estimator = encoder.stack(config.estimator_layers, teacher.dim)
        except ValueError as error:
            raise RecipeError(f"objective.teacher={config.teacher}: {error}") from None
        self.norm = nn.LayerNorm(teacher.dim)
        nn.init.normal_(self.widen.weight, std=0.02)
        nn.init.zeros_(self.widen.bias)
        # Of the teacher's tokens, once `prepare` has seen data.
        self.register_buffer("mean_T", torch.zeros(teacher.dim))

    @classmethod
    def build(cls, config: TokenizerDistillationConfig, model: Model, context: Context) -> Self:
        """See `Objective.build`; reads the teacher."""
        encoder = model.encoder
        if config.teacher == START:
            teacher = type(encoder)(encoder.config)
            teacher.load_state_dict(encoder.state_dict())
        else:
            assert config.teacher is not None
            teacher = load_frozen(context, config.teacher, "objective.teacher", encoder)
        return cls(config, encoder, teacher)

    def train(self, mode: bool = True) -> Self:
        """The teacher drops nothing, whatever the mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    # ------------------------------------------------------------------ the step

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """1 - cosine of estimate and teacher, and the commitment, summed over valid tokens.

        In training mode the tokens are counted for the codebook, which moves in `after_step`.

        Logs: `loss`; `cosine`, of estimate and teacher; `mean_cosine`, what the teacher's mean over
        the first clips alone would reach: the floor that training has to leave (0 where targets
        are centred); `commitment`, before its weight; and as they stand at this step, from the
        moving shares of the codes: `codes_used`, `perplexity`, `revived_codes` so far. In a
        validation the first two of these are of its own tokens.

        Args:
            batch: log-mel, frames and keys, from which follows what revives a code.
            model: whose encoder becomes the tokenizer's.
            frozen: nothing to be frozen for: this objective has no head.

        Raises:
            ValueError: the batch has no keys.
        """
        del frozen
        valid_BN, grid = valid_places(batch, model.encoder)
        target_BNT = self._target(batch, grid)
        token_BND = model.encoder(batch.x, batch.steps_B).tokens_BND[:, grid.prefix :]
        unit_BNE, code_BN, estimate_BNT = self._estimate(token_BND, valid_BN)
        counts_BN = valid_BN if batch.real_B is None else valid_BN & batch.real_B[:, None]
        cosine_BN = F.cosine_similarity(estimate_BNT, target_BNT, dim=-1)
        guess_T = torch.zeros_like(self.mean_T) if self.config.centre_targets else self.mean_T
        guess_BN = F.cosine_similarity(guess_T, target_BNT, dim=-1)
        distance_BN = (unit_BNE - self.quantizer.codebook_VE[code_BN]).square().mean(-1)
        cosine = cosine_BN.masked_fill(~counts_BN, 0.0).sum()
        commitment = distance_BN.masked_fill(~counts_BN, 0.0).sum()
        count = counts_BN.sum()
        loss_sum = count - cosine + self.config.commitment_weight * commitment
        if self.training:
            self.quantizer.tally(unit_BNE, code_BN, counts_BN, batch.keys())
        logs = {
            "loss": (loss_sum.detach(), count),
            "cosine": (cosine.detach(), count),
            "mean_cosine": (guess_BN.masked_fill(~counts_BN, 0.0).sum(), count),
            "commitment": (commitment.detach(), count),
            **{name: (value * count, count) for name, value in self._standing().items()},
        }
        usage = codebook_usage(code_BN, counts_BN, self.quantizer.codes)
        return StepOutput(loss_sum, count, logs, code_count_V=usage.count_V)

    @torch.no_grad()
    def _target(self, batch: FeatureBatch, grid: Grid) -> Tensor:
        """The teacher's output, float32 [B, N, T], without its mean where the recipe says so."""
        heard = batch.x if batch.clean is None else batch.clean
        target: Tensor = self.teacher(heard, batch.steps_B).tokens_BND[:, grid.prefix :]
        return target.float() - self.mean_T if self.config.centre_targets else target.float()

    def _estimate(self, token_BND: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is quantised, the codes, and what the estimator makes of them in float32."""
        quantizer = self.quantizer
        unit_BNE = quantizer.unit(token_BND)
        code_BN = quantizer.nearest(unit_BNE)
        # Straight-through: the gradient of a code is given to what was quantised.
        passed_BNE = unit_BNE + (quantizer.codebook_VE[code_BN] - unit_BNE).detach()
        hidden_BNT = self.estimator(self.widen(passed_BNE), valid_BN)
        estimate_BNT: Tensor = self.norm(hidden_BNT)
        return unit_BNE, code_BN, estimate_BNT.float()

    @torch.no_grad()
    def _standing(self) -> dict[str, Tensor]:
        """Figures of the codebook as it stands."""
        share_V = self.quantizer.share_V
        return {
            "codes_used": (share_V * len(share_V) >= _USED).sum(),
            "perplexity": perplexity(share_V),
            "revived_codes": self.quantizer.revived.clone(),
        }

    # ------------------------------------------------------------------ before and after

    @torch.no_grad()
    def prepare(self, model: Model, batches: Iterable[FeatureBatch]) -> dict[str, float]:
        """Find the first codes: k-means of what the untrained tokenizer makes of the first clips;
        and the mean of the teacher's tokens.

        Returns:
            `tokens`, `codes_used`, `codes`, `entropy_nats`, `perplexity`.

        Raises:
            RecipeError: there are fewer tokens than twice the codes.
        """
        encoder, mode = model.encoder, model.encoder.training
        encoder.eval()
        self.mean_T.zero_()
        units, draws, total_T = [], [], torch.zeros_like(self.mean_T)
        for batch in batches:
            valid_BN, grid = valid_places(batch, encoder)
            token_BND = encoder(batch.x, batch.steps_B).tokens_BND[:, grid.prefix :]
            units.append(self.quantizer.unit(token_BND)[valid_BN])
            draws.append(lots(batch.keys(), valid_BN)[valid_BN])
            total_T += self._target(batch, grid)[valid_BN].sum(0)
        encoder.train(mode)
        tokens, codes = sum(map(len, units)), self.quantizer.codes
        if tokens < 2 * codes:
            raise RecipeError(
                f"objective.codebook_size={codes}: the first clips have {tokens} tokens, too few "
                "for so many codes; take fewer, or raise train.prepare_batches"
            )
        self.mean_T.copy_(total_T / tokens)
        unit_RE = torch.cat(units)
        self.quantizer.start(unit_RE, torch.cat(draws))
        return codebook_usage(self.quantizer.nearest(unit_RE[None]), None, codes).as_dict()

    def after_step(self, model: Model, step: int, total: int) -> None:
        """Move the codebook, on all ranks alike."""
        del model, step, total
        self.quantizer.update()

    def scorer(self, model: Model) -> Scorer:
        """`codes_used` and `perplexity` of the validation's tokens."""
        del model
        return UsageScorer()

    # ------------------------------------------------------------------ to look at, to count

    @torch.no_grad()
    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """The codes of each clip, and how well each token of the teacher is told from them."""
        valid_BN, grid = valid_places(batch, model.encoder)
        token_BND = model.encoder(batch.x, batch.steps_B).tokens_BND[:, grid.prefix :]
        _, code_BN, estimate_BNT = self._estimate(token_BND, valid_BN)
        cosine_BN = F.cosine_similarity(estimate_BNT, self._target(batch, grid), dim=-1)
        panels = list[list[Panel]]()
        for row, valid_N in enumerate(valid_BN):
            image_TF = cosine_BN[row, valid_N].view(-1, grid.bands).cpu().numpy()
            panels.append(
                [
                    TokenPanel(
                        grid.token_s, grid.bands, code_N=code_BN[row, valid_N].cpu().numpy()
                    ),
                    ImagePanel("cosine of estimate and teacher", image_TF, grid.token_s),
                ]
            )
        return panels

    def terms(self, grid: Grid) -> float:
        """All tokens."""
        return float(grid.places)

    def flops(self, model: Model, grid: Grid) -> float:
        """Forward and backward of encoder, projection and estimator, and the teacher's forward
        pass; see `Objective.flops`.
        """
        places = grid.places
        learnt = self.quantizer.flops(places) + model.encoder.clip_flops(grid)
        learnt += self.estimator.flops(places) + 2 * places * self.widen.weight.numel()
        return float(3 * learnt + self.teacher.clip_flops(grid))
