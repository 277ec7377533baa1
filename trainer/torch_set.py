"""Whether the installed torch, torchaudio and torchvision were made for each other.

pip does not see to it: torchaudio 2.11 states no torch at all, and torchvision 0.26 takes every
build of torch 2.11, also one for other CUDA libraries than its own. What fails then says "operator
torchvision::nms does not exist" or names a missing library. Read from the packages' metadata, in a
few milliseconds; nothing is imported.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from dawnchorus.trainer.errors import InstallError

OLDEST = 8
"""Minor version of the oldest torch 2 that this package was tested with."""
LAST_TORCHAUDIO = 11
"""torchaudio ended with 2.11, which states that it works with that torch and later ones."""
_BUILD = re.compile(r"cpu|cu\d+|xpu|rocm[\d.]+")
_SEE = "docs/install.md of dawnchorus says how to install a set that was built together"


def check_torch_set() -> None:
    """Look at the versions and builds of what is installed.

    torchaudio and torchvision may be missing: most of this package works without them.

    Raises:
        InstallError: torch is missing or too old, or another of the three was made for another
            torch or another build of it.
    """
    torch = _installed("torch")
    if torch is None:
        raise InstallError(f"torch is not installed; {_SEE}")
    number = re.match(r"2\.(\d+)", torch)
    if number is None or int(number[1]) < OLDEST:
        raise InstallError(f"torch {torch} is too old: torch 2.{OLDEST} or newer is needed; {_SEE}")
    minor = int(number[1])
    wanted = {
        "torchaudio": f"2.{min(minor, LAST_TORCHAUDIO)}",
        "torchvision": f"0.{minor + 15}",
    }
    for name, series in wanted.items():
        found = _installed(name)
        if found is None:
            continue
        if not re.match(rf"{re.escape(series)}(?!\d)", found):
            others = " and ".join(f"{other} {its}" for other, its in wanted.items())
            raise InstallError(
                f"torch {torch} and {name} {found} do not work together: torch 2.{minor} goes with "
                f"{others}; {_SEE}"
            )
        ours, theirs = _build(torch), _build(found)
        # NVIDIA's containers and builds from source have tags of their own, which say nothing.
        if _BUILD.fullmatch(ours) and ours != theirs and (not theirs or _BUILD.fullmatch(theirs)):
            raise InstallError(
                f"torch {torch} is the build for {ours}, {name} {found} is "
                f"{f'the one for {theirs}' if theirs else 'of another index'}: they need each "
                f"other's libraries. Install both from one index; {_SEE}"
            )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _build(installed: str) -> str:
    """`cu126` of `2.11.0+cu126`; "" of a version without a tag, as PyPI has them."""
    return installed.partition("+")[2]
