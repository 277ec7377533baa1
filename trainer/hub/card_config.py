"""The `card` section of a recipe: the parts of a model card that only a person can write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Publisher, licence, place and purpose of the model."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    repo_id: str | None = None
    """`organisation/name` on Hugging Face. The weights file for avex gets the same name. Null: the
    name of the exported folder."""
    author: str | None = None
    """Who publishes the model: a person or an institution."""
    licence: str | None = None
    """Licence of the weights as Hugging Face writes it (`cc-by-nc-sa-4.0`), or `other` with
    `licence_name` and `licence_link`. Null: the strictest that the data asks for."""
    licence_name: str | None = None
    """With `licence: other`: its name."""
    licence_link: str | None = None
    """With `licence: other`: the address of its text."""
    accept_licence_conflict: bool = False
    """Publish under a licence that does not pass on the non-commercial or share-alike terms of the
    data. The card then says so."""
    description: str | None = None
    """A sentence or two on what the model is for. Null: one is made from the recipe."""
    limitations: str | None = None
    """Uses for which the model is not meant, in addition to those that every card names."""
    initial_weights: str | None = None
    """Origin, data and licence of the weights from which training started (`init_from`). Needed
    if they are not a run or an export of this project."""
    datasets: tuple[str, ...] = ()
    """Ids of the training data on Hugging Face, for the card's header. Empty: the names of the
    datasets in the recipe."""
    tags: tuple[str, ...] = ()
    """More tags for the card's header."""
    citation: str | None = None
    """How to cite the model, BibTeX or plain."""
