"""Utterance-frame pre-training: from a fifth of a clip, predict a teacher's tokens of the whole.

EAT: Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer" (arXiv
2401.03497), and its code. The teacher is the moving average of the encoder and hears the whole
clip. The encoder sees a few squares of it, in several masked views. A small convolutional decoder
predicts the teacher's tokens at the masked places (frame loss). The encoder's own vector of the
clip predicts the mean of the teacher's tokens (utterance loss).

Shape legend: B clips, M = k B masked views, T columns, F bands, N tokens of the grid (without CLS),
K visible tokens, J masked tokens, D width of the encoder, E width of the decoder, R rows of noise.
"""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dawnchorus.trainer.checkpoints.sharded_tensors import local
from dawnchorus.trainer.encoders.base import Encoder, Grid, Maskable, Stack
from dawnchorus.trainer.objectives.base import (
    Context,
    FeatureBatch,
    Model,
    Objective,
    StepOutput,
)
from dawnchorus.trainer.objectives.masking import (
    MaskPlan,
    across,
    block_cover,
    draw_masks,
    keep_count,
    valid_places,
)
from dawnchorus.trainer.objectives.utterance_frame_config import UtteranceFrameConfig
from dawnchorus.trainer.panels import ImagePanel, Panel, TokenPanel
from dawnchorus.trainer.seeds import Use, mix_seeds

_NORM_EPS = 1e-5
"""Epsilon of the norms without weights, in targets and decoder (torch's default, as in EAT)."""
_NOISE_ROWS = 4096


class ConvBlock(nn.Module):
    """A convolution over the grid, a norm over channels and a GELU, added to the input."""

    def __init__(self, dim_in: int, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x_MTFD: Tensor, valid_MTF: Tensor | None) -> Tensor:
        """Run the block. Padding counts as zero, like everything outside of the grid."""
        seen = x_MTFD if valid_MTF is None else x_MTFD * valid_MTF[..., None]
        y_MTFE = self.conv(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y_MTFE = F.gelu(F.layer_norm(y_MTFE, y_MTFE.shape[-1:], eps=_NORM_EPS))
        return y_MTFE + x_MTFD if y_MTFE.shape == x_MTFD.shape else y_MTFE


class ConvDecoder(Stack):
    """A few convolutions over the grid of tokens, and a linear layer back to their width."""

    def __init__(self, config: UtteranceFrameConfig, dim: int) -> None:
        super().__init__()
        width = config.decoder_dim or dim
        self.layers = nn.ModuleList(
            ConvBlock(dim if i == 0 else width, width, config.decoder_kernel, config.decoder_groups)
            for i in range(config.decoder_layers)
        )
        self.proj = nn.Linear(width, dim)

    def blocks(self) -> list[nn.Module]:
        """The convolutions."""
        return list(self.layers)

    def forward(self, x_MND: Tensor, valid_MN: Tensor | None, bands: int) -> Tensor:
        """Return the tokens before the last linear layer, [M, N, E]."""
        x: Tensor = rearrange(x_MND, "m (t f) d -> m t f d", f=bands)
        valid_MTF = None if valid_MN is None else valid_MN.view(x.shape[:3])
        for block in self.layers:
            x = block(x, valid_MTF)
        return x.flatten(1, 2)

    def flops(self, tokens: int) -> int:
        """See `Stack.flops`; the last linear layer is not among them."""
        return 2 * tokens * sum(p.numel() for p in self.layers.parameters() if p.dim() == 4)


class UtteranceFrame(Objective):
    """Teacher, decoder and losses; the encoder itself belongs to the model.

    Args:
        config: the objective's numbers.
        encoder: one that is `Maskable`; the teacher begins as a copy of it.
    """

    config: UtteranceFrameConfig
    noise_RD: Tensor

    def __init__(self, config: UtteranceFrameConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, Maskable)
        self.config = config
        self.decoder = ConvDecoder(config, encoder.dim)
        # The teacher is part of the state, so that a checkpoint has it, but gets no gradients.
        self.teacher = type(encoder)(encoder.config)
        self.teacher.load_state_dict(encoder.state_dict())
        self.teacher.requires_grad_(False).eval()
        generator = torch.Generator().manual_seed(0)
        noise_RD = torch.randn(_NOISE_ROWS, encoder.dim, generator=generator)
        self.register_buffer("noise_RD", noise_RD * config.filler_std, persistent=False)

    @classmethod
    def build(cls, config: UtteranceFrameConfig, model: Model, context: Context) -> Self:
        """See `Objective.build`; the teacher begins with the first weights of the encoder."""
        del context
        return cls(config, model.encoder)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as torch does, but leave the teacher in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    # ------------------------------------------------------------------ the step

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Both losses of all masked views, weighted, summed over masked valid tokens.

        The error of a view's clip vector counts once for each masked token of the view, so that
        the quotient is `frame_weight` x (mean over masked tokens) + `utterance_weight` x (mean
        over views, where the views of longer clips count for more).

        Logs: `loss`, `frame_loss`, `utterance_loss`; `target_std` and `prediction_std`, how much a
        channel varies over the tokens of a clip: near 0 where training collapses. A prediction of
        zeros has a frame loss of the square root of the channels.

        Args:
            batch: spectrogram, steps and keys, from which masks and noise follow.
            model: whose encoder is trained.
            frozen: nothing to be frozen for: this objective has no head.

        Raises:
            ValueError: the batch has no keys.
        """
        del frozen
        views = self.config.masks_per_clip
        valid_BN, grid = valid_places(batch, model.encoder)
        target_BND, clip_BD, spread_B = self._targets(batch, valid_BN, grid)
        plan = self._plan(valid_BN, grid, batch.keys())
        predicted_MJD, vector_MD = self._predict(model.encoder, batch, valid_BN, grid, plan)
        counts_MJ = plan.masked_valid_MJ
        real_B = valid_BN.new_ones(len(valid_BN)) if batch.real_B is None else batch.real_B
        counts_MJ = counts_MJ & real_B.repeat_interleave(views)[:, None]
        index = plan.masked_MJ.view(len(valid_BN), -1, 1).expand(-1, -1, target_BND.shape[-1])
        target_MJD = target_BND.gather(1, index).view_as(predicted_MJD)
        frame_MJ = _error(predicted_MJD, target_MJD).masked_fill(~counts_MJ, 0.0)
        utterance_M = _error(vector_MD, clip_BD.repeat_interleave(views, 0))
        count_M, count = counts_MJ.sum(1), counts_MJ.sum()
        frame_sum, utterance_sum = frame_MJ.sum(), (utterance_M * count_M).sum()
        c = self.config
        loss_sum = c.frame_weight * frame_sum + c.utterance_weight * utterance_sum
        real = real_B.sum()
        prediction_std_M = _spread(predicted_MJD.detach().float(), counts_MJ)
        logs = {
            "loss": (loss_sum.detach(), count),
            "frame_loss": (frame_sum.detach(), count),
            "utterance_loss": (utterance_sum.detach(), count),
            "target_std": ((spread_B * real_B).sum(), real),
            "prediction_std": (prediction_std_M.sum(), real * views),
        }
        return StepOutput(loss_sum, count, logs)

    @torch.no_grad()
    def _targets(
        self, batch: FeatureBatch, valid_BN: Tensor, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the teacher's tokens [B, N, D] and their mean [B, D], float32, and how much a
        channel of the last block varies over the tokens before any norm, [B].
        """
        heard = batch.x if batch.clean is None else batch.clean
        if self.config.target == "feed_forward":
            taps: list[Tensor] = []
            self.teacher(heard, batch.steps_B, fed=taps)
        else:
            taps = self.teacher(heard, batch.steps_B, layers=True).layers[1:]
        taps = taps[-(self.config.average_layers or len(taps)) :]
        taps = [tap[:, grid.prefix :].float() for tap in taps]
        with torch.autocast(heard.device.type, enabled=False):
            total = torch.zeros_like(taps[0])
            for tap_BND in taps:
                mean_B1D, variance_B1D = _moments(tap_BND, valid_BN)
                total += (tap_BND - mean_B1D) * (variance_B1D + _NORM_EPS).rsqrt()
            target_BND = F.layer_norm(total / len(taps), total.shape[-1:], eps=_NORM_EPS)
            clip_BD = _moments(target_BND, valid_BN)[0][:, 0]
        return target_BND, clip_BD, _spread(taps[-1], valid_BN)

    def _plan(self, valid_BN: Tensor, grid: Grid, key_B: Tensor) -> MaskPlan:
        c, views = self.config, self.config.masks_per_clip
        cover_MN = block_cover(
            valid_BN, grid.bands, key_B, views=views, side=c.mask_block, share=c.visible_share
        )
        kept = self._kept(grid)
        return draw_masks(valid_BN, kept, key_B, views=views, rank_MN=~cover_MN)

    def _kept(self, grid: Grid) -> int:
        return keep_count(grid.places, self.config.mask_ratio, self.config.keep_multiple_of)

    def _predict(
        self, encoder: Encoder, batch: FeatureBatch, valid_BN: Tensor, grid: Grid, plan: MaskPlan
    ) -> tuple[Tensor, Tensor]:
        """Return the predicted tokens at the masked places [M, J, D] and the clip's vector [M, D].

        The vector is CLS, or the mean of the visible tokens if the encoder has no CLS. Both are
        float32.
        """
        assert isinstance(encoder, Maskable)
        views, prefix = self.config.masks_per_clip, grid.prefix
        all_valid = F.pad(valid_BN, (prefix, 0), value=True)
        tok_MLD = encoder.encode_visible(batch.x, plan.keep_MK, all_valid)
        tok_MKD = tok_MLD[:, prefix:]
        if prefix:
            vector_MD = tok_MLD[:, 0].float()
        else:
            vector_MD = _moments(tok_MKD.float(), plan.keep_valid_MK)[0][:, 0]
        full_MND = self._filler(batch.keys(), valid_BN.shape[1]).to(tok_MKD.dtype)
        # Entries that fill up short clips land on a padding token, which the decoder ignores.
        full_MND = full_MND.scatter(1, across(plan.keep_MK, tok_MKD), tok_MKD)
        padded = full_MND.device.type != "cpu" or not bool(valid_BN.all())
        valid_MN = valid_BN.repeat_interleave(views, 0) if padded else None
        hidden_MNE = self.decoder(full_MND, valid_MN, grid.bands)
        hidden_MJE = hidden_MNE.gather(1, across(plan.masked_MJ, hidden_MNE))
        predicted: Tensor = self.decoder.proj(hidden_MJE)
        return predicted.float(), vector_MD

    def _filler(self, key_B: Tensor, places: int) -> Tensor:
        """Return noise for every place of every view, [M, N, D].

        The clip's key chooses vectors of a table: drawing each number would cost a fifth of a step.
        """
        device = key_B.device
        view_k1 = torch.arange(self.config.masks_per_clip, device=device)[:, None]
        place_N = torch.arange(places, device=device)
        bits_BkN = mix_seeds(key_B[:, None, None], Use.FILLER, view_k1, place_N)
        return self.noise_RD[(bits_BkN % len(self.noise_RD)).flatten(0, 1)]

    # ------------------------------------------------------------------ after a step

    def decay_at(self, step: int) -> float:
        """Return the weight of the past in the teacher's update after step `step` (from 0)."""
        c = self.config
        share = min((step + 1) / c.teacher_anneal_steps, 1.0)
        return c.teacher_decay + (c.teacher_end_decay - c.teacher_decay) * share

    @torch.no_grad()
    def after_step(self, model: Model, step: int, total: int) -> None:
        """Move the teacher towards the encoder, in float32. Each rank moves its own rows."""
        del total
        theirs = [local(p.detach()).float() for p in model.encoder.parameters()]
        mine = [local(p) for p in self.teacher.parameters()]
        torch._foreach_lerp_(mine, theirs, 1.0 - self.decay_at(step))
        for own, other in zip(self.teacher.buffers(), model.encoder.buffers(), strict=True):
            own.copy_(other)

    # ------------------------------------------------------------------ to look at, to count

    @torch.no_grad()
    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """Show the first mask of each clip and the error of each predicted token."""
        valid_BN, grid = valid_places(batch, model.encoder)
        target_BND, _, _ = self._targets(batch, valid_BN, grid)
        plan = self._plan(valid_BN, grid, batch.keys())
        predicted_MJD, _ = self._predict(model.encoder, batch, valid_BN, grid, plan)
        views, panels = self.config.masks_per_clip, list[list[Panel]]()
        for row, valid_N in enumerate(valid_BN):
            first, place_J = row * views, plan.masked_MJ[row * views]
            place_J = place_J[plan.masked_valid_MJ[first]]
            error_J = _error(predicted_MJD[first][: len(place_J)], target_BND[row, place_J])
            error_N = torch.zeros(grid.places, device=error_J.device)
            error_N[place_J] = error_J / math.sqrt(target_BND.shape[-1])
            mask_N = torch.zeros_like(valid_N)
            mask_N[place_J] = True
            image_TF = error_N[valid_N].view(-1, grid.bands).cpu().numpy()
            panels.append(
                [
                    TokenPanel(grid.token_s, grid.bands, mask_N[valid_N].cpu().numpy()),
                    ImagePanel("prediction error (1: as a guess of zeros)", image_TF, grid.token_s),
                ]
            )
        return panels

    def terms(self, grid: Grid) -> float:
        """Return the number of masked tokens of all views."""
        return float(self.config.masks_per_clip * (grid.places - self._kept(grid)))

    def flops(self, model: Model, grid: Grid) -> float:
        """Count encoder and decoder forward and backward for all views, and the teacher's forward
        pass; see `Objective.flops`.
        """
        kept = self._kept(grid)
        ends = 2 * (grid.places - kept) * self.decoder.proj.weight.numel()
        view = model.encoder.clip_flops(grid, kept) + self.decoder.flops(grid.places) + ends
        return float(3 * self.config.masks_per_clip * view + self.teacher.clip_flops(grid))


def _error(x: Tensor, y: Tensor) -> Tensor:
    """Return the summed squared error of the last axis, divided by the root of its length."""
    return (x - y).square().sum(-1) / math.sqrt(x.shape[-1])


def _moments(x_BND: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (over n) of the valid tokens, [B, 1, D] each; 0 without tokens."""
    valid_BN1 = valid_BN[..., None]
    count_B11 = valid_BN1.sum(1, keepdim=True).clamp(min=1)
    mean_B1D = x_BND.masked_fill(~valid_BN1, 0.0).sum(1, keepdim=True) / count_B11
    deviation_BND = (x_BND - mean_B1D).masked_fill(~valid_BN1, 0.0)
    return mean_B1D, deviation_BND.square().sum(1, keepdim=True) / count_B11


def _spread(x_BND: Tensor, valid_BN: Tensor) -> Tensor:
    """Return the standard deviation over the valid tokens, averaged over channels, [B]."""
    return _moments(x_BND, valid_BN)[1].sqrt().mean((1, 2))
