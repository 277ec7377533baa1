"""The options of `chorus prep labels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.taxonomy.shapes import RANK_COLUMNS


@dataclass(frozen=True)
class LabelOptions:
    """The options of `relabel`; its fields are the options of the command."""

    taxonomies: Sequence[str] = ()
    overrides: Path | None = None
    ancestors: Sequence[str] = ()
    ontology: Path | None = None
    bridges: bool = False
    keep_subspecies: bool = False
    higher_rank: bool = False
    kingdom: str = ""
    audio: Sequence[Path] = ()
    strict: bool = False


def ranks_of(text: str) -> tuple[str, ...]:
    """Return the ranks in "genus,family"; PrepError for one that taxonomies do not all have."""
    ranks = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    if unknown := [rank for rank in ranks if rank not in RANK_COLUMNS]:
        raise PrepError(
            f"--ancestors {', '.join(unknown)}: the ranks are {', '.join(reversed(RANK_COLUMNS))}."
        )
    return ranks
