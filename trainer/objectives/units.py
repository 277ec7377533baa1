"""Units: clusters of frames of sound, which HuBERT's masked prediction has as targets.

Shape legend: B clips, T frames, N tokens, F mel bins, C cepstra, D features, R rows, V units.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dawnchorus.trainer.frontends.kaldi import BeatsLogMel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dawnchorus.trainer.encoders.base import Encoder, Grid

MEL_BINS, CEPSTRA, LIFTER = 23, 13, 22.0
"""Kaldi's (and torchaudio's) defaults of MFCC, which HuBERT uses."""
_ROWS = 4096
"""Number of rows that are compared with the centres at a time."""


def differences(x_BTD: Tensor, frames_B: Tensor) -> Tensor:
    """Return the slope of each feature over five frames (torchaudio's `compute_deltas`).

    A clip's first and last own frames are repeated beyond its ends.
    """
    frame_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    last_B1 = (frames_B - 1)[:, None]
    slope_BTD = torch.zeros_like(x_BTD)
    for step in (1, 2):
        after, before = (
            x_BTD.gather(
                1,
                torch.minimum((frame_T + way).clamp(min=0), last_B1)[..., None].expand_as(x_BTD),
            )
            for way in (step, -step)
        )
        slope_BTD += step * (after - before)
    return slope_BTD / 10


class Mfcc(nn.Module):
    """13 Kaldi MFCC of a waveform with first and second differences, 39 numbers per 10 ms.

    Args:
        sample_rate_hz: of the waveform.
    """

    transform_FC: Tensor

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        # With mean 0 and standard deviation 0.5 the front end returns the log-mel itself.
        self.log_mel = BeatsLogMel(sample_rate_hz, MEL_BINS, 0.0, 0.5)
        place_F1 = torch.arange(MEL_BINS)[:, None] + 0.5
        number_C = torch.arange(CEPSTRA)
        cosine_FC = (math.pi / MEL_BINS * place_F1 * number_C).cos() * math.sqrt(2 / MEL_BINS)
        cosine_FC[:, 0] = math.sqrt(1 / MEL_BINS)
        lifter_C = 1 + LIFTER / 2 * (math.pi / LIFTER * number_C).sin()
        self.register_buffer("transform_FC", cosine_FC * lifter_C, persistent=False)

    @torch.no_grad()
    def forward(self, wav_BT: Tensor, samples_B: Tensor, grid: Grid) -> Tensor:
        """Return the features of the 25 ms from the start of each token, [B, N, 39] float32."""
        mel_BTF, frames_B = self.log_mel(wav_BT, samples_B)
        with torch.autocast(wav_BT.device.type, enabled=False):
            cepstrum_BTC = mel_BTF @ self.transform_FC.float()
            first_BTC = differences(cepstrum_BTC, frames_B)
            all_BTD = torch.cat([cepstrum_BTC, first_BTC, differences(first_BTC, frames_B)], -1)
        token_N = torch.arange(grid.times, device=wav_BT.device)
        frame_N = (token_N * (grid.token_s / self.log_mel.hop_s) + 0.5).long()
        return all_BTD[:, frame_N.clamp(max=all_BTD.shape[1] - 1)]


class Layer(nn.Module):
    """The output of one layer of a frozen encoder.

    Args:
        encoder: the encoder. Its weights do not change, and the checkpoint has them.
        layer: number of the layer; 0 is the input of the first block.
    """

    def __init__(self, encoder: Encoder, layer: int) -> None:
        super().__init__()
        self.encoder, self.layer = encoder.eval().requires_grad_(False), layer

    @torch.no_grad()
    def forward(self, x: Tensor, steps_B: Tensor, grid: Grid) -> Tensor:
        """Return the layer's tokens, [B, N, D] float32."""
        del grid
        with torch.autocast(x.device.type, enabled=False):
            layers = self.encoder(x, steps_B, layers=True).layers
        assert layers is not None
        layer_BND: Tensor = layers[self.layer]
        return layer_BND.float()


class Clusters(nn.Module):
    """Centres of k-means. The unit of a token is the number of its nearest centre."""

    centre_VD: Tensor

    def __init__(self, codes: int, dim: int, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("centre_VD", torch.zeros(codes, dim))

    @torch.no_grad()
    def forward(self, feature_BND: Tensor) -> Tensor:
        """Return the units [B, N], int64."""
        with torch.autocast(feature_BND.device.type, enabled=False):
            centre_VD = self.centre_VD.float()
            square_V = centre_VD.square().sum(1)
            rows = torch.split(feature_BND.float().flatten(0, 1), _ROWS)
            # |x - c|^2 without |x|^2, which is the same for every centre.
            found = [torch.addmm(square_V, r, centre_VD.T, alpha=-2).argmin(1) for r in rows]
        return torch.cat(found).view(feature_BND.shape[:2])

    @torch.no_grad()
    def fit(self, rows: Sequence[Tensor]) -> None:
        """Find the centres of the given features [R, D]. All ranks get the same centres.

        Minibatch k-means with HuBERT's numbers (fairseq, `learn_kmeans.py`).
        """
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(
            len(self.centre_VD), init="k-means++", max_iter=100, batch_size=10000, tol=0.0,
            max_no_improvement=100, n_init=20, reassignment_ratio=0.0, random_state=self.seed,
        )  # fmt: skip
        means.fit(torch.cat(list(rows)).cpu().double().numpy())
        self.centre_VD.copy_(torch.from_numpy(means.cluster_centers_))
        if dist.is_initialized():
            # Another machine may round sums differently.
            dist.broadcast(self.centre_VD, 0)
