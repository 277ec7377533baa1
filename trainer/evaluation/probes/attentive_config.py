"""Numbers of the two probes that attend to tokens. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Count, NotNegative, Positive, ShareBelowOne, Whole
from dawnchorus.trainer.evaluation.probes.base_config import Needs
from dawnchorus.trainer.evaluation.probes.trained_config import HeadsConfig


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig(HeadsConfig):
    """One learned query attends to the tokens of the last layer; then a norm and a classifier.

    Bird-MAE's attentive pooling (arXiv 2504.12880, `models/components/attentive_pooling.py` of its
    repository), with its numbers for frozen encoders: 12 heads, lr 3e-4, weight decay 3e-4, batch
    48, 30 epochs. The schedule is the cosine of its other runs.
    """

    title: ClassVar[str] = "Attentive probe"

    name: Literal["attentive"] = "attentive"
    """Which probe; the other keys are its own."""
    learning_rate: Positive = 3e-4
    """AdamW's highest learning rate (Bird-MAE: 3e-4)."""
    weight_decay: NotNegative = 3e-4
    """AdamW's decoupled weight decay, of all parameters (Bird-MAE: 3e-4)."""
    batch_size: Count = 48
    """Clips per step (Bird-MAE: 48)."""
    epochs: Count = 30
    """Passes over the training part (Bird-MAE: 30)."""
    warmup_epochs: Whole = 0
    """Epochs over which the rate rises linearly from zero."""
    clip: NotNegative = 2.0
    """Longest gradient of all parameters together (Bird-MAE: 2); 0: no limit."""
    heads: Count = 12
    """Attention heads (Bird-MAE: 12). Where they do not divide the channels, the greatest number
    below that does is used."""


@dataclass(frozen=True, kw_only=True)
class AttentiveLayersConfig(HeadsConfig):
    """A learned mix of the layers' tokens, self-attention among them, their mean, a classifier.

    arXiv 2605.10494, with the numbers of its code (avex `models/probes/attention_probe.py` and
    `configs/evaluation_configs/icassp`): one attention layer of 8 heads, dropout 0.3, 50 epochs, 5
    of them of warm-up, cosine, lr 1e-3, weight decay 0.01, batch 32, gradients of at most 1.
    """

    title: ClassVar[str] = "Attentive probe on all layers"
    needs: ClassVar[Needs] = "layer_tokens"

    name: Literal["attentive_layers"] = "attentive_layers"
    """Which probe; the other keys are its own."""
    dropout: ShareBelowOne = 0.3
    """Share of the attention weights, and of the numbers after the norm and after the mean, that
    is dropped in training (avex: 0.3)."""
