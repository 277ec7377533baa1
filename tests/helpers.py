"""What tests of several folders use; pyproject puts tests/ on the path: `from helpers import x`."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path


def digests(root: Path) -> dict[str, str]:
    """{path below `root`: SHA-256} of every file."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def evil_zip() -> bytes:
    """A zip archive whose members want to lie outside of where they are unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("../../outside.txt", "/tmp/outside_too.txt", "..\\outside.txt"):
            file.writestr(name, "no")
    return buffer.getvalue()
