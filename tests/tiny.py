"""Every encoder and every objective as small as tests want them: one row each.

A new encoder or objective gets its row here, and with it the contract tests (`tests/contract`), two
steps of each of its recipes, and the reference losses.
"""

from __future__ import annotations

from functools import cache

ENCODERS: dict[str, list[str]] = {
    "beats": [
        "encoder=beats_tiny", "encoder.layers=2", "encoder.dim=32", "encoder.ffn_dim=64",
        "encoder.heads=2", "encoder.patch_dim=16", "encoder.conv_pos=16",
        "encoder.conv_pos_groups=4",
    ],
    "efficientnet": [
        "encoder=efficientnet_tiny", "encoder.depth=0.25", "encoder.dim=48",
        "encoder.pretrained=null",
    ],
    "hubert": [
        "encoder=hubert_tiny", "encoder.layers=2", "encoder.dim=32", "encoder.ffn_dim=64",
        "encoder.heads=2", "encoder.conv_dim=16", "encoder.conv_pos=16",
        "encoder.conv_pos_groups=4",
    ],
    "vit": [
        "encoder=eat_tiny", "encoder.layers=2", "encoder.dim=32", "encoder.ffn_dim=64",
        "encoder.heads=2",
    ],
    "toy": ["encoder=toy"],
}  # fmt: skip
"""Registered name -> overrides of any recipe with that encoder."""

OBJECTIVES: dict[str, list[str]] = {
    "masked_tokens": [
        "objective=masked_tokens", "objective.predictor_layers=1", "objective.min_perplexity=1",
    ],
    "masked_units": ["objective=masked_units", "objective.units.codes=8", "objective.width=8"],
    "multilabel": ["objective=multilabel"],
    "reconstruction": [
        "objective=reconstruction", "objective.decoder_layers=1", "objective.decoder_dim=16",
        "objective.decoder_heads=2", "objective.masker=voronoi",
    ],
    "tokenizer_distillation": [
        "objective=tokenizer_distillation", "objective.teacher=start", "objective.codebook_size=16",
        "objective.codebook_dim=8", "objective.estimator_layers=1", "optim.ema_decay=null",
    ],
    "utterance_frame": [
        "objective=utterance_frame", "objective.masks_per_clip=2", "objective.decoder_layers=2",
    ],
    "level": ["objective=level"],
}  # fmt: skip
"""Registered name -> overrides of any recipe with that objective."""


@cache
def named_in(recipe: str, section: str) -> str:
    """The registered name of a shipped recipe's encoder or objective."""
    from dawnchorus.trainer.compose import compose

    return str(compose(recipe)[section]["name"])


def tiny_encoder(recipe: str) -> list[str]:
    """Overrides that make a shipped recipe's encoder tiny; a ViT stays of its own form and rate."""
    name = named_in(recipe, "encoder")
    return [o for o in ENCODERS[name] if name != "vit" or not o.startswith("encoder=")]


def tiny_objective(recipe: str) -> list[str]:
    """Overrides that let a shipped recipe's objective do with a few clips."""
    row = OBJECTIVES[named_in(recipe, "objective")]
    return [override for override in row if not override.startswith("objective=")]
