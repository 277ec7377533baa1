"""The numbers of reconstruction (masked autoencoders); imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import (
    Count,
    Positive,
    Range,
    ShareAboveNone,
    check_ranges,
)
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(ObjectiveConfig):
    """Masked autoencoder (MAE): draw the hidden patches of the spectrogram from the visible ones.
    The defaults are those of XenoMAE, which are Bird-MAE's but for `pixel_eps` (their code).
    AudioMAE differs in its decoder: 16 layers whose attention is local; here it is always global.
    """

    needs_masking: ClassVar[bool] = True

    name: Literal["reconstruction"] = "reconstruction"
    """Which objective this is."""
    mask_ratio: Annotated[float, Range(gt=0, lt=1)] = 0.75
    """Share of the valid tokens that the encoder does not see (Bird-MAE, XenoMAE: 0.75; AudioMAE:
    0.8)."""
    keep_multiple_of: Count = 1
    """The number of visible tokens of a full-length clip is rounded to a multiple of this."""
    masks_per_clip: Count = 1
    """Masked views k per clip (all published: 1). The clip is read and transformed once."""
    masker: Literal["random", "block", "bands", "voronoi"] = "random"
    """Which tokens are hidden; the count is exact with each. random: any (all published MAE of
    sound but SongMAE). block: rectangles, long in time or in frequency (as in PupuJEPA). bands:
    columns, or whole bands of frequency. voronoi: cells around random points (SongMAE)."""
    block_share: ShareAboveNone = 0.05
    """block: share of a clip's tokens that the largest block covers; the smallest covers a fifth of
    that (PupuJEPA: 1 to 5 %)."""
    band_share: ShareAboveNone = 0.32
    """bands: share of a clip's columns that the widest band of time covers (PupuJEPA: 40 of
    125)."""
    point_share: ShareAboveNone = 0.1
    """voronoi: share of the tokens around which cells grow (SongMAE: 0.1)."""
    normalise_pixels: bool = True
    """Each patch minus its own mean, over its own standard deviation, is what is drawn (MAE's
    `norm_pix_loss`, true in all three). Guessing every patch to be flat has a loss of 1 then."""
    pixel_eps: Positive = 1e-4
    """Added to a patch's variance before the division (XenoMAE: 1e-4; MAE, AudioMAE: 1e-6)."""
    decoder_layers: Count = 8
    """Layers of the decoder (Bird-MAE, XenoMAE: 8)."""
    decoder_dim: Count = 512
    """Width of the decoder (all three: 512)."""
    decoder_heads: Count = 16
    """Attention heads of the decoder (all three: 16); must divide `decoder_dim`."""
    clean_targets: bool = False
    """Draw the sound without the noise of `augment`, which only the encoder hears. false: what the
    encoder hears, as published. true costs a second spectrogram."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise ValueError(
                f"decoder_dim is {self.decoder_dim}; it must be a multiple of decoder_heads "
                f"({self.decoder_heads}) and of 4"
            )

    @property
    def hears_clean(self) -> bool:
        """See `ObjectiveConfig.hears_clean`."""
        return self.clean_targets

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """What is trained beside the encoder: the decoder. `classes` plays no part."""
        del classes
        width, pixels = self.decoder_dim, encoder.patch**2
        ends = (encoder.dim + 1) * width + (width + 1) * pixels + 3 * width
        return ends + encoder.stack_parameters(self.decoder_layers, width, self.decoder_heads)
