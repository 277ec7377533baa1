"""The learned tokenizer: what `tokenizer_distillation` trained names each patch.

Shape legend: B clips, T frames, F mel bins, N tokens, V codes, E width of a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from dawnchorus.trainer.errors import CheckpointError, RecipeError
from dawnchorus.trainer.objectives.frozen import load_frozen
from dawnchorus.trainer.objectives.quantizer import Quantizer
from dawnchorus.trainer.objectives.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from dawnchorus.trainer.encoders.base import Encoder, Grid
    from dawnchorus.trainer.objectives.base import Context
    from dawnchorus.trainer.objectives.tokenizers.learned_config import LearnedConfig

_LENGTH = 1e-3
"""How far the length of a code may be from 1."""


class LearnedTokenizer(Tokenizer):
    """A frozen encoder, which hears the whole clip, and the quantizer that was trained with it.

    It computes in the precision of the training, as it did when it was trained.

    Args:
        config: where it is from.
        encoder: frozen, of the tokenizer.
        quantizer: projection and codebook.
    """

    config: LearnedConfig

    def __init__(self, config: LearnedConfig, encoder: Encoder, quantizer: Quantizer) -> None:
        super().__init__(config, patch=getattr(encoder.config, "patch", 1))
        self.encoder, self.quantizer = encoder, quantizer
        self.requires_grad_(False).eval()

    @classmethod
    def build(cls, config: Any, encoder: Encoder, context: Context) -> Self:
        """See `Tokenizer.build`; reads the tokenizer."""
        key = "objective.tokenizer.path"
        frozen = load_frozen(context, config.path, key, encoder)
        assert context.load_part is not None
        part = context.load_part(config.path, "quantizer")
        codebook_VE = part.get("codebook_VE")
        if codebook_VE is None or codebook_VE.dim() != 2:
            raise CheckpointError(f"{key}={config.path}: its quantizer has no codebook")
        codes, width = codebook_VE.shape
        if codes != config.codebook_size:
            raise RecipeError(
                f"objective.tokenizer.codebook_size is {config.codebook_size}, and the tokenizer "
                f"of {key}={config.path} has {codes} codes: set it to {codes}"
            )
        length_V = codebook_VE.float().norm(dim=1)
        if not bool(((length_V - 1).abs() < _LENGTH).all()):
            raise CheckpointError(
                f"{key}={config.path}: the codes of a tokenizer have length 1, and these have "
                f"{float(length_V.min()):.3g} to {float(length_V.max()):.3g}: it was not trained, "
                "or the file is damaged"
            )
        quantizer = Quantizer(frozen.dim, codes, width)
        # What only its training needed stays behind.
        needed = {k: v for k, v in part.items() if k not in ("share_V", "revived")}
        try:
            quantizer.load_state_dict(needed)
        except RuntimeError as error:
            raise CheckpointError(f"{key}={config.path}: {error}; nothing was loaded") from None
        if not all(bool(tensor.isfinite().all()) for tensor in needed.values()):
            raise CheckpointError(f"{key}={config.path}: its quantizer has NaN or infinity in it")
        return cls(config, frozen, quantizer)

    def train(self, mode: bool = True) -> Self:
        """It drops nothing, whatever the mode."""
        del mode
        return super().train(False)

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """It is learnt already."""
        del batches

    @torch.no_grad()
    def forward(self, mel_BTF: Tensor, steps_B: Tensor | None = None) -> Tensor:
        """See `Tokenizer.forward`."""
        prefix = self.encoder.grid(mel_BTF.shape[1]).prefix
        token_BND = self.encoder(mel_BTF, steps_B).tokens_BND[:, prefix:]
        return self.quantizer.nearest(self.quantizer.unit(token_BND))

    def flops(self, grid: Grid) -> float:
        """See `Tokenizer.flops`."""
        return self.encoder.clip_flops(grid) + self.quantizer.flops(grid.places)

    @property
    def remedy(self) -> str:
        """See `Tokenizer.remedy`."""
        return (
            f"Take a tokenizer that uses more of its codes (objective.tokenizer.path, now "
            f"{self.config.path}; its log has codes_used and perplexity)"
        )
