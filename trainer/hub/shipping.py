"""The code that an exported model carries: its encoder's and its front end's files, as they are.

An encoder imports torch, timm, torchaudio and the like, and files beside it by `from .name import`;
those are followed, so that whatever the encoder needs of ours lies in the repository. `parts.py`
there says under fixed names which encoder and front end it is.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.trainer import pooling

if TYPE_CHECKING:
    from dawnchorus.trainer.model import BioEncoder


def shipped_files(model: BioEncoder) -> list[Path]:
    """Files of the encoder, its config, its front end and the pooling, and all that they import."""
    things = (type(model.encoder), type(model.encoder.config), type(model.frontend), pooling)
    waiting = [Path(inspect.getsourcefile(thing) or "") for thing in things]
    found: dict[str, Path] = {}
    while waiting:
        path = waiting.pop()
        if path.name not in found:
            found[path.name] = path
            waiting += [path.with_name(f"{name}.py") for name in _beside(path)]
    return sorted(found.values(), key=lambda path: path.name)


def _beside(path: Path) -> list[str]:
    """Names of the modules that a file imports from its own folder."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
    ]


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
