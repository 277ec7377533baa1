"""Finds the present place of a path that a run has recorded."""

from __future__ import annotations

import json
from pathlib import Path

from dawnchorus.trainer.references import filled

WORKING_FOLDER = "working_folder"
"""Key of `environment.json` for the folder in which a run was started."""


def recorded_path(path: str, run: Path | None = None) -> Path | None:
    """Find a path that a recipe or `data.json` names, wherever this process was started.

    References to environment variables get the values of this process. A relative path is looked
    for in the working folder, then in the folder where the run was started, then in the folders
    above the run (in case a whole tree was moved).

    Args:
        path: the path as it was recorded.
        run: the run folder in which it was recorded.

    Returns:
        The first of these places that exists; None if none does, or for an address (`s3://`).
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
