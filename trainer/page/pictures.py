"""Pictures of sound and of codes, as data that a page holds.

Shape legend: X times, F bands from low to high, C colours.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS = 640
"""Pictures are no wider: a screen shows no more of them."""
# Magma by Nathaniel Smith and Stéfan van der Walt (CC0), every sixteenth of it.
_MAGMA = (
    "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 "
    "fea772 fec488 fde2a3 fcfdbf"
)


def data_url(kind: str, data: bytes) -> str:
    """Return an address that holds the data itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def sound_picture(level_XF: NDArray[Any], height: int = 0) -> str:
    """Return a picture (WebP) of levels in dB: time to the right, low frequencies below.

    It shows the loudest 60 dB at most. Digital silence, far below any sound, takes none of the
    contrast. `height` in pixels: a pixel a band where it is 0.
    """
    from PIL import Image

    level_XF = np.nan_to_num(np.asarray(level_XF, np.float32))
    high = float(np.percentile(level_XF, 99.9))
    sound = level_XF[level_XF > level_XF.min() + 0.01]
    low = max(
        high - 60.0, min(float(np.percentile(sound, 20)) if sound.size else high, high - 20.0)
    )
    shade_XF = np.clip((level_XF - low) / (high - low), 0, 1)
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in _MAGMA.split()], float)
    size = min(len(shade_XF), PIXELS), height or shade_XF.shape[1]
    grey = Image.fromarray((shade_XF.T[::-1] * 255).astype(np.uint8)).resize(
        size, Image.Resampling.BOX
    )
    place = np.linspace(0, 1, len(anchors))
    palette = np.stack([np.interp(np.arange(256) / 255, place, c) for c in anchors.T], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(palette.astype(np.uint8)[np.asarray(grey)]).save(
        buffer, format="WEBP", quality=62, method=4
    )
    return data_url("image/webp", buffer.getvalue())


def code_picture(code_XF: NDArray[Any], shown_XF: NDArray[np.bool_] | None = None) -> str:
    """Return a picture (PNG) with a pixel for each code; what is not `shown` is clear."""
    from PIL import Image

    colour_XFC = code_colours(code_XF)
    if shown_XF is not None:
        colour_XFC[..., 3] = shown_XF
    pixels = np.round(colour_XFC.transpose(1, 0, 2)[::-1] * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return data_url("image/png", buffer.getvalue())


def code_colours(codes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the colour of each code (RGBA, 0 to 1), the same code always in the same one.

    Hues go round by the golden angle, so that near numbers, which mean nothing, do not look alike;
    lightness steps through three levels, which tells hues apart that a colour-blind eye confuses.
    The colours are OKLCH, converted with Ottosson's matrices (https://bottosson.github.io/posts/oklab).
    """
    hue = np.deg2rad((codes * 137.50776) % 360.0)
    light = 0.55 + 0.14 * (codes % 3)
    a, b = 0.11 * np.cos(hue), 0.11 * np.sin(hue)
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
         [1, -0.0894841775, -1.2914855480]]
    )  # fmt: skip
    to_rgb = np.array(
        [[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
         [-0.0041960863, -0.7034186147, 1.7076147010]]
    )  # fmt: skip
    linear = np.clip(((np.stack([light, a, b], axis=-1) @ to_lms.T) ** 3) @ to_rgb.T, 0.0, 1.0)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.concatenate([rgb, np.ones((*codes.shape, 1))], axis=-1)
