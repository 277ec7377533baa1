"""Waveform in, embeddings out: front end, encoder and optional head in one module.

Shape legend: B clips, T samples or frames, N tokens, D channels, C classes, L layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.pooling import STATISTICS, Pooling, pool
from dawnchorus.trainer.registry import build_encoder, build_frontend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dawnchorus.trainer.encoders.base import Encoder, EncoderOutput, Grid


class BioEncoder(nn.Module):
    """A front end, an encoder, and a linear head where the model learns or has learnt labels.

    The front end's numbers come from the encoder's config: they travel with the checkpoint.

    Args:
        encoder: the encoder.
        labels: names of the head's outputs; None: no head.
        pooling: how the tokens are pooled for the head.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: tuple[str, ...] | None = None,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.frontend = build_frontend(encoder.config)
        self.encoder = encoder
        self.labels = labels
        self.head: nn.Linear | None = None
        if labels:
            self.head = nn.Linear(STATISTICS[pooling] * encoder.dim, len(labels))
        self.pooling = pooling

    @classmethod
    def from_config(
        cls,
        encoder: Mapping[str, object],
        labels: tuple[str, ...] | None = None,
        pooling: Pooling = "mean",
    ) -> BioEncoder:
        """Build from the `encoder` section of a resolved recipe (`name` plus the config fields)."""
        return cls(build_encoder(dict(encoder)), labels, pooling)

    @property
    def sample_rate_hz(self) -> int:
        """The rate that `forward` expects."""
        return self.encoder.config.sample_rate_hz

    def forward(
        self, wav_BT: Tensor, length_B: Tensor | None = None, *, layers: bool = False
    ) -> EncoderOutput:
        """Encode.

        Args:
            wav_BT: float waveform in [-1, 1] at `sample_rate_hz`, zero-padded on the right.
            length_B: valid samples per clip; all of them when left out.
            layers: also return the output of every layer.
        """
        x, steps_B = self.frontend(wav_BT, length_B)
        output: EncoderOutput = self.encoder(x, steps_B, layers=layers)
        return output

    def embed(
        self,
        wav_BT: Tensor,
        length_B: Tensor | None = None,
        layer: int | Literal["all"] = -1,
        pooling: Pooling = "mean",
    ) -> Tensor:
        """The valid tokens of one layer ([B, K D]) or of all layers ([B, L, K D]), pooled.

        Layer 0 is the input of the first block, layer i the output of block i, -1 the last.
        `pooling` decides K: see `trainer.pooling.pool`. Where layers differ in width, all of them
        are as wide as the widest, the narrower ones with zeros behind their own numbers, which no
        probe and no distance sees.
        """
        if layer == -1:
            out = self(wav_BT, length_B)
            return pool(out.tokens_BND, out.valid_BN, pooling)
        out = self(wav_BT, length_B, layers=True)
        if layer == "all":
            pooled = [pool(t, out.valid_BN, pooling) for t in out.layers]
            widest = max(layer_BE.shape[1] for layer_BE in pooled)
            return torch.stack([F.pad(p, (0, widest - p.shape[1])) for p in pooled], dim=1)
        return pool(out.layers[layer], out.valid_BN, pooling)

    def tokens(
        self,
        wav_BT: Tensor,
        length_B: Tensor | None = None,
        layers: Literal["last", "blocks"] | tuple[int, ...] = "last",
    ) -> tuple[list[Tensor], Tensor, Grid]:
        """The tokens themselves, for probes that pool for themselves.

        Args:
            wav_BT: as for `forward`.
            length_B: as for `forward`.
            layers: `last` (with the encoder's final norm), `blocks` (what leaves each block, before
                that norm), or layer numbers as for `embed`.

        Returns:
            [B, N, D] of each layer; bool [B, N], which stand for sound; the grid they stand in.

        Raises:
            IndexError: there is no layer of that number.
        """
        x, steps_B = self.frontend(wav_BT, length_B)
        out: EncoderOutput = self.encoder(x, steps_B, layers=layers != "last")
        grid = self.encoder.grid(x.shape[1])
        if layers == "last":
            return [out.tokens_BND], out.valid_BN, grid
        assert out.layers is not None
        numbers = range(1, len(out.layers)) if layers == "blocks" else layers
        return [out.layers[i] for i in numbers], out.valid_BN, grid

    def logits(self, wav_BT: Tensor, length_B: Tensor | None = None) -> Tensor:
        """Class logits [B, C] of a post-trained model: linear head on the pooled tokens.

        Raises:
            ValueError: the model has no head (it was pre-trained only).
        """
        if self.head is None:
            raise ValueError("this model has no classification head: it was not post-trained")
        # Pooled tokens are float32, whatever the type of the model.
        pooled = self.embed(wav_BT, length_B, pooling=self.pooling).to(self.head.weight.dtype)
        logit_BC: Tensor = self.head(pooled)
        return logit_BC
