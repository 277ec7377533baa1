"""The pages that people look at: one look, one script policy, and a few kinds of things on them.

A page is a template that says what stands on it, made of the macros in `parts.jinja`. Whatever is
not markup is text and gets escaped. A page is one file that asks for nothing from anywhere: style,
script, drawings, pictures and sound are in it. The script adds comforts that the page does without.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    import jinja2

LATIN_RANKS = frozenset({"genus", "species", "subspecies", "form", "variety"})
_HERE = Path(__file__).parent


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
    return Markup("<i>{}</i>").format(name) if rank in LATIN_RANKS else escape(name)


def link(text: Any, url: str, rel: str = "noreferrer") -> Markup:
    """Return a link where the address is one of the web, else the text: no link runs a script."""
    url = f"https:{url}" if url.startswith("//") else url
    if not url.startswith(("https://", "http://")):
        return escape(text)
    return Markup('<a href="{}" rel="{}">{}</a>').format(url, rel, text)


def page(template: Path, kind: str, title: str, verdict: str, **values: Any) -> str:
    """Return a whole page.

    Args:
        template: the file with its sections; those of this folder can be imported in it.
        kind: what it is, "report" or "dataset".
        title: its heading.
        verdict: a sentence or two that sum it up.
        values: what the template names; `tiles` are the figures below the links to the sections.
    """
    style, script = (Markup((_HERE / f"page.{kind}").read_text("utf-8")) for kind in ("css", "js"))
    # Only this script may run, whatever a label or a file name contains.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = Markup(
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    )
    return _environment(template.parent).get_template("page.jinja").render(
        values, sections=template.name, kind=kind, title=title, verdict=verdict, style=style,
        script=script, policy=policy, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", nav=[],
    ) + "\n"  # fmt: skip


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    from jinja2 import Environment, FileSystemLoader

    made = Environment(
        loader=FileSystemLoader([folder, _HERE]), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.globals.update(taxon=taxon, link=link, readable=readable)
    made.filters["n"] = "{:,}".format
    return made
