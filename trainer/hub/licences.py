"""What the licences of the sound ask of the weights.

Whether weights are a derivative of the recordings they were trained on is not settled law. The
careful reading is taken as the default: what every recordist asked for is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_CC_URL = re.compile(
    r"^(?:https?:)?(?://)?(?:www\.)?creativecommons\.org/"
    r"(?:(?P<public>publicdomain)|licenses)/(?P<kind>[a-z-]+|zero|mark)(?:/(?P<version>\d\.\d))?",
    re.IGNORECASE,
)
_CC_NAME = re.compile(
    r"^cc[- ]?(?:(?P<zero>0|zero)|(?P<kind>by(?:[- ](?:nc|sa|nd))*))"
    r"(?:[- ]?v?(?P<version>\d\.\d))?$",
    re.IGNORECASE,
)

# Licences that the Hub knows by name and that are used for weights; `other` takes a name and a
# link. The whole list: https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = (
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "mit", "apache-2.0",
    "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail",
    "bigscience-openrail-m", "creativeml-openrail-m", "unlicense", "other",
)  # fmt: skip


@dataclass(frozen=True)
class Licence:
    """One licence of some sound."""

    text: str
    """As the data has it: usually a URL."""
    name: str
    """As people write it ("CC BY-NC 4.0"), or the text where it is not understood."""
    terms: frozenset[str]
    """Of "by", "nc", "sa", "nd"."""
    known: bool
    """Whether the terms were understood."""


def parse(text: str) -> Licence:
    """Understand a licence URL (or a short name such as "CC-BY-4.0").

    Anything that is not Creative Commons or the public domain is kept as it is, `known=False`.
    """
    text = text.strip()
    url = _CC_URL.match(text)
    short = _CC_NAME.match(text)
    match = url or short
    if match is None:
        return Licence(text, text, frozenset(), known=False)
    version = match["version"] or ""
    if url and url["public"]:
        name = "CC0" if url["kind"].lower() == "zero" else "Public Domain Mark"
        return Licence(text, f"{name} {version}".strip(), frozenset(), known=True)
    if short and short["zero"]:
        return Licence(text, f"CC0 {version}".strip(), frozenset(), known=True)
    kind = match["kind"].lower().replace(" ", "-")
    terms = frozenset(kind.split("-"))
    if not terms <= {"by", "nc", "sa", "nd"}:
        return Licence(text, text, frozenset(), known=False)
    return Licence(text, f"CC {kind.upper()} {version}".strip(), terms, known=True)


def strictest(licences: Iterable[Licence]) -> str | None:
    """The Hub's id of the licence that passes on what all of the data asks for.

    No-derivatives terms have no counterpart (see `caveats`). None where a licence is not
    understood, or there is none.
    """
    licences = list(licences)
    if not licences or not all(licence.known for licence in licences):
        return None
    terms = frozenset().union(*(licence.terms for licence in licences))
    if not terms:
        return "cc0-1.0"
    kept = [term for term in ("by", "nc", "sa") if term in terms | {"by"}]
    return f"cc-{'-'.join(kept)}-4.0"


def contradictions(choice: str, licences: Iterable[Licence]) -> list[str]:
    """Why a licence of the weights does not pass on what the data asks for; empty where it does.

    Args:
        choice: a Hub id. `other` is not judged: its text is unknown here.
        licences: of the data.
    """
    if choice == "other":
        return []
    terms = parse(choice).terms
    problems = []
    for term, what in (
        ("nc", "allows commercial use, which these exclude"),
        ("sa", "is not share-alike, which these ask for"),
    ):
        names = sorted({licence.name for licence in licences if term in licence.terms})
        if names and term not in terms:
            problems.append(f"{choice} {what}: {', '.join(names)}")
    return problems
