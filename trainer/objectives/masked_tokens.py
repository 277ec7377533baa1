"""Masked-token pre-training: see a quarter of the patches, predict the codes of the others.

BEATs (Chen et al., arXiv 2212.09058), "masked audio modeling". Microsoft released no pre-training
code; where the paper is silent the numbers are those of ESPnet's reimplementation.

Shape legend: B clips, M masked views of them, T frames, F mel bins, N tokens of the grid, K visible
tokens, J masked tokens, D width of the encoder, E width of the predictor, V codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

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
    StepOutput,
)
from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig
from dawnchorus.trainer.objectives.masking import (
    MaskPlan,
    across,
    draw_masks,
    keep_count,
    valid_places,
)
from dawnchorus.trainer.objectives.tokenizers.usage import CodebookUsage, codebook_usage
from dawnchorus.trainer.panels import Panel, TokenPanel
from dawnchorus.trainer.registry import TOKENIZERS

_IGNORE = -100


class MaskedTokens(Objective):
    """Tokenizer, predictor and loss; the encoder itself belongs to the model.

    The predictor gets the encoder's output at the visible places of the full grid and a learned
    token at the others, runs a few layers of the encoder's kind, and names the code of each masked
    token.

    Args:
        config: the objective's numbers.
        encoder: one that is `Maskable`; only its numbers are kept.
        context: what the tokenizer may ask for.
    """

    config: MaskedTokensConfig
    unigram_V: Tensor

    def __init__(
        self, config: MaskedTokensConfig, encoder: Encoder, context: Context | None = None
    ) -> None:
        super().__init__()
        assert isinstance(encoder, Maskable)
        self.config = config
        width, codes = config.predictor_dim or encoder.dim, config.tokenizer.codebook_size
        kind = TOKENIZERS.thing(config.tokenizer.name)
        self.tokenizer = kind.build(config.tokenizer, encoder, context or Context())
        self.project = nn.Linear(encoder.dim, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        try:
            self.predictor = encoder.stack(config.predictor_layers, width)
        except ValueError as error:
            raise RecipeError(f"objective.predictor_dim: {error}") from None
        self.norm = nn.LayerNorm(width)
        self.to_codes = nn.Linear(width, codes)
        for linear in (self.project, self.to_codes):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.mask_token, std=0.02)
        # Uniform until `prepare` has seen data.
        self.register_buffer("unigram_V", torch.full((codes,), 1.0 / codes))

    @classmethod
    def build(cls, config: MaskedTokensConfig, model: Model, context: Context) -> Self:
        """See `Objective.build`."""
        return cls(config, model.encoder, context)

    # ------------------------------------------------------------------ the step

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Cross-entropy of the masked valid tokens, summed, and their number.

        Logs: `loss`, `masked_accuracy`; `unigram_accuracy` and `unigram_nll`, what a guess from the
        code frequencies alone would reach on the same tokens: the floor that training has to leave;
        `codes_per_clip`, different codes among the valid tokens of a clip.

        Args:
            batch: log-mel, frames and keys, from which the masks follow; labels are not looked at.
            model: whose encoder is trained.
            frozen: nothing to be frozen for: this objective has no head.

        Raises:
            ValueError: the batch has no keys.
        """
        del frozen
        views = self.config.masks_per_clip
        valid_BN, _ = valid_places(batch, model.encoder)
        heard = batch.x if batch.clean is None else batch.clean
        code_BN = self.tokenizer(heard, batch.steps_B)
        plan = draw_masks(valid_BN, self._kept(valid_BN.shape[1]), batch.keys(), views=views)
        hidden_MNE = self._predict(model.encoder, batch.x, valid_BN, plan)
        logit_MJV = self._logits(hidden_MNE, plan.masked_MJ)
        target_MJ = code_BN.repeat_interleave(views, 0).gather(1, plan.masked_MJ)
        counts_MJ = plan.masked_valid_MJ
        if batch.real_B is not None:
            counts_MJ = counts_MJ & batch.real_B.repeat_interleave(views)[:, None]
        target_MJ = target_MJ.masked_fill(~counts_MJ, _IGNORE)
        loss_sum = F.cross_entropy(
            logit_MJV.flatten(0, 1),
            target_MJ.flatten(),
            ignore_index=_IGNORE,
            label_smoothing=self.config.label_smoothing,
            reduction="sum",
        )
        count = counts_MJ.sum()
        logs = self._logs(logit_MJV, target_MJ, count)
        logs["loss"] = (loss_sum.detach(), count)
        real_B = torch.ones_like(valid_BN[:, 0]) if batch.real_B is None else batch.real_B
        seen_BV = valid_BN.new_zeros(len(valid_BN), len(self.unigram_V) + 1)
        # What is padding goes into a column of its own.
        seen_BV.scatter_(1, code_BN.masked_fill(~valid_BN, len(self.unigram_V)), True)
        logs["codes_per_clip"] = ((seen_BV[:, :-1] & real_B[:, None]).sum(), real_B.sum())
        return StepOutput(loss_sum, count, logs)

    @torch.no_grad()
    def _logs(
        self, logit_MJV: Tensor, target_MJ: Tensor, count: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        # Targets that do not count equal no code, and so nothing that is predicted.
        most_common = self.unigram_V.argmax()
        nll_V = -self.unigram_V.log()
        unigram_nll = nll_V[target_MJ.clamp(min=0)].masked_fill(target_MJ < 0, 0.0).sum()
        return {
            "masked_accuracy": ((logit_MJV.argmax(-1) == target_MJ).sum(), count),
            "unigram_accuracy": ((target_MJ == most_common).sum(), count),
            "unigram_nll": (unigram_nll, count),
        }

    def _kept(self, grid: int) -> int:
        return keep_count(grid, self.config.mask_ratio, self.config.keep_multiple_of)

    def _predict(self, encoder: Encoder, x: Tensor, valid_BN: Tensor, plan: MaskPlan) -> Tensor:
        """Predictor output at every place of the grid, [M, N, E]; unspecified at padding."""
        assert isinstance(encoder, Maskable)
        compact = self.config.position_mode == "compact"
        prefix = encoder.grid(x.shape[1]).prefix
        all_valid_BN = F.pad(valid_BN, (prefix, 0), value=True)
        tok_MKD = encoder.encode_visible(x, plan.keep_MK, all_valid_BN, compact=compact)[:, prefix:]
        visible_MKE = self.project(tok_MKD)
        views, grid = plan.keep_MK.shape[0] // valid_BN.shape[0], valid_BN.shape[1]
        # What fills up short clips lands on a padding token, which nothing attends to.
        full_MNE = self.mask_token.to(visible_MKE.dtype).expand(len(plan.keep_MK), grid, -1)
        full_MNE = full_MNE.scatter(1, across(plan.keep_MK, visible_MKE), visible_MKE)
        hidden_MNE: Tensor = self.predictor(full_MNE, valid_BN.repeat_interleave(views, 0))
        return hidden_MNE

    def _logits(self, hidden_MNE: Tensor, index_MJ: Tensor | None = None) -> Tensor:
        """Code logits in fp32, of the tokens `index_MJ` or of all."""
        if index_MJ is not None:
            hidden_MNE = hidden_MNE.gather(1, across(index_MJ, hidden_MNE))
        logit: Tensor = self.to_codes(self.norm(hidden_MNE))
        return logit.float()

    # ------------------------------------------------------------------ before and after training

    @torch.no_grad()
    def prepare(self, model: Model, batches: Iterable[FeatureBatch]) -> dict[str, float]:
        """Look at the codes of some batches before training; remember how frequent each is.

        A tokenizer that gives nearly every patch the same few codes makes an easy, empty task, and
        the loss curve looks excellent. Each rank must pass the same batches: the frequencies are
        stored, and are not averaged over ranks.

        Returns:
            `tokens`, `codes_used`, `codes`, `entropy_nats`, `perplexity`, `least_perplexity`.

        Raises:
            RecipeError: the perplexity is below the recipe's threshold, or there are no batches.
        """
        seen = [(batch, valid_places(batch, model.encoder)[0]) for batch in batches]
        self.tokenizer.fit([(batch.x, valid_BN) for batch, valid_BN in seen])
        count_V = torch.zeros_like(self.unigram_V, dtype=torch.int64)
        for batch, valid_BN in seen:
            code_BN = self.tokenizer(batch.x, batch.steps_B)
            count_V += codebook_usage(code_BN, valid_BN, len(count_V)).count_V
        usage = CodebookUsage(count_V)
        least = self.config.least_perplexity
        if usage.perplexity < least or not usage.tokens:
            raise RecipeError(_badly_used(usage, least, self.tokenizer.remedy))
        # Half a count for each code, so that a code never seen has a finite cost.
        self.unigram_V.copy_((count_V + 0.5) / (usage.tokens + 0.5 * len(count_V)))
        return usage.as_dict() | {"least_perplexity": least}

    @torch.no_grad()
    def inspect(self, batch: FeatureBatch, encoder: Encoder) -> dict[str, Tensor]:
        """One masked view of each clip, for people to look at.

        Returns:
            [B, N] tensors: `mask_BN` (bool: hidden from the encoder), `valid_BN` (bool), `code_BN`
            (the targets) and `predicted_BN` (the likeliest code of every token, visible or not).
        """
        valid_BN, _ = valid_places(batch, encoder)
        plan = draw_masks(valid_BN, self._kept(valid_BN.shape[1]), batch.keys())
        hidden_BNE = self._predict(encoder, batch.x, valid_BN, plan)
        mask_BN = valid_BN.scatter(1, plan.keep_MK, torch.zeros_like(plan.keep_valid_MK))
        return {
            "mask_BN": mask_BN,
            "valid_BN": valid_BN,
            "code_BN": self.tokenizer(batch.x, batch.steps_B),
            "predicted_BN": self._logits(hidden_BNE).argmax(-1),
        }

    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """Mask, target codes and predicted codes of each clip."""
        grid = model.encoder.grid(batch.x.shape[1])
        found = {k: v.cpu().numpy() for k, v in self.inspect(batch, model.encoder).items()}
        panels: list[list[Panel]] = []
        for row, valid_N in enumerate(found["valid_BN"]):
            mask_N, code_N, predicted_N = (
                found[f"{name}_BN"][row, valid_N] for name in ("mask", "code", "predicted")
            )
            tokens = TokenPanel(grid.token_s, grid.bands, mask_N, code_N, predicted_N)
            panels.append([tokens])
        return panels

    def terms(self, grid: Grid) -> float:
        """About as many as there are places."""
        return float(grid.places)

    def flops(self, model: Model, grid: Grid) -> float:
        """Forward and backward of encoder and predictor, for all masked views, and the tokenizer's
        forward pass; see `Objective.flops`.
        """
        places = grid.places
        kept = self._kept(places)
        width = self.project.out_features
        ends = 2 * kept * model.encoder.dim * width
        ends += 2 * (places - kept) * width * self.config.tokenizer.codebook_size
        view = model.encoder.clip_flops(grid, kept) + self.predictor.flops(places) + ends
        return float(3 * self.config.masks_per_clip * view + self.tokenizer.flops(grid))


def _badly_used(usage: CodebookUsage, least: float, remedy: str) -> str:
    if not usage.tokens:
        return "the codebook check got no tokens: is the dataset empty, or are all clips silent?"
    size = len(usage.count_V)
    message = (
        f"the tokenizer uses its codebook badly: perplexity {usage.perplexity:.0f} over "
        f"{usage.tokens} tokens ({usage.unique} of {size} codes occur), at least {least:.0f} is "
        f"wanted (objective.min_perplexity). Most patches would share a few codes, and guessing "
        f"those would be learnt instead of sound. {remedy}; "
        f"check that encoder.mel_mean and encoder.mel_std fit the data, and that the clips are not "
        f"mostly silence; or use fewer codes (objective.tokenizer.codebook_size)"
    )
    if usage.tokens < 10 * size:
        message += f". {usage.tokens} tokens are few for {size} codes: check over more clips"
    return message
