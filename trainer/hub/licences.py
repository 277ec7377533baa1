"""Derives the terms of the weights from the licences of the sound.

Whether weights are a derivative of their training recordings is not settled law. The default is
the careful reading: the terms of every recordist are passed on.
"""

from __future__ import annotations

from collections.abc import Iterable

from dawnchorus.trainer.licences import Licence, read_licence


def strictest(licences: Iterable[Licence]) -> str | None:
    """The Hub's id of the licence that passes on the terms of all of the data.

    No-derivatives terms have no counterpart (see `caveats`). None if there is no licence, or one of
    them is not of Creative Commons or not understood.
    """
    licences = list(licences)
    if not licences or not all(licence.creative_commons for licence in licences):
        return None
    terms = frozenset().union(*(licence.terms for licence in licences))
    if not terms:
        return "cc0-1.0"
    kept = [term for term in ("by", "nc", "sa") if term in terms | {"by"}]
    return f"cc-{'-'.join(kept)}-4.0"


def contradictions(choice: str, licences: Iterable[Licence]) -> list[str]:
    """Why a licence of the weights does not pass on the terms of the data; empty if it does.

    Args:
        choice: a Hub id. `other` is not judged, because its text is unknown here.
        licences: the licences of the data.
    """
    if choice == "other":
        return []
    chosen = read_licence(choice)
    terms = chosen.terms if chosen.creative_commons else frozenset[str]()
    problems = []
    for term, what in (
        ("nc", "allows commercial use, which these exclude"),
        ("sa", "is not share-alike, which these ask for"),
    ):
        names = sorted({licence.name for licence in licences if term in licence.terms})
        if names and term not in terms:
            problems.append(f"{choice} {what}: {', '.join(names)}")
    return problems
