"""The pages that people look at: one look, one script policy, and a few kinds of things on them.

A page is made of calls: `page(..., section("id", "Title", table(["Name", Number("N")], rows)))`.
Every function returns HTML as `Markup`; whatever else it is given is text and gets escaped. A page
is one file that asks for nothing from anywhere: style, script, drawings, pictures and sound are in
it. The script adds comforts that the page does without.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, NamedTuple

from markupsafe import Markup, escape

LATIN_RANKS = frozenset({"genus", "species", "subspecies", "form", "variety"})
_EMPTY = frozenset({"br", "img", "link", "meta"})


def tag(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """Return an element. `css` is its class; attributes that are None or False are left out.

    Content: text, markup, or lists of them; None is left out.
    """
    attributes = {"class": attributes.pop("css", None), **attributes}
    head = "".join(
        f" {key.replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value not in (None, False, "")
    )
    if name in _EMPTY:
        return Markup(f"<{name}{head}>")
    return Markup(f"<{name}{head}>{join(content)}</{name}>")


def join(content: Any) -> Markup:
    """Return everything in nested lists as one piece of markup."""
    if content is None:
        return Markup("")
    if isinstance(content, list | tuple):
        return Markup("".join(join(item) for item in content))
    return Markup(escape(content))


# --------------------------------------------------------------------------- numbers and names


def readable(value: float | None) -> str:
    """Write a number as a person does: 0.0512, 3.4, 12k, 1.2M, 3e-5."""
    if value is None or not abs(value) < float("inf"):
        return "–"
    size = abs(value)
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / divisor:.4g}{suffix}"
    if size == 0 or size >= 1e-3:
        return f"{value:.4g}" if size < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def taxon(name: str, rank: str | None) -> Markup:
    """Return a label's name, in italics where it is Latin by its rank."""
    return tag("i", name) if rank in LATIN_RANKS else escape(name)


def link(text: Any, url: str, rel: str = "noreferrer") -> Markup:
    """Return a link where the address is one of the web, else the text: no link runs a script."""
    url = f"https:{url}" if url.startswith("//") else url
    return (
        tag("a", text, href=url, rel=rel) if url.startswith(("https://", "http://")) else join(text)
    )


# --------------------------------------------------------------------------- kinds of content


class Number(str):
    """The title of a column of numbers: they stand at its right edge, thousands set apart."""


class Row(NamedTuple):
    """A row of a table with a class of the style sheet."""

    css: str
    cells: Sequence[Any]


def table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], *, caption: Any = None, css: str = ""
) -> Markup:
    """Return a table; the first cell of each row is its heading. None is shown as a dash."""
    kinds = ["num" if isinstance(title, Number) else None for title in head]
    names = [tag("th", title, scope="col", css=css) for title, css in zip(head, kinds, strict=True)]
    body = []
    for row in rows:
        row_css, cells = row if isinstance(row, Row) else ("", row)
        made = [
            tag("td" if i else "th", _cell(cell, kind), css=kind, scope=None if i else "row")
            for i, (cell, kind) in enumerate(
                zip(cells, [*kinds, *[None] * len(cells)], strict=False)
            )
        ]
        body.append(tag("tr", made, css=row_css))
    return tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", names)) if names else None,
        tag("tbody", body),
        css=css,
    )


def _cell(cell: Any, kind: str | None) -> Any:
    if cell is None:
        return "–"
    return f"{cell:,}" if kind and isinstance(cell, int) else cell


def figures(rows: Iterable[tuple[str, Any]], css: str = "") -> Markup:
    """Return names and values, each value under (or over) its name."""
    return tag(
        "dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows], css=css
    )


@dataclass(frozen=True)
class Section:
    """A part of the page, and what it is called in the list of links at the top."""

    anchor: str
    nav: str
    html: Markup

    def __html__(self) -> str:
        return self.html


def section(anchor: str, title: str, *content: Any, of: Any = None, nav: str = "") -> Section:
    """Return a part of the page with its heading; `nav` is its title where none is given."""
    html = tag("section", _headed("h2", title, of), content, id=anchor)
    return Section(anchor, nav or title, html)


def _headed(kind: str, title: Any, of: Any) -> Markup | None:
    return tag(kind, title, [" ", tag("span", of, css="of")] if of else None) if title else None


def card(*content: Any, css: str = "", title: Any = None, of: Any = None) -> Markup:
    """Return a framed box; what is too wide for a phone scrolls inside it."""
    return tag("div", _headed("h3", title, of), content, css=f"card scroll {css}".strip())


def figure(title: Any, drawing: Any, *more: Any, of: Any = None, css: str = "chart") -> Markup:
    """Return a framed drawing with its title above it."""
    return tag("figure", _headed("figcaption", title, of), drawing, more, css=f"card {css}")


def grid(*content: Any, css: str = "grid") -> Markup:
    """Return boxes side by side: `grid` (small), `two` or `three` columns, one on a phone."""
    return tag("div", content, css=css)


def note(*content: Any, css: str = "note") -> Markup:
    """Return a paragraph: a `note`, a `warning`, something `good`, or that there is `none`."""
    return tag("p", content, css=css)


def details(summary: Any, *content: Any, opened: bool = False) -> Markup:
    """Return what is seen when its summary is clicked, and on paper."""
    return tag("details", tag("summary", summary), content, open=opened)


def items(rows: Iterable[Any], css: str = "") -> Markup:
    """Return a list."""
    return tag("ul", [tag("li", row) for row in rows], css=css)


def bar(percent: float, *, over: Any = None) -> Markup:
    """Return a bar of 0 to 100 per cent of the place that there is; `over` is laid over it."""
    width = f"width:{min(max(percent, 0.0), 100.0):.1f}%"
    return tag("span", tag("span", style=width), over, css="bar")


def bars(rows: Iterable[tuple[Any, float, str] | tuple[Any, float, str, str]]) -> Markup:
    """Return a list of (name, per cent of the longest bar, text, class) with a bar in each row."""
    return tag(
        "ol",
        [
            tag("li", tag("span", name, css="name"), bar(share), tag("span", text, css="num"),
                css=css[0] if css else None)
            for name, share, text, *css in rows
        ],
        css="hbars",
    )  # fmt: skip


# --------------------------------------------------------------------------- the page


def page(kind: str, title: str, verdict: str, *content: Any, top: Any = None) -> str:
    """Return a whole page.

    Args:
        kind: what it is, "report" or "dataset".
        title: its heading.
        verdict: a sentence or two that sum it up.
        content: sections and what stands between them; None is left out.
        top: what stands below the links to the sections.
    """
    style, script = (_shipped(name) for name in ("page.css", "page.js"))
    # Only this script may run, whatever a label or a file name contains.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    )
    switch = tag(
        "button", "◐", id="theme", hidden=True, type="button",
        aria_label="Switch between light and dark",
    )  # fmt: skip
    made = tag("span", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), css="made")
    head = [
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} · dawnchorus {kind}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    ]
    links = [tag("a", s.nav, href=f"#{s.anchor}") for s in content if isinstance(s, Section)]
    header = tag(
        "header",
        tag("p", f"dawnchorus {kind} ", made, switch, css="overline"),
        tag("h1", title),
        tag("p", verdict, css="verdict"),
        tag("nav", links, aria_label="Sections"),
        top,
    )
    body = [header, tag("main", content), tag("script", script)]
    html = tag("html", tag("head", head), tag("body", body), lang="en")
    return str(Markup("<!doctype html>\n") + html + Markup("\n"))


def _shipped(name: str) -> Markup:
    return Markup((resources.files(__name__) / name).read_text(encoding="utf-8"))
