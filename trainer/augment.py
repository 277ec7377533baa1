"""Noise and mixup on the device, in float32, before the front end.

Shape legend: B clips, T samples, P label pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dawnchorus.trainer.augment_config import AugmentConfig
from dawnchorus.trainer.seeds import Use, symmetric_betas, uniforms

# Mean power below which a clip counts as silent: half of the last bit of 16-bit audio, squared.
_SILENT = (0.5 / 32768) ** 2


def _valid(length_B: Tensor, samples: int) -> Tensor:
    return torch.arange(samples, device=length_B.device) < length_B[:, None]


def _power(wav_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """Mean square over the valid samples, [B]."""
    count_B = valid_BT.sum(1).clamp(min=1)
    return (wav_BT.square() * valid_BT).sum(1) / count_B


def add_noise(wav_BT: Tensor, length_B: Tensor, noise_BT: Tensor, snr_db_B: Tensor) -> Tensor:
    """Add noise at a ratio of powers: 10 log10(P_signal / P_noise) = snr_db.

    Both powers are taken over the clip's valid samples, and only those get noise, so that padding
    stays silent. If signal or noise is silent, the ratio is undefined and the clip is not changed.
    The sum may leave [-1, 1]: the front end is scale-free up to its floor, so nothing is clipped.

    Args:
        wav_BT: float waveform.
        length_B: valid samples.
        noise_BT: float noise of the same length.
        snr_db_B: signal-to-noise ratio in dB; infinite for no noise.

    Returns:
        [B, T], float32.
    """
    wav_BT, noise_BT = wav_BT.float(), noise_BT.float()
    valid_BT = _valid(length_B, wav_BT.shape[1])
    signal_B, noise_B = _power(wav_BT, valid_BT), _power(noise_BT, valid_BT)
    usable_B = (signal_B > _SILENT) & (noise_B > _SILENT) & torch.isfinite(snr_db_B)
    ratio_B = 10.0 ** (torch.where(usable_B, snr_db_B, 0.0).float() / 10.0)
    gain_B = (signal_B / (noise_B.clamp(min=_SILENT) * ratio_B)).sqrt() * usable_B
    return wav_BT + gain_B[:, None] * noise_BT * valid_BT


def mixup(
    wav_BT: Tensor, length_B: Tensor, labels_P2: Tensor, key_B: Tensor, *, config: AugmentConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix some of the clips with their partners, and unite the labels.

    Positions 2 k and 2 k + 1 are partners: two neighbours of the shuffled stream, which are never
    in different micro-batches. Each clip is mixed with probability `mixup_prob`, independently of
    the others, and with the unmixed partner: x = s x_i + (1 - s) x_j with s ~ Beta(alpha, alpha).
    The decision and s follow from the clip's key, so they do not depend on the rest of the batch,
    and nothing waits for the host.

    Args:
        wav_BT: float waveform, zero behind a clip's end; whole pairs, the even position first.
        length_B: valid samples, int64.
        labels_P2: (row, class), int64.
        key_B: key of each clip's random numbers, int64 (`FeatureBatch.key_B`).
        config: probability and alpha.

    Returns:
        Mixed waveforms, within the range of the inputs; the longer of both lengths; the united
        labels [2 P, 2]. These are a set; pairs may repeat: an unmixed row has its own twice.

    Raises:
        ValueError: the number of clips is odd.
    """
    wav_BT, count, device = wav_BT.float(), len(wav_BT), wav_BT.device
    if count % 2:
        raise ValueError(f"mixup needs whole pairs of clips; this batch has {count}")
    chosen_B = uniforms(key_B, Use.MIX, 0) < config.mixup_prob
    partner_B = torch.arange(count, device=device) ^ 1
    own_B = symmetric_betas(config.mixup_alpha, key_B, Use.MIX, 1).float()
    mixed_BT = torch.lerp(wav_BT[partner_B], wav_BT, own_B[:, None])
    mixed_BT = torch.where(chosen_B[:, None], mixed_BT, wav_BT)
    length_B = torch.where(chosen_B, torch.maximum(length_B, length_B[partner_B]), length_B)
    # A row's labels also go to the row whose partner it is.
    taker_P = labels_P2[:, 0] ^ 1
    row_P = torch.where(chosen_B[taker_P], taker_P, labels_P2[:, 0])
    taken_P2 = torch.stack([row_P, labels_P2[:, 1]], dim=1)
    return mixed_BT, length_B, torch.cat([labels_P2, taken_P2])
