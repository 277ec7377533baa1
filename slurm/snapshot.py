"""A snapshot of the code in the run folder, taken at submission.

Without it, a job that SLURM restarts next week would import whatever the checkout holds by then.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

PACKAGES = ("trainer", "data_prep", "slurm")


def keep_code(folder: Path) -> Path:
    """Copy our packages and the recipes into `folder`, replacing an earlier copy; returns `folder`.

    The caller makes sure that no job which may still start needs the earlier copy.
    """
    if (folder / "dawnchorus").is_dir():
        shutil.rmtree(folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in PACKAGES:
        shutil.copytree(package_folder(name), folder / "dawnchorus" / name, ignore=ignore)
    from dawnchorus.trainer.compose import recipes_folder

    shutil.copytree(recipes_folder(), folder / "dawnchorus" / "recipes", ignore=ignore)
    from dawnchorus.trainer.session.environment import source_revision

    revision = {"revision": source_revision(), "from": str(package_folder("trainer").parent)}
    (folder / "revision.json").write_text(json.dumps(revision) + "\n")
    return folder


def package_folder(name: str) -> Path:
    """The folder from which Python imports one of our packages."""
    spec = importlib.util.find_spec(f"dawnchorus.{name}")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
