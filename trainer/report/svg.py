"""matplotlib figures as inline SVG that follows the page's theme.

matplotlib draws with stand-in colours (`INK`, `SERIES`, ...); `to_svg` turns each into a CSS
variable, so that one drawing serves the light, the dark and the printed page. Text stays text, in
the page's fonts. Figures are made with `matplotlib.figure.Figure` and never with pyplot: no global
state, no display, safe beside a training process. One SVG unit is one CSS pixel at natural size.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, VEIL = "#0a0001", "#0a0002", "#0a0003", "#0a0004"
SERIES = ("#0a0011", "#0a0012", "#0a0013", "#0a0014")
GOOD, BAD, MARK = "#0a0021", "#0a0022", "#0a0023"

_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", VEIL: "--veil",
    SERIES[0]: "--s1", SERIES[1]: "--s2", SERIES[2]: "--s3", SERIES[3]: "--s4",
    GOOD: "--good", BAD: "--bad", MARK: "--mark",
}  # fmt: skip

_RC = {
    "svg.fonttype": "none",
    "axes.labelsize": "medium",
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.major.pad": 5.0,
    "ytick.major.pad": 5.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "path.simplify": True,
}

# Element ids must not repeat within a page: each drawing salts its own.
_serial = count()


def draw(
    width_px: float,
    height_px: float,
    paint: Callable[[Figure], None],
    *,
    label: str,
    font_px: float = 10.0,
) -> Markup:
    """Let `paint` draw on an empty figure; inline SVG of that size, described by `label`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rc = {**_RC, "font.size": font_px, "svg.hashsalt": f"chart{next(_serial)}"}
    with mpl.rc_context(rc):
        figure = Figure(figsize=(width_px / 72, height_px / 72), dpi=72)
        paint(figure)
        return to_svg(figure, label)


def to_svg(figure: Figure, label: str) -> Markup:
    """Inline SVG of a figure: no prologue, no ids but those referred to, themed colours."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    head = f'<svg role="img" aria-label="{Markup.escape(label)}" viewBox="{box[1]}">'
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    # A gid of ours becomes a class that the style sheet knows; matplotlib's own ids go.
    svg = re.sub(r'<g id="(?:css-([\w-]+)|[\w.-]+)"', _group, svg)
    svg = re.sub(r"font-family: [^;\"]*;?\s?", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", svg)
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: _short_numbers(m[0]), svg)
    svg = re.sub(r'(data:image/png;base64,)([^"]*)', lambda m: m[1] + _lighter_png(m[2]), svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return Markup(re.sub(r">\s+<", "><", svg).strip())


def _group(match: re.Match[str]) -> str:
    return f'<g class="{match[1]}"' if match[1] else "<g"


def _short_numbers(text: str) -> str:
    text = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), text)
    return re.sub(r"\s+", " ", text).replace(' "', '"')


def _lighter_png(data: str) -> str:
    """Large opaque pictures with 64 colours: a third of the size, no difference to be seen."""
    from PIL import Image

    raw = base64.b64decode(data)
    with Image.open(io.BytesIO(raw)) as image:
        if image.width * image.height < 20_000:
            return data
        buffer = io.BytesIO()
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
            buffer, format="PNG", optimize=True
        )
    smaller = base64.b64encode(buffer.getvalue()).decode()
    return min(data, smaller, key=len)


def data_box(figure: Any, axes: Any) -> dict[str, float]:
    """Where the axes lie in the drawing (px from the top left) and what they span."""
    width, height = figure.get_size_inches() * 72
    place = axes.get_position()
    low, high = axes.get_xlim()
    return {
        "w": round(float(width), 1),
        "x0": round(float(place.x0 * width), 1),
        "x1": round(float(place.x1 * width), 1),
        "y0": round(float((1 - place.y1) * height), 1),
        "y1": round(float((1 - place.y0) * height), 1),
        "h": round(float(height), 1),
        "low": float(low),
        "high": float(high),
    }
