"""The code as it is at submission, kept in the run folder.

A job that SLURM starts again next week would otherwise import whatever lies in the checkout then.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

PACKAGES = ("trainer", "data_prep", "slurm")


def keep_code(folder: Path) -> Path:
    """Copy our packages and the recipes into `folder`; returns it.

    What was kept before for the same files stays as it is; another version replaces it only when
    no job has started from it yet, which the caller knows.
    """
    if (folder / "dawnchorus").is_dir():
        shutil.rmtree(folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in PACKAGES:
        shutil.copytree(package_folder(name), folder / "dawnchorus" / name, ignore=ignore)
    from dawnchorus.trainer.compose import recipes_folder

    shutil.copytree(recipes_folder(), folder / "dawnchorus" / "recipes", ignore=ignore)
    from dawnchorus.trainer.runtime.environment import source_revision

    revision = {"revision": source_revision(), "from": str(package_folder("trainer").parent)}
    (folder / "revision.json").write_text(json.dumps(revision) + "\n")
    return folder


def package_folder(name: str) -> Path:
    """Where a package of ours is imported from."""
    spec = importlib.util.find_spec(f"dawnchorus.{name}")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
