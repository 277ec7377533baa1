"""What every encoder is built from: attention with a mask.

Self-contained (torch only): it is shipped inside exported models, beside the encoder that uses it.

Shape legend: B clips, H heads, L queries, S keys, C channels per head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

WITH_MASK = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""Kernels that may see a mask. cuDNN's may not: in torch 2.11 its gradient of the queries is NaN
where a mask is passed, L % 128 == 64 and a row's logsumexp is below -88.7 (pytorch#196678)."""


def attend(
    q_BHLC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k' / sqrt(C) + mask) v, by the best kernel that is right with a mask.

    Args:
        q_BHLC: queries.
        k_BHSC: keys, of the dtype of the queries.
        v_BHSC: values, of the dtype of the queries.
        mask: added to the scores, or bool (true: may be attended to); broadcast to [B, H, L, S].
            Every query needs at least one key. A mask of another floating-point dtype is cast to
            that of the queries: kernels misread it otherwise (pytorch#191612).
        dropout: probability that an attention weight is dropped; 0 in evaluation.

    Returns:
        [B, H, L, C], of the dtype of the queries.
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q_BHLC.dtype)
    if torch.compiler.is_exporting():
        # Written out: what leaves for another runtime has to be plain operations. The fused
        # kernel of the machine that exports assumes strides that an ONNX graph does not have.
        return _written_out(q_BHLC, k_BHSC, v_BHSC, mask, dropout)
    if mask is None:
        return F.scaled_dot_product_attention(q_BHLC, k_BHSC, v_BHSC, dropout_p=dropout)
    with sdpa_kernel(list(WITH_MASK)):
        return F.scaled_dot_product_attention(
            q_BHLC, k_BHSC, v_BHSC, attn_mask=mask, dropout_p=dropout
        )


def _written_out(
    q_BHLC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    score_BHLS = (q_BHLC / math.sqrt(q_BHLC.shape[-1])) @ k_BHSC.mT
    if mask is not None and mask.dtype == torch.bool:
        score_BHLS = score_BHLS.masked_fill(~mask, -math.inf)
    elif mask is not None:
        score_BHLS = score_BHLS + mask
    weight_BHLS = score_BHLS.softmax(-1)
    if dropout:
        weight_BHLS = F.dropout(weight_BHLS, dropout)
    return weight_BHLS @ v_BHSC
