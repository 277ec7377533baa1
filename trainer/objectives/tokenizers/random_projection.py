"""The random-projection tokenizer: log-mel in, one discrete code per patch out.

Shape legend: B clips, T frames, F mel bins, N tokens (n = bands x t + f, as in the encoder),
K pixels of a patch, P patch channels, D code width, V codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.objectives.tokenizers.base import Tokenizer
from dawnchorus.trainer.objectives.tokenizers.random_projection_config import (
    RandomProjectionConfig,
)

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base import Grid

_ROWS = 4096
"""Patches compared with the codebook at a time: 16 MB of distances to 1024 codes."""


class RandomProjectionTokenizer(Tokenizer):
    """Frozen random projection of each patch to the nearest of random codes.

    Patch convolution (Xavier-normal, no bias), layer norm, linear map (Xavier-normal, no bias),
    layer norm, then the nearest row (L2) of a codebook ~ N(0, 1); the norms have no parameters
    (BEATs, "cold start" tokenizer; BEST-RQ, Chiu et al. 2022; ESPnet's `random_tokenizer`).

    Weights are persistent fp32 buffers from a generator of their own: the codes depend on the
    config alone, not on what was drawn before, not on the precision of training, and a checkpoint
    carries them. (Kept as parameters and cast to bf16, a codebook is known to collapse.)

    Args:
        config: sizes and seed.
        patch: side of a patch, in frames and mel bins; the encoder's.
    """

    config: RandomProjectionConfig
    patch_PK: Tensor
    project_DP: Tensor
    codebook_VD: Tensor
    mean_K: Tensor
    whiten_KK: Tensor

    def __init__(self, config: RandomProjectionConfig, *, patch: int = 16) -> None:
        super().__init__(config, patch=patch)
        pixels, hidden, width = patch * patch, config.patch_dim, config.codebook_dim
        generator = torch.Generator().manual_seed(config.seed)

        def normal(rows: int, columns: int, std: float) -> Tensor:
            return torch.empty(rows, columns).normal_(0.0, std, generator=generator)

        # Xavier's fan-out of a convolution counts its kernel: channels x pixels.
        self.register_buffer(
            "patch_PK", normal(hidden, pixels, (2 / (pixels + hidden * pixels)) ** 0.5)
        )
        self.register_buffer("project_DP", normal(width, hidden, (2 / (hidden + width)) ** 0.5))
        self.register_buffer("codebook_VD", normal(config.codebook_size, width, 1.0))
        # What `fit` finds; the identity until then, and for ever with `whiten: 0`.
        self.register_buffer("mean_K", torch.zeros(pixels))
        self.register_buffer("whiten_KK", torch.eye(pixels))

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> RandomProjectionTokenizer:
        """Follow moves to another device, but no cast: the codes must not change."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self

    def _pixels(self, mel_BTF: Tensor) -> Tensor:
        """The patches [B, N, K] in the order of the encoder's tokens, n = bands t + band.

        Raises:
            ValueError: fewer frames than a patch, or mel bins that are no multiple of it.
        """
        side, bins = self.patch, mel_BTF.shape[2]
        columns = mel_BTF.shape[1] // side
        if columns < 1 or bins % side:
            raise ValueError(
                f"log-mel of shape {tuple(mel_BTF.shape)}: expected at least {side} frames and a "
                f"multiple of {side} mel bins"
            )
        return (
            mel_BTF[:, : columns * side]
            .float()
            .reshape(len(mel_BTF), columns, side, bins // side, side)
            .transpose(2, 3)
            .reshape(len(mel_BTF), columns * (bins // side), side * side)
        )

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Find the principal directions of the corpus' patches, once, before the first step.

        Args:
            batches: normalised log-mel [B, T, F] and valid tokens [B, N]; every rank must pass the
                same ones.
        """
        if self.config.whiten == 0:
            return
        pixels = len(self.mean_K)
        count, total_K = 0.0, torch.zeros(pixels, dtype=torch.float64)
        square_KK = torch.zeros(pixels, pixels, dtype=torch.float64)
        for mel_BTF, valid_BN in batches:
            pixel_RK = self._pixels(mel_BTF)[valid_BN].double().cpu()
            count += len(pixel_RK)
            total_K += pixel_RK.sum(0)
            square_KK += pixel_RK.T @ pixel_RK
        mean_K = total_K / count
        variance_K, direction_KK = torch.linalg.eigh(square_KK / count - mean_K.outer(mean_K))
        # Directions below a thousandth of the strongest are the encoder noise of quiet patches.
        scale_K = variance_K.clamp(min=1e-3 * float(variance_K[-1])) ** (-self.config.whiten / 2)
        self.mean_K.copy_(mean_K)
        self.whiten_KK.copy_((direction_KK * scale_K) @ direction_KK.T)

    @torch.no_grad()
    def forward(self, mel_BTF: Tensor, steps_B: Tensor | None = None) -> Tensor:
        """See `Tokenizer.forward`; frames that fill no patch are dropped.

        Raises:
            ValueError: fewer frames than a patch, or mel bins that are no multiple of it.
        """
        with torch.autocast(mel_BTF.device.type, enabled=False):
            # Patches do not overlap, so the convolution is a matrix product; written as one, it
            # stays clear of TF32, which PyTorch allows convolutions by default.
            pixel_BNK = self._pixels(mel_BTF)
            codes = [self._nearest(rows) for rows in torch.split(pixel_BNK.flatten(0, 1), _ROWS)]
        return torch.cat(codes).view(pixel_BNK.shape[:2])

    def flops(self, grid: Grid) -> float:
        """See `Tokenizer.flops`."""
        sizes = self.config
        to_code = sizes.codebook_dim * (sizes.patch_dim + sizes.codebook_size)
        return float(2 * grid.places * (sizes.patch_dim * self.patch**2 + to_code))

    @property
    def remedy(self) -> str:
        """See `Tokenizer.remedy`."""
        return (
            f"Change objective.tokenizer.seed (now {self.config.seed}), or raise "
            f"objective.tokenizer.whiten"
        )

    def _nearest(self, pixel_RK: Tensor) -> Tensor:
        if self.config.whiten > 0:
            pixel_RK = (pixel_RK - self.mean_K) @ self.whiten_KK
        x_RP = F.layer_norm(pixel_RK @ self.patch_PK.T, (self.config.patch_dim,))
        z_RD = F.layer_norm(x_RP @ self.project_DP.T, (self.config.codebook_dim,))
        # |z - v|^2 without |z|^2, which is the same for every code.
        distance_RV = torch.addmm(
            self.codebook_VD.square().sum(1), z_RD, self.codebook_VD.T, alpha=-2
        )
        return distance_RV.argmin(1)
