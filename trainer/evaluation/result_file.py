"""Paths and writing of the result of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.files import write_whole

if TYPE_CHECKING:
    from dawnchorus.trainer.hub.importing import LoadedModel


def output_paths(
    loaded: LoadedModel, source: str | Path, dataset: str, out: Path | None, cache: bool
) -> tuple[Path, Path | None]:
    """Paths of the JSON and of the cached embeddings.

    For a run, the JSON is `<run>/evaluation/<dataset>.json`; for one of its checkpoint files, it is
    `<dataset>@<checkpoint>.json` beside that. For anything else it is in the working folder, and
    there is no cache.
    """
    run = loaded.weights.run
    if run is None:
        return out or Path(f"{Path(source).stem}-{dataset}.json"), None
    name = f"{dataset}@{Path(source).stem}" if loaded.kind == "checkpoint" else dataset
    folder = run / "evaluation"
    return out or folder / f"{name}.json", folder / "cache" if cache else None


def write_result(path: Path, value: dict[str, Any]) -> None:
    """Write the JSON whole or not at all.

    Raises:
        DataError: it cannot be written there.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise DataError(
            f"the result could not be written to {path} ({error}): make room or choose another "
            "place with --out; the embeddings are kept, so a second run is quick"
        ) from error


def plain(value: Any) -> Any:
    """Convert to JSON's types: no tuples, no numpy, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
