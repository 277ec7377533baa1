"""What the HTML pages have in common: the look, the theme switch, the one script that may run.

A page is a package with `page.html.jinja`, `page.css` and `page.js`; `base.css` and `base.js` here
come before its own. The template gets `style`, `script`, `script_hash` (for its content security
policy) and `made` (when) besides what it is called with.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any


def render_page(
    package: str, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """Return the page of `package`, whole: it asks for nothing from anywhere.

    Raises jinja2.UndefinedError where the template names what `facts` does not hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters or {})
    script = _both(package, "js")
    page = environment.get_template("page.html.jinja").render(
        facts,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=_both(package, "css"),
        script=script,
        # Only this script may run, whatever a label or a file name contains.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.lstrip()


def _both(package: str, suffix: str) -> Any:
    """The common file and the page's own, in one; not to be escaped."""
    from markupsafe import Markup

    base = resources.files(__name__) / f"base.{suffix}"
    own = resources.files(package) / f"page.{suffix}"
    return Markup(base.read_text(encoding="utf-8") + own.read_text(encoding="utf-8"))
