"""What a model card says that no measurement can tell: the `card` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Who publishes the model, under which licence, where, and what for."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    repo_id: str | None = None
    """`organisation/name` on Hugging Face. The name is also that of the weights file for avex.
    Null: the name of the exported folder."""
    author: str | None = None
    """Who publishes the model: a person or an institution."""
    licence: str | None = None
    """Licence of the weights as Hugging Face writes it (`cc-by-nc-sa-4.0`), or `other` with
    `licence_name` and `licence_link`. Null: the strictest that the data asks for."""
    licence_name: str | None = None
    """With `licence: other`: its name."""
    licence_link: str | None = None
    """With `licence: other`: where its text is."""
    accept_licence_conflict: bool = False
    """Publish under a licence that does not pass on the non-commercial or share-alike terms of the
    data. The card then says so."""
    description: str | None = None
    """A sentence or two on what the model is for. Null: one is made from the recipe."""
    limitations: str | None = None
    """What the model should not be used for, beside what the card says anyway."""
    initial_weights: str | None = None
    """Where the weights that training started from (`init_from`) come from, their data and their
    licence. Needed when they are not a run or an export of this project."""
    datasets: tuple[str, ...] = ()
    """Ids of the training data on Hugging Face, for the card's header. Empty: the names of the
    datasets in the recipe."""
    tags: tuple[str, ...] = ()
    """More tags for the card's header."""
    citation: str | None = None
    """How to cite the model, BibTeX or plain."""
