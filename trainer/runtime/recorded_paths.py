"""Where a path that a run wrote down leads to now."""

from __future__ import annotations

import json
from pathlib import Path

from dawnchorus.trainer.references import filled

WORKING_FOLDER = "working_folder"
"""Key of `environment.json`: the folder that a run was started in."""


def recorded_path(path: str, run: Path | None = None) -> Path | None:
    """Look for what a recipe or `data.json` names, from wherever this process was started.

    References to the environment are filled in from that of this process. A relative path is looked
    for in the working folder, then in the one that the run was started in, then in the folders
    above the run (a tree that was moved as a whole).

    Args:
        path: as it was written down.
        run: the run folder that it was written down in.

    Returns:
        The first place where something is; None where nothing is, or for an address (`s3://`).
    """
    path = filled(path)
    if not path or "://" in path:
        return None
    places = [Path(path)]
    if run is not None and not places[0].is_absolute():
        started_in = _working_folder(run)
        places += [started_in / path] if started_in is not None else []
        places += [parent / path for parent in run.resolve().parents]
    return next((place for place in places if place.exists()), None)


def _working_folder(run: Path) -> Path | None:
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        return Path(environment[WORKING_FOLDER])
    except (OSError, ValueError, KeyError, TypeError):
        return None
