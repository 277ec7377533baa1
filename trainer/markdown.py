"""Text of unknown origin inside Markdown: it shows what was written and does nothing.

Names of recordists, licences, sources and datasets come from archives where anybody writes them.
Cards are read on web pages, which would load an image, follow a link or hide a line for them.
"""

from __future__ import annotations

import re

# An underscore within a word is none.
_MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)")
_WEB = re.compile(
    r"https?://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~%/+-]*)?(?:\?[A-Za-z0-9._~%/=&+-]*)?"
)
_ADDRESS = re.compile(r"(?i)://|\bwww(?=\.)|@")
_BLOCK = re.compile(r"^(?:[-+=#]|\d+[.)])")


def plain(text: object) -> str:
    """Text on one line in which no character is markup and no address becomes a link.

    Characters with a meaning in Markdown or HTML are escaped, so that they show and open nothing.
    Addresses are broken by a space of no width, because readers make links of whatever looks like
    one.
    """
    line = " ".join(str(text).split())
    line = "".join(c for c in line if c.isprintable())
    line = _MARKUP.sub(lambda match: _shown(match.group()), line)
    line = _ADDRESS.sub(lambda match: _broken(match.group()), line)
    return _BLOCK.sub(lambda match: f"&#8203;{match.group()}", line)


def _shown(character: str) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(character, f"\\{character}")


def _broken(part: str) -> str:
    gap = "&#8203;"
    return {"://": f":{gap}//", "@": f"{gap}@"}.get(part, part + gap)


def link(text: object, url: str) -> str:
    """A Markdown link to an address of the web; the text alone where the address is none."""
    return f"[{plain(text)}]({url})" if _WEB.fullmatch(url) else plain(text)


def address(url: str) -> str:
    """An address of the web that can be followed; what is none only shows."""
    return f"<{url}>" if _WEB.fullmatch(url) else plain(url)
