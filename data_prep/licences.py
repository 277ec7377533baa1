"""Licences as one URL each, so that equal licences count as equal in the ledger."""

from __future__ import annotations

import re

CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
_PUBLIC_DOMAIN = "https://creativecommons.org/publicdomain/mark/1.0/"

_CC_URL = re.compile(
    r"(?:https?:)?//(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d\.\d)"
    r"(/[a-z]{2,3})?(?:/.*)?$",
    re.IGNORECASE,
)
_CC_NAME = re.compile(
    r"cc[ _-]*(by(?:[ _-]+nc)?(?:[ _-]+(?:sa|nd))?)[ _-]*v?(\d\.\d)(?:[ _]+international)?$",
    re.IGNORECASE,
)
_CC0_NAME = re.compile(r"cc[ _-]*0(?:[ _-]*v?1\.0)?(?:[ _]+universal)?$", re.IGNORECASE)
# What Hugging Face accepts as `license:` in a card, for the licences that name a version.
_HF_VERSIONS = {"by": "4.0 3.0 2.5 2.0", "by-sa": "4.0 3.0", "by-nc": "4.0 3.0 2.0"} | {
    "by-nd": "4.0",
    "by-nc-sa": "4.0 3.0 2.0",
    "by-nc-nd": "4.0 3.0",
}


def licence_url(text: str) -> str:
    """Return the canonical URL of a Creative Commons licence, or `text` where it names none.

    Accepts URLs in all their spellings (http, no scheme, /legalcode, /deed.de) and names with a
    version ("CC BY-NC 4.0"). A name without a version ("CC-BY") stays as it is: which version was
    meant is not ours to decide. CC0 has only one.
    """
    text = " ".join(text.split())
    found = _CC_URL.match(text)
    if found:
        kind, name, version, port = found.groups()
        # A ported licence ("/de/") is a licence of its own; "/deed" and "/legalcode" are pages.
        return (
            f"https://creativecommons.org/{kind.lower()}/{name.lower()}/{version}"
            f"{(port or '').lower()}/"
        )
    found = _CC_NAME.match(text)
    if found:
        name = re.sub(r"[ _-]+", "-", found.group(1).lower())
        return f"https://creativecommons.org/licenses/{name}/{found.group(2)}/"
    if _CC0_NAME.match(text):
        return CC0
    return text


def short_name(url: str) -> str:
    """Return a name to print: "CC BY-NC-SA 4.0", "CC0 1.0", or the text itself."""
    found = _CC_URL.match(url)
    if not found:
        return url or "not stated"
    kind, name, version, port = found.groups()
    if url == _PUBLIC_DOMAIN:
        return "Public Domain Mark 1.0"
    if kind == "publicdomain":
        return f"CC0 {version}" if name == "zero" else f"{name} {version}"
    return f"CC {name.upper()} {version}{(port or '').replace('/', ' ').upper()}"


def hugging_face_id(url: str) -> str:
    """Return the identifier for the `license:` field of a Hugging Face card, or "other"."""
    if url == CC0:
        return "cc0-1.0"
    found = _CC_URL.match(url)
    if found and found.group(1) == "licenses" and not found.group(4):
        name, version = found.group(2), found.group(3)
        if version in _HF_VERSIONS.get(name, "").split():
            return f"cc-{name}-{version}"
    return "other"
