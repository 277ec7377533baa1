"""Which recordings are asked for: licences first, then the amounts. Nothing here asks anybody."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from data_prep.download.addresses import BadAddress, host_of
from data_prep.errors import PrepError

CODES = ("cc0", "pdm", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "other", "none")
# Words that stand for several licences.
GROUPS = {
    "all": CODES,
    "stated": CODES[:-1],
    "cc": tuple(code for code in CODES if code.startswith(("cc0", "pdm", "by"))),
    "nc": tuple(code for code in CODES if "nc" in code.split("-")),
    "nd": tuple(code for code in CODES if "nd" in code.split("-")),
    "sa": tuple(code for code in CODES if "sa" in code.split("-")),
}
_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)", re.IGNORECASE)
_NAME = re.compile(r"(?:cc|creative commons)[ _-]*(by(?:[ _-]+(?:nc|nd|sa))*|0|zero)\b", re.I)
_NOT_GIVEN = {"", "none", "null", "c", "all rights reserved", "unknown"}


class Row(Protocol):
    """What is read of a recording to decide; a `Recording` has it all."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def licence_url(self) -> str: ...  # noqa: D102
    @property
    def duration_s(self) -> float: ...  # noqa: D102


@lru_cache(maxsize=4096)
def licence_code(text: str) -> str:
    """Return what kind of licence the text (a URL or a name) is: one of CODES.

    "none" is no licence or all rights reserved, "other" a licence that is not Creative Commons.
    """
    text = text.strip()
    if text.casefold() in _NOT_GIVEN:
        return "none"
    found = _URL.search(text)
    if found:
        kind, name = found.group(1).lower(), found.group(2).lower().strip("-")
        if kind == "publicdomain":
            return "cc0" if name == "zero" else "pdm" if name == "mark" else "other"
        return name if name in CODES else "other"
    found = _NAME.match(text)
    if found:
        name = re.sub(r"[ _-]+", "-", found.group(1).lower())
        return "cc0" if name in ("0", "zero") else name if name in CODES else "other"
    return "other"


def licence_codes(words: str, option: str) -> frozenset[str]:
    """Return the codes that a comma-separated list means. Raises PrepError for unknown words."""
    names = [word.strip().lower().removeprefix("cc-") for word in words.split(",") if word.strip()]
    unknown = [name for name in names if name not in GROUPS and name not in CODES]
    if unknown or not names:
        raise PrepError(
            f"{option}: {', '.join(unknown) or 'an empty list'} is no licence. Known are: "
            f"{', '.join(CODES)}; and for several at once: {', '.join(GROUPS)}."
        )
    return frozenset(code for name in names for code in GROUPS.get(name, (name,)))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The user's choice of recordings. Licences that are not in `licences` are not asked for."""

    licences: frozenset[str] = frozenset(GROUPS["stated"])
    limit: int | None = None
    max_hours: float | None = None
    unknown_duration_s: float = 40.0

    @property
    def made_of(self) -> dict[str, Any]:
        """For the summary, and to recognise a plan that was made before."""
        return {
            "licences": sorted(self.licences, key=CODES.index),
            "limit": self.limit,
            "max_hours": self.max_hours,
            "unknown_duration_s": self.unknown_duration_s,
        }


@dataclass
class Chooser:
    """Takes the recordings of a table in their order and says which are asked for.

    The same table and choice give the same answers, so it is run again where they are needed
    again instead of keeping a million of them.
    """

    choice: Choice
    taken: int = 0
    hours: float = 0.0
    full: bool = field(default=False, init=False)

    def reason(self, row: Row) -> tuple[str, str]:
        """Return why the recording is not asked for, as (code, detail); ("", "") where it is.

        ("here", "") is a recording whose file is on this machine already.
        """
        code = licence_code(row.licence_url)
        if code not in self.choice.licences:
            name = "licence_not_stated" if code == "none" else "licence_denied"
            return name, row.licence_url or "all rights reserved unless a licence is stated"
        if row.path and Path(row.path).is_absolute() and Path(row.path).is_file():
            return "here", ""
        if not row.url:
            return "no_url", f"path {row.path!r}" if row.path else "neither an address nor a file"
        try:
            host_of(row.url)
        except BadAddress as err:
            return "bad_url", str(err)
        return self._amount(row.duration_s or self.choice.unknown_duration_s)

    def _amount(self, duration_s: float) -> tuple[str, str]:
        limit, hours = self.choice.limit, self.choice.max_hours
        # Once full, a shorter recording further down does not slip in: the first ones are meant.
        self.full = (
            self.full
            or (limit is not None and self.taken >= limit)
            or (hours is not None and self.hours + duration_s / 3600 > hours)
        )
        if self.full:
            return "over_limit", "beyond --limit or --max-hours"
        self.taken += 1
        self.hours += duration_s / 3600
        return "", ""


def make_choice(
    *,
    licences: str | None,
    deny: str | None,
    no: Iterable[str] = (),
    limit: int | None = None,
    max_hours: float | None = None,
    unknown_duration_s: float = 40.0,
) -> Choice:
    """Return the choice of the command line's options. Raises PrepError when it leaves nothing."""
    allowed = licence_codes("stated" if licences is None else licences, "--licences")
    denied = licence_codes(deny, "--deny") if deny is not None else frozenset()
    for word in no:
        denied |= licence_codes(word, f"--no-{word}")
    if not allowed - denied:
        raise PrepError("The licence options exclude every licence: nothing would be fetched.")
    return Choice(
        licences=allowed - denied,
        limit=limit,
        max_hours=max_hours,
        unknown_duration_s=unknown_duration_s,
    )
