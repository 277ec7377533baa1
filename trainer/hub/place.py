"""The place of an export: a new folder, or a folder that holds only an earlier export.

A folder is never deleted as a whole. Only the files of an export are, one by one, by their names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from dawnchorus.trainer.errors import CheckpointError

MODELING = "modeling_dawnchorus"
_HERE = Path(__file__).parents[1]
CODE = frozenset(
    {f"{MODELING}.py", "parts.py", "pooling.py"}
    | {file.name for part in ("encoders", "frontends") for file in (_HERE / part).glob("*.py")}
)
"""Code that an export may carry."""
FILES = CODE | {
    "README.md", "CREDITS.md", "LICENSE", "config.json", "data.json", "label_map.json",
    "model.safetensors", "preprocessor_config.json", "recipe.yaml", "train_config.yaml",
}  # fmt: skip
"""All files of an export, except the weights for avex, which have the name of the repository."""
_AVEX_WEIGHTS = re.compile(r'checkpoint_path="([^"/\\]+\.safetensors)"')


def check_place(out: Path, *, overwrite: bool) -> None:
    """Refuse a place that an export must not take.

    Raises:
        CheckpointError: the place is a file or a link, is in use and may not be replaced, or holds
            files that belong to no export; the message names the first of them.
    """
    if out.is_symlink():
        raise CheckpointError(f"{out} is a link: give the folder itself")
    if out.is_file():
        raise CheckpointError(f"{out} is a file: give a folder to export to")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(
            f"{out} is not empty: give another folder, or --overwrite to replace an earlier export"
        )
    if (out / "checkpoints").is_dir():
        raise CheckpointError(f"{out} is a run folder: an export does not replace one")
    if not _is_export(out):
        raise CheckpointError(
            f"{out} is not an export of this project, so --overwrite does not replace it (it holds "
            f"{_some(sorted(path.name for path in out.iterdir()))}). Give another folder"
        )
    if found := foreign_files(out):
        raise CheckpointError(
            f"{out} is an export and holds other things too: {_some(found)}. --overwrite would "
            "delete them: move them away, or give another folder"
        )


def foreign_files(folder: Path) -> list[str]:
    """Names in an export's folder that do not belong to it: other files, folders and links."""
    ours = _names(folder)
    return [
        path.name + ("/" if path.is_dir() and not path.is_symlink() else "")
        for path in sorted(folder.iterdir())
        if path.name not in ours or path.is_symlink() or not path.is_file()
    ]


def put_in_place(temporary: Path, out: Path) -> None:
    """Give a finished folder its name, and remove an earlier export there.

    Raises:
        CheckpointError: other files have appeared there since `check_place`.
        OSError: the file system refuses; then the earlier export is back at its place.
    """
    # mkdtemp and safetensors make files that only the owner can read: give all the usual mode.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)
    for file in temporary.iterdir():
        file.chmod(0o666 & ~umask)
    if not out.exists():
        temporary.rename(out)
        return
    check_place(out, overwrite=True)
    ours = _names(out)
    old = temporary.with_suffix(".old")
    out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        old.rename(out)
        raise
    for name in ours:
        (old / name).unlink(missing_ok=True)
    try:
        old.rmdir()
    except OSError:  # another process has written into it just now
        raise CheckpointError(
            f"{out} was replaced, but other files had come into it; they are in {old} now"
        ) from None


def discard(temporary: Path) -> None:
    """Remove a folder that this process has made and filled."""
    shutil.rmtree(temporary, ignore_errors=True)


def _is_export(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "dawnchorus"


def _names(folder: Path) -> frozenset[str]:
    """Names that the files of the export in this folder may have."""
    try:
        first = (folder / "train_config.yaml").read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, ValueError):
        return FILES
    return FILES | set(_AVEX_WEIGHTS.findall(first))


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
