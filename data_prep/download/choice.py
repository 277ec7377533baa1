"""Which recordings are downloaded: licences first, then amounts. Nothing here sends a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dawnchorus.data_prep.download.addresses import BadAddress, host_of
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.licences import GROUPS, KINDS, LicenceChoice, read_licence

# Words for kinds of licences, and words that stand for several.
WORDS = {
    **{kind: (kind,) for kind in KINDS},
    **GROUPS,
    "all": KINDS,
    "stated": tuple(kind for kind in KINDS if kind != "all-rights-reserved"),
    "none": ("unknown", "all-rights-reserved"),
}
_STATED = LicenceChoice(allow=frozenset(WORDS["stated"]))


class Row(Protocol):
    """The fields of a `Recording` that decide."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def licence_url(self) -> str: ...  # noqa: D102
    @property
    def duration_s(self) -> float: ...  # noqa: D102


def licence_words(text: str, option: str) -> frozenset[str]:
    """Return the words of a comma-separated list. Raises PrepError where one is unknown."""
    names = [word.strip().lower().removeprefix("cc-") for word in text.split(",") if word.strip()]
    unknown = [name for name in names if name not in WORDS]
    if unknown or not names:
        raise PrepError(
            f"{option}: {', '.join(unknown) or 'an empty list'} is no licence. Known are: "
            f"{', '.join(KINDS)}; and for several at once: "
            f"{', '.join(word for word in WORDS if word not in KINDS)}."
        )
    return frozenset(names)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The user's choice of recordings; others are not downloaded."""

    licences: LicenceChoice = _STATED
    unstated: bool = False
    """Whether recordings without a stated licence are wanted where `licences` takes them."""
    limit: int | None = None
    max_hours: float | None = None
    unknown_duration_s: float = 40.0

    @property
    def made_of(self) -> dict[str, Any]:
        """Describe the choice, for the summary and to recognise an earlier plan."""
        return {
            "licences": sorted(self.licences.allow or ()),
            "deny": sorted(self.licences.deny),
            "unknown": [self.unstated, self.licences.keep_unknown],
            "limit": self.limit,
            "max_hours": self.max_hours,
            "unknown_duration_s": self.unknown_duration_s,
        }


@dataclass
class Chooser:
    """Decides which recordings of a table, taken in their order, are downloaded. The same table and
    choice give the same answers, so they are computed again instead of keeping a million of them.
    """

    choice: Choice
    taken: int = 0
    hours: float = 0.0
    full: bool = field(default=False, init=False)

    def reason(self, row: Row) -> tuple[str, str]:
        """Return why the recording is not downloaded, as (code, detail); ("", "") where it is.

        ("here", "") is a recording whose file is on this machine already.
        """
        licence = read_licence(row.licence_url)
        nothing = not licence.url
        if not self.choice.licences.takes(licence) or (nothing and not self.choice.unstated):
            none = nothing or licence.family == "all-rights-reserved"
            name = "licence_not_stated" if none else "licence_denied"
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
        # When the limit is reached, no later recording is taken, even a shorter one.
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
    """Return the choice of the command line's options. Raises PrepError when it excludes
    everything.
    """
    named = licence_words("stated" if licences is None else licences, "--licences")
    denied = licence_words(deny, "--deny") if deny is not None else frozenset[str]()
    denied |= {word for given in no for word in licence_words(given, f"--no-{given}")}
    allowed = frozenset(kind for word in named for kind in WORDS[word])
    # Terms (nc, nd, sa) are denied in every licence that has them.
    refused = frozenset(
        kind for word in denied for kind in (*WORDS[word], *{word} & {"nc", "nd", "sa"})
    )
    if not allowed - refused:
        raise PrepError("The licence options exclude every licence: nothing would be fetched.")
    asked_for = bool(named & {"unknown", "none"})
    return Choice(
        licences=LicenceChoice(allow=allowed, deny=refused, keep_unknown=asked_for),
        unstated=asked_for or "all" in named,
        limit=limit,
        max_hours=max_hours,
        unknown_duration_s=unknown_duration_s,
    )
