"""The version of this program, also when it runs from a checkout that is not installed."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def package_version() -> str:
    """Return the version: the installed one, else that of the checkout ("0.1.0+source")."""
    try:
        return version("dawnchorus")
    except PackageNotFoundError:
        pass
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    try:
        stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"
    return f"{stated}+source"
