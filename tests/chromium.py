"""Chromium, headless, for the pages that reports are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--allow-file-access-from-files",
]  # fmt: skip


def chromium() -> str:
    """The program; the test is skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium` to open the report in a browser")
    return program


class Browser:
    """Chromium with a new, empty profile for every page."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.flags = FLAGS
        self.count = 0

    def run(self, page: Path, *flags: str) -> tuple[str, list[str]]:
        """(standard output, console lines) of opening `page`."""
        self.count += 1
        profile = f"--user-data-dir={self.folder}/profile{self.count}"
        done = subprocess.run(
            [self.program, *self.flags, profile, *flags, page.as_uri()],
            capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    def dom(self, page: Path, *flags: str) -> tuple[str, list[str]]:
        """(document after its scripts, console lines)."""
        return self.run(page, "--dump-dom", *flags)

    def picture(self, page: Path, width: int, height: int, *flags: str) -> np.ndarray:
        """A screenshot, float [height, width, 3] in 0..255."""
        from PIL import Image

        out = self.folder / f"shot{self.count}.png"
        self.run(page, f"--screenshot={out}", f"--window-size={width},{height}", *flags)
        with Image.open(out) as image:
            return np.asarray(image.convert("RGB"), dtype=float)
