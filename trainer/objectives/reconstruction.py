"""Reconstruction: from a quarter of the patches of a spectrogram, draw the others.

MAE: He et al., "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377); of sound
AudioMAE (arXiv 2207.06405), Bird-MAE (arXiv 2504.12880) and XenoMAE. The encoder sees the visible
patches alone; a decoder gets its tokens at their places and a learned token at the others, and
draws the hidden patches.

Shape legend: B clips, M = k B masked views, T frames, F mel bins, N tokens of the grid (without
CLS), L tokens with CLS, J masked tokens, P pixels of a patch, E width of the decoder.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
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
from dawnchorus.trainer.objectives.maskers import ranks
from dawnchorus.trainer.objectives.masking import (
    MaskPlan,
    across,
    draw_masks,
    keep_count,
    valid_places,
)
from dawnchorus.trainer.objectives.reconstruction_config import ReconstructionConfig
from dawnchorus.trainer.panels import ImagePanel, Panel, TokenPanel

_NORM_EPS = 1e-6
"""Of the decoder's last norm (MAE)."""


class Reconstruction(Objective):
    """Decoder and loss; the encoder itself belongs to the model.

    Args:
        config: the objective's numbers.
        encoder: one that is `Maskable`; only its numbers are kept.

    Raises:
        RecipeError: the decoder's width does not go with its heads.
    """

    config: ReconstructionConfig

    def __init__(self, config: ReconstructionConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, Maskable)
        self.config, self.patch = config, encoder.config.patch
        width, prefix = config.decoder_dim, encoder.config.prefix
        self.project = nn.Linear(encoder.dim, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        # CLS goes on into the decoder, as in MAE: its last layer would learn nothing otherwise.
        options = {"heads": config.decoder_heads} | ({"prefix": prefix} if prefix else {})
        try:
            self.decoder = encoder.stack(config.decoder_layers, width, **options)
        except ValueError as error:
            raise RecipeError(f"objective.decoder_dim: {error}") from None
        self.norm = nn.LayerNorm(width, _NORM_EPS)
        self.to_pixels = nn.Linear(width, self.patch**2)
        for linear in (self.project, self.to_pixels):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    @classmethod
    def build(cls, config: ReconstructionConfig, model: Model, context: Context) -> Self:
        """See `Objective.build`."""
        del context
        return cls(config, model.encoder)

    # ------------------------------------------------------------------ the step

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Mean squared error of each masked valid patch, summed over them, and their number.

        Logs: `loss`; `flat_loss`, that of patches without any structure on the same places, which
        is near 1 for normalised patches, less where they are silent: what training has to leave.

        Args:
            batch: spectrogram, steps and keys, from which the masks follow.
            model: whose encoder is trained.
            frozen: nothing to be frozen for: this objective has no head.

        Raises:
            ValueError: the batch has no keys.
        """
        del frozen
        views = self.config.masks_per_clip
        valid_BN, grid = valid_places(batch, model.encoder)
        plan = self._plan(valid_BN, grid, batch.keys())
        drawn_MJP = self._draw(model.encoder, batch.x, valid_BN, grid, plan)
        pixel_BNP = self._targets(batch.x if batch.clean is None else batch.clean, grid)[0]
        index = plan.masked_MJ.view(len(valid_BN), -1, 1).expand(-1, -1, pixel_BNP.shape[-1])
        target_MJP = pixel_BNP.gather(1, index).view_as(drawn_MJP)
        counts_MJ = plan.masked_valid_MJ
        if batch.real_B is not None:
            counts_MJ = counts_MJ & batch.real_B.repeat_interleave(views)[:, None]
        error_MJ = (drawn_MJP - target_MJP).square().mean(-1)
        loss_sum, count = error_MJ.masked_fill(~counts_MJ, 0.0).sum(), counts_MJ.sum()
        flat_MJ = target_MJP.var(-1, correction=0)
        logs = {
            "loss": (loss_sum.detach(), count),
            "flat_loss": (flat_MJ.masked_fill(~counts_MJ, 0.0).sum(), count),
        }
        return StepOutput(loss_sum, count, logs)

    def _plan(self, valid_BN: Tensor, grid: Grid, key_B: Tensor) -> MaskPlan:
        c = self.config
        rank_MN = ranks(
            c.masker, valid_BN, grid.bands, key_B, views=c.masks_per_clip,
            block_share=c.block_share, band_share=c.band_share, point_share=c.point_share,
        )  # fmt: skip
        kept = self._kept(grid)
        return draw_masks(valid_BN, kept, key_B, views=c.masks_per_clip, rank_MN=rank_MN)

    def _kept(self, grid: Grid) -> int:
        return keep_count(grid.places, self.config.mask_ratio, self.config.keep_multiple_of)

    @torch.no_grad()
    def _targets(self, x_BTF: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """What each patch should be drawn as, [B, N, P] float32, and with which mean and deviation
        it becomes the spectrogram again, [B, N, 1] each.

        The variance is that over P - 1 pixels, as in MAE's code.
        """
        x_BTF = x_BTF[:, : grid.times * self.patch].float()
        pixel_BNP = rearrange(
            x_BTF, "b (t u) (f v) -> b (t f) (u v)", u=self.patch, v=self.patch, f=grid.bands
        )
        mean_BN1 = torch.zeros_like(pixel_BNP[..., :1])
        std_BN1 = torch.ones_like(mean_BN1)
        if self.config.normalise_pixels:
            variance_BN1, mean_BN1 = torch.var_mean(pixel_BNP, -1, keepdim=True)
            std_BN1 = (variance_BN1 + self.config.pixel_eps).sqrt()
        return (pixel_BNP - mean_BN1) / std_BN1, mean_BN1, std_BN1

    def _draw(
        self, encoder: Encoder, x: Tensor, valid_BN: Tensor, grid: Grid, plan: MaskPlan
    ) -> Tensor:
        """Pixels of the masked places, [M, J, P] float32; unspecified where they only fill up."""
        assert isinstance(encoder, Maskable)
        prefix, views = grid.prefix, self.config.masks_per_clip
        valid_BL = F.pad(valid_BN, (prefix, 0), value=True)
        tok_MLE = self.project(encoder.encode_visible(x, plan.keep_MK, valid_BL))
        front_ME, visible_MKE = tok_MLE[:, :prefix], tok_MLE[:, prefix:]
        # What fills up short clips lands on a padding token, which nothing attends to.
        full_MNE = self.mask_token.to(tok_MLE.dtype).expand(len(tok_MLE), grid.places, -1)
        full_MNE = full_MNE.scatter(1, across(plan.keep_MK, visible_MKE), visible_MKE)
        full_MLE = torch.cat([front_ME, full_MNE], 1)
        hidden_MLE = self.decoder(full_MLE, valid_BL.repeat_interleave(views, 0))
        hidden_MJE = hidden_MLE.gather(1, across(plan.masked_MJ + prefix, hidden_MLE))
        drawn_MJP: Tensor = self.to_pixels(self.norm(hidden_MJE))
        return drawn_MJP.float()

    # ------------------------------------------------------------------ to look at, to count

    @torch.no_grad()
    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """What the encoder takes of each clip, what it sees of that in the first view, and what is
        drawn at the hidden places, with each patch's own level and contrast.
        """
        valid_BN, grid = valid_places(batch, model.encoder)
        plan = self._plan(valid_BN, grid, batch.keys())
        drawn_MJP = self._draw(model.encoder, batch.x, valid_BN, grid, plan)
        pixel_BNP, mean_BN1, std_BN1 = self._targets(batch.x, grid)
        real_BNP = pixel_BNP * std_BN1 + mean_BN1
        step_s, panels = grid.token_s / self.patch, list[list[Panel]]()
        for row, valid_N in enumerate(valid_BN):
            first = row * self.config.masks_per_clip
            place_J = plan.masked_MJ[first][plan.masked_valid_MJ[first]]
            mask_N = torch.zeros_like(valid_N).index_fill(0, place_J, True)
            seen_NP = real_BNP[row].masked_fill(mask_N[:, None], float(real_BNP[row].min()))
            drawn_NP = torch.zeros_like(seen_NP)
            drawn_NP[place_J] = drawn_MJP[first][: len(place_J)]
            drawn_NP = drawn_NP * std_BN1[row] + mean_BN1[row]
            drawn_NP = drawn_NP.where(mask_N[:, None], real_BNP[row])
            images: list[Panel] = [
                ImagePanel(title, self._picture(image_NP[valid_N], grid.bands), step_s)
                for title, image_NP in (
                    ("what the encoder takes", real_BNP[row]),
                    ("what it sees", seen_NP),
                    ("what is drawn at the hidden places", drawn_NP),
                )
            ]
            mask = TokenPanel(grid.token_s, grid.bands, mask_N[valid_N].cpu().numpy())
            panels.append([mask, *images])
        return panels

    def _picture(self, pixel_NP: Tensor, bands: int) -> NDArray[np.float16]:
        """Patches back to a spectrogram [T, F]."""
        side = self.patch
        image = rearrange(pixel_NP, "(t f) (u v) -> (t u) (f v)", f=bands, u=side, v=side)
        picture: NDArray[np.float16] = image.cpu().numpy().astype(np.float16)
        return picture

    def terms(self, grid: Grid) -> float:
        """Masked patches of all views."""
        return float(self.config.masks_per_clip * (grid.places - self._kept(grid)))

    def flops(self, model: Model, grid: Grid) -> float:
        """Forward and backward of encoder and decoder, for all masked views; see
        `Objective.flops`.
        """
        kept, width = self._kept(grid), self.config.decoder_dim
        ends = 2 * (grid.prefix + kept) * model.encoder.dim * width
        ends += 2 * (grid.places - kept) * width * self.patch**2
        decoder = self.decoder.flops(grid.tokens)
        view = model.encoder.clip_flops(grid, kept) + decoder + ends
        return float(3 * self.config.masks_per_clip * view)
