"""Files of other projects, one module per family of encoders.

A module has the name of its encoder (`vit_mae`, `vit_xeno`: more families of `vit`) and may have
any of these functions; each is optional:

    from_torch(path, content) -> Foreign | None        a `.pt` file; None: not one of this family's
    from_avex(where, spec, state) -> Foreign | None    avex's safetensors with its `model_spec`
    from_hub(where, config, load) -> Foreign | None    a Hugging Face folder of another kind
    avex_support(encoder, head=, pooling=) -> str      "full", "embeddings" (no classifier), "no"
    write_avex(folder, state, facts)                   avex's own files, into an export
    pretrained(config, which) -> dict                  weights that are fetched by their name
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("vit", "vit_mae", "vit_xeno", "beats", "efficientnet", "hubert")
"""The order matters: an EAT of fairseq has the keys of a BEATs file as well."""


@dataclass
class Foreign:
    """The content of another project's file, under our names."""

    kind: str
    """Origin of the file, in a word."""
    encoder: dict[str, Any]
    """The `encoder` section of a recipe."""
    state: dict[str, Tensor]
    """`encoder.*`, and `head.*` where the file has them."""
    names: Any = None
    """Names of the head's outputs, as the file has them."""
    pooling: str = "mean"
    """How the tokens are pooled for the head."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user, for example that the head cannot be used."""
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What an objective of ours would have trained besides, by the name of the part: `quantizer`
    of a tokenizer."""


def having(function: str) -> Iterator[Any]:
    """The function of this name from every family that has it."""
    for family in FAMILIES:
        if found := getattr(import_module(f"{__name__}.{family}"), function, None):
            yield found


def of_encoder(name: str, function: str) -> Any | None:
    """The function of this name from the family of an encoder; None if it has none."""
    if name not in FAMILIES:
        return None
    return getattr(import_module(f"{__name__}.{name}"), function, None)
