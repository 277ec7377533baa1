"""The code in an exported model: the files of its encoder and its front end, unchanged.

An encoder imports torch, timm, torchaudio and the like, and files beside it by `from .name import`.
These imports are followed, so that the repository holds all files of ours that the encoder needs.
An encoder outside of this package imports our files by their whole names; in its copy these become
relative imports. `parts.py` in the repository gives the encoder and the front end fixed names.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.trainer import pooling

if TYPE_CHECKING:
    from dawnchorus.trainer.model import BioEncoder


_OURS = tuple(Path(__file__).parents[1] / part for part in ("encoders", "frontends"))


def shipped_files(model: BioEncoder) -> list[Path]:
    """Files of the encoder, its config, its front end and the pooling, and all that they import."""
    things = (type(model.encoder), type(model.encoder.config), type(model.frontend), pooling)
    waiting = [Path(inspect.getsourcefile(thing) or "") for thing in things]
    found: dict[str, Path] = {}
    while waiting:
        path = waiting.pop()
        if path.name not in found:
            found[path.name] = path
            waiting += _beside(path)
    return sorted(found.values(), key=lambda path: path.name)


def ship(source: Path, folder: Path) -> None:
    """Copy a file of `shipped_files` into a repository, where all lie side by side."""
    text = source.read_text(encoding="utf-8")
    (folder / source.name).write_text(
        _import(source).sub(r"from .\g<name> import", text), encoding="utf-8"
    )


def _import(path: Path) -> re.Pattern[str]:
    """Imports, by whole names, of files of ours or of the file's own package."""
    return re.compile(
        rf"^from (?:dawnchorus\.trainer\.(?:encoders|frontends)|{path.parent.name})"
        r"\.(?P<name>\w+) import", re.MULTILINE
    )  # fmt: skip


def _beside(path: Path) -> list[Path]:
    """Files that a file imports, of ours and from its own folder."""
    text = path.read_text(encoding="utf-8")
    near = [
        path.with_name(f"{node.module}.py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
    ]
    names = {match["name"] for match in _import(path).finditer(text)}
    far = [place / f"{name}.py" for name in names for place in (path.parent, *_OURS)]
    return [*near, *(file for file in far if file.is_file())]


def parts_py(model: BioEncoder) -> str:
    """`parts.py` of an exported repository."""
    things = {
        "EncoderModel": type(model.encoder),
        "EncoderNumbers": type(model.encoder.config),
        "FrontendModel": type(model.frontend),
    }
    lines = ['"""Which encoder and front end this repository holds."""', ""]
    for alias, thing in things.items():
        module = Path(inspect.getsourcefile(thing) or "").stem
        lines.append(f"from .{module} import {thing.__name__} as {alias}")
    return "\n".join([*lines, "", f"__all__ = {sorted(things)!r}", ""])
