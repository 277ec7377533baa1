"""Licences of sound: one reader for filters, downloads, credits, cards and the weights.

`read_licence` understands what archives and people write: addresses, identifiers of SPDX, GBIF
and iNaturalist, names in a dozen languages, lists. A text is understood only if every word of it
is understood. Other texts are still searched for restrictions, so a text that mentions
"non-commercial" never counts as a free licence. This reads names; it is not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import unquote

from dawnchorus.trainer.licence_words import (
    NO_STATEMENT,
    OTHERS,
    TERMS,
    is_condition,
    plain_text,
    restrictions,
    signs_of,
    split_words,
)

CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
PUBLIC_DOMAIN_MARK = "https://creativecommons.org/publicdomain/mark/1.0/"
CREATIVE_COMMONS = ("cc0", "pd", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd")
KINDS = (*CREATIVE_COMMONS, "other", "unknown", "all-rights-reserved")
"""Words for one kind of licence in options and recipes, from the freest on; `other` may be any."""
GROUPS = {
    "cc": CREATIVE_COMMONS,
    "nc": tuple(kind for kind in KINDS if "nc" in kind.split("-")),
    "nd": tuple(kind for kind in KINDS if "nd" in kind.split("-")),
    "sa": tuple(kind for kind in KINDS if "sa" in kind.split("-")),
    "pdm": ("pd",),
}
"""Words for several kinds at once. Denying `nc`, `nd` or `sa` denies each licence with the term."""
# The licences of the Hub that are used for weights and sound. With `other`, the card gives a name
# and a link. The whole list: https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = (
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "mit", "apache-2.0",
    "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail",
    "bigscience-openrail-m", "creativeml-openrail-m", "unlicense", "other",
)  # fmt: skip
_VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")


@dataclass(frozen=True)
class Licence:
    """What a text says about the use of a sound."""

    text: str
    """The text as it was given, on one line."""
    url: str
    """The address of the licence; the text if it has no address; "" if nothing is stated."""
    family: str
    """One of CREATIVE_COMMONS, "all-rights-reserved", "unknown", or another licence's name."""
    known: bool
    """Whether every word was understood. If not, the text may have more terms than `terms`."""
    terms: frozenset[str] = frozenset()
    """Some of "by", "nc", "sa" and "nd"."""
    version: str = ""
    """The version of a Creative Commons licence: "4.0". Empty if none is stated, or several are."""
    port: str = ""
    """Jurisdiction of a ported licence: "de"."""

    @property
    def nc(self) -> bool:
        """Whether commercial use is excluded, or mentioned in words that are not understood."""
        return "nc" in self.terms

    @property
    def nd(self) -> bool:
        """Whether changed copies are excluded, or mentioned in words that are not understood."""
        return "nd" in self.terms

    @property
    def sa(self) -> bool:
        """Whether changed copies must be passed on under the same licence."""
        return "sa" in self.terms

    @property
    def creative_commons(self) -> bool:
        """Whether it is Creative Commons or the public domain, so that all its terms are known."""
        return self.known and self.family in CREATIVE_COMMONS

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.family if self.family in KINDS else "other"

    @property
    def name(self) -> str:
        """The name as people write it, "CC BY-NC 4.0"; the text for any other licence."""
        if not self.creative_commons:
            return self.text
        if self.family == "cc0":
            return f"CC0 {self.version}".strip()
        if self.family == "pd":
            return "Public Domain Mark 1.0" if self.url == PUBLIC_DOMAIN_MARK else self.text
        parts = ("CC", self.family.upper(), self.version, self.port.upper())
        return " ".join(part for part in parts if part)

    @property
    def hub_id(self) -> str:
        """The id for `license:` in a Hugging Face card; "other" if the Hub has no name for it."""
        name = f"{self.family if self.family == 'cc0' else 'cc-' + self.family}-{self.version}"
        good = self.creative_commons and not self.port and name in HUB_LICENCES
        return name if good else "other"


@dataclass(frozen=True)
class LicenceChoice:
    """Which licences are wanted, in words of KINDS and GROUPS."""

    allow: frozenset[str] | None = None
    """Only these kinds are wanted; None: all kinds."""
    deny: frozenset[str] = frozenset()
    """These kinds are not wanted."""
    keep_unknown: bool = False
    """Whether a licence that is missing or not understood may pass a `deny`. It never passes if its
    text mentions a denied restriction."""

    def takes(self, licence: Licence) -> bool:
        """Return whether a recording under this licence is wanted."""
        denied = kinds_of(self.deny)
        if licence.kind in denied or licence.terms & self.deny & {"nc", "nd", "sa"}:
            return False
        if self.deny and licence.family == "all-rights-reserved":
            return False  # a text that permits nothing cannot permit the wanted use
        if self.deny and not licence.known and not self.keep_unknown:
            return False
        return self.allow is None or licence.kind in kinds_of(self.allow)


def kinds_of(words: Iterable[str]) -> frozenset[str]:
    """Return the kinds that words of KINDS and GROUPS stand for."""
    return frozenset(kind for word in words for kind in GROUPS.get(word, (word,)))


# --------------------------------------------------------------------------- reading


@lru_cache(maxsize=16384)
def read_licence(text: object) -> Licence:
    """Read the licence that a cell, an identifier or an address names.

    Several licences in one text count as one licence with the terms of all of them. It has an
    address only if one of them has all the terms. A name without a version ("CC-BY") is known, and
    its address is its text.
    """
    given = "" if text is None or text != text else " ".join(str(text).split())
    plain = plain_text(given)
    rest, found, spoken = _take_addresses(plain)
    if not found and split_words(rest) in NO_STATEMENT:
        return Licence(given, "", "unknown", known=False)
    notice = _without_holder(rest)
    if notice is not None:
        holder, rest = notice
        spoken |= restrictions(split_words(holder))
    signs, strange = signs_of(split_words(rest))
    if notice is not None and is_condition(split_words(holder)):
        strange = [*strange, holder]
    found = [*found, *_named(signs)]
    if not strange and found and all(item.known for item in found):
        return _strictest(given, found, spoken)
    terms = frozenset().union(spoken, *(item.terms for item in found)) | restrictions(
        split_words(plain)
    )
    if notice is not None or "reserved" in signs or (not strange and "notice" in signs):
        return Licence(given, given, "all-rights-reserved", not strange, terms)
    return Licence(given, given, "unknown", known=False, terms=terms)


# --- addresses

_ADDRESS = re.compile(
    r"(?:https?:)?//[^\s<>\"',;|)\]}]+|(?<![\w./-])(?:www\.)?(?:[\w-]+\.)+[a-z]{2,}/[^\s<>\"',;|)\]}]+"
)
_CC_ADDRESS = re.compile(
    r"creativecommons\.org/(?:(?:licen[sc]es?|publicdomain)/)(?P<kind>[a-z+-]+)"
    r"(?:/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3}|scotland))?"
    r"(?:/(?:deed|legalcode|rdf)(?:\.[a-z_-]{2,7}\d?)?)?)?/?(?P<tail>[?#].*)?"
)
_ADDRESSES = {
    r"opendatacommons\.org/licenses/odbl\b.*": "odbl",
    r"opendatacommons\.org/licenses/by\b.*": "odc by",
    r"opendatacommons\.org/licenses/pddl\b.*": "pddl",
    r"(?:gnu\.org/(?:licenses|copyleft)|opensource\.org/licenses?)/(?:old-licenses/)?"
    r"(?P<name>gpl|lgpl|agpl|fdl|mit|isc|apache|bsd)\b.*": "",
    r"apache\.org/licenses/.*": "apache",
    r"unlicense\.org.*": "unlicense",
    r"nationalarchives\.gov\.uk/doc/(?:open-government-licence|ogl)\b.*": "ogl",
    r"spdx\.org/licenses/(?P<name>[\w.+-]+?)(?:\.html|\.json)?/?": "",
    r"rightsstatements\.org/(?:vocab|page)/inc(?:-[\w-]+)?/.*": "all rights reserved",
}
_TAG = re.compile(r"</?(?:a|abbr|b|br|div|em|i|img|p|small|span|strong|u)\b[^<>]*>")


def _take_addresses(plain: str) -> tuple[str, list[Licence], frozenset[str]]:
    """Return the text without addresses and HTML tags, the licences that the addresses name, and
    the restrictions that the tags mention.
    """
    found = [_of_address(unquote(match[0])) for match in _ADDRESS.finditer(plain)]
    rest = _ADDRESS.sub(" ", plain)
    hidden = restrictions(split_words(" ".join(_TAG.findall(rest))))
    return _TAG.sub(" ", rest), found, hidden


def _of_address(address: str) -> Licence:
    address = re.sub(r"^(?:https?:)?//|[.:]+$", "", address)
    address = re.sub(r"^(?:www\.|legacy\.)", "", address)
    match = _CC_ADDRESS.fullmatch(address)
    if match and not restrictions(split_words(match["tail"] or "")):
        return _of_cc_address(address, match)
    for pattern, words in _ADDRESSES.items():
        match = re.fullmatch(pattern, address)
        if match:
            name = words or match["name"]
            signs, strange = signs_of(split_words(name))
            items = [] if strange else _named(signs)
            if len(items) == 1:
                return items[0]
    return Licence(
        address, address, "unknown", known=False, terms=restrictions(split_words(address))
    )


def _of_cc_address(address: str, match: re.Match[str]) -> Licence:
    kind, version, port = match["kind"].strip("-"), match["version"] or "", match["port"] or ""
    if kind in ("zero", "cc0"):
        return Licence(address, CC0, "cc0", known=True, version="1.0")
    if kind in ("mark", "publicdomain", "certification"):
        return Licence(address, PUBLIC_DOMAIN_MARK, "pd", known=True, version="1.0")
    if "sampling" in kind:
        url = f"https://{address}"
        return Licence(address, url, "sampling+", known=True, terms=frozenset({"by", "nc"}))
    terms = frozenset(kind.split("-"))
    return _creative_commons(address, terms, version, port, order=kind)


def _creative_commons(
    text: str, terms: frozenset[str], version: str, port: str, order: str = ""
) -> Licence:
    """Return the licence with these terms; unknown if Creative Commons has no such licence."""
    family = "-".join(t for t in ("by", "nc", "nd", "sa") if t in terms | {"by"})
    exists = terms <= {"by", "nc", "nd", "sa"} and family in CREATIVE_COMMONS
    if not exists or not (version in _VERSIONS or not version):
        return Licence(text, text, "unknown", known=False, terms=terms & {"by", "nc", "nd", "sa"})
    # In version 1.0 the terms have another order, and some licences need no attribution.
    path = order if version == "1.0" and order else family
    tail = f"{port}/" if port and version != "4.0" else ""
    url = f"https://creativecommons.org/licenses/{path}/{version}/{tail}" if version else ""
    return Licence(text, url, family, True, terms, version, port if tail else "")


# --- words

_NOTICE = re.compile(
    r"[\s(]*copyright\b(?P<holder>.*?)(?P<rest>(?:[,;|(]|\bcc[ _-]?(?:by|0|zero)\b"
    r"|creative commons|licen[sc]ed|all rights|some rights).*|)"
)


def _without_holder(text: str) -> tuple[str, str] | None:
    """Split a copyright notice into its holder and what follows; None if the text is no notice.

    "(c) Ann, some rights reserved (CC BY)" gives "Ann" and ", some rights reserved (CC BY)".
    """
    match = _NOTICE.fullmatch(text)
    return None if match is None else (match["holder"], match["rest"])


def _named(signs: Sequence[str]) -> list[Licence]:
    """Return the licences that a sequence of signs names, each with its version."""
    groups: list[list[str]] = [[]]
    for sign in signs:
        if _is_head(sign) and any(map(_is_head, groups[-1])):
            groups.append([])
        groups[-1].append(sign)
    found = [item for group in groups for item in _of_group(group)]
    # "CC0 1.0 Universal (Public Domain Dedication)" is one licence.
    if any(item.family == "cc0" for item in found):
        found = [item for item in found if item.family != "pd"]
    return found


def _is_head(sign: str) -> bool:
    return sign in ("by", "zero", "pd", "reserved", "notice") or sign.startswith("other:")


def _of_group(group: Sequence[str]) -> list[Licence]:
    versions = [sign[2:] for sign in group if sign.startswith("v:")]
    ports = [sign[5:] for sign in group if sign.startswith("port:")]
    terms = frozenset(sign for sign in group if sign in TERMS)
    first = next((sign for sign in group if _is_head(sign) and sign != "by"), "")
    if first == "zero" and not terms:
        return [Licence("", CC0, "cc0", known=True, version="1.0")]
    if first == "pd" and not terms:
        return [Licence("", PUBLIC_DOMAIN_MARK, "pd", known=True, version="1.0")]
    if first in ("reserved", "notice"):
        return [Licence("", "", "all-rights-reserved", known=True, terms=terms)]
    if first.startswith("other:"):
        name = first[6:]
        return [Licence("", "", name, True, frozenset(OTHERS[name][0].split()) | terms)]
    if "by" not in terms or len(set(versions)) > 1 or len(set(ports)) > 1:
        return [Licence("", "", "unknown", known=False, terms=terms)] if group else []
    item = _creative_commons("", terms, "".join(versions[:1]), "".join(ports[:1]))
    if versions and any(sign in TERMS for sign in group[group.index(f"v:{versions[0]}") :]):
        # "CC BY 4.0, no commercial use" is as strict as BY-NC 4.0, and is not that licence.
        return [replace(item, url="", version="", port="")]
    return [item]


def _strictest(text: str, found: Sequence[Licence], spoken: Collection[str]) -> Licence:
    """Return one licence that is as strict as all of these together."""
    terms = frozenset(spoken).union(*(item.terms for item in found))
    if any(item.family == "all-rights-reserved" for item in found):
        return Licence(text, text, "all-rights-reserved", known=True, terms=terms)
    best = [item for item in found if item.terms == terms]
    commons = [item for item in best if item.family in CREATIVE_COMMONS]
    if commons:
        family = max((item.family for item in commons), key=CREATIVE_COMMONS.index)
        stated = {(i.version, i.port, i.url) for i in commons if i.version and i.family == family}
        version, port, url = next(iter(stated)) if len(stated) == 1 else ("", "", "")
        return Licence(text, url or text, family, True, terms, version, port)
    others = [item for item in found if item.family not in CREATIVE_COMMONS]
    if others:
        item = max(others, key=lambda item: len(item.terms))
        url = item.url if len(found) == 1 and item.url else text
        return Licence(text, url, item.family, True, terms)
    family = "-".join(t for t in ("by", "nc", "nd", "sa") if t in terms | {"by"})
    return Licence(text, text, family.replace("nd-sa", "nd"), True, terms)
