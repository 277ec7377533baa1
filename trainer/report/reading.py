"""Read a run folder and dataset statistics, tolerating whatever is missing or damaged.

Nothing here raises for a bad file: each fault becomes one sentence in `problems`, which the page
prints. Only a run folder that does not exist at all is an error.

Shape legend: K examples, T frames, F mel bins, N tokens (n = columns * t + f, BEATs' grid).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.registry import needs_labels
from dawnchorus.trainer.report.log import Log, read_log

FOLDER = "folder"
"""Added to a dataset's statistics: where they were read."""


@dataclass(frozen=True)
class Example:
    """One clip that was looked at when training ended."""

    key: str
    source: str
    labels: list[str]
    predictions: list[tuple[str, float]]
    mel_TF: NDArray[np.float32]
    mask_N: NDArray[np.bool_] | None = None
    code_N: NDArray[np.int64] | None = None
    predicted_N: NDArray[np.int64] | None = None


@dataclass
class Run:
    """A run folder as it stands."""

    folder: Path
    log: Log = field(default_factory=Log)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, str] = field(default_factory=dict)
    """Label name -> taxonomic rank, where labels.json tells it."""
    examples: list[Example] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """File name without suffix -> what `chorus evaluate` wrote."""
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The recipe's name, else the folder's."""
        return str(self.recipe.get("name") or self.folder.resolve().name)

    @property
    def stage(self) -> str:
        """`pre-training`, `post-training`, `training from scratch` or `training`."""
        objective = str(self.get("objective", "name") or "")
        has_codes = any(e.code_N is not None for e in self.examples)
        without_labels = bool(objective) and not needs_labels(objective)
        if without_labels or "masked_accuracy" in self.log.train or has_codes:
            return "pre-training"
        if objective:
            return "post-training" if self.recipe.get("init_from") else "training from scratch"
        return "post-training" if self.log.series("map", "auroc", kind="valid") else "training"

    @property
    def adjective(self) -> str:
        """What an encoder is called that comes out of this run."""
        return {
            "pre-training": "pre-trained",
            "post-training": "post-trained",
            "training from scratch": "trained from scratch",
        }.get(self.stage, "trained")

    def get(self, *path: str) -> Any:
        """A value of the recipe by its path, or None."""
        value: Any = self.recipe
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *path: str, default: float) -> float:
        """A number of the recipe by its path."""
        value = self.get(*path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else default


def read_run(folder: Path) -> Run:
    """Read all files of a run that the report uses.

    Raises:
        DataError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no run folder {folder}: give the folder that training wrote, the one with "
            "metrics.jsonl and recipe.yaml in it"
        )
    run = Run(folder)
    _read_recipe(run)
    run.environment = _json_object(folder / "environment.json", run.problems)
    run.data = _json_object(folder / "data.json", run.problems)
    try:
        run.log = read_log(folder / "metrics.jsonl")
    except FileNotFoundError:
        run.problems.append("metrics.jsonl is missing: no curves, steps or times can be shown")
    except OSError as error:
        run.problems.append(f"metrics.jsonl could not be read ({error})")
    run.problems += run.log.problems
    _read_examples(run)
    if run.stage != "pre-training" or (folder / "labels.json").exists():
        run.ranks = _ranks(folder / "labels.json", run.problems)
    for path in sorted((folder / "evaluation").glob("*.json")):
        if table := _json_object(path, run.problems, "evaluation/"):
            run.evaluations[path.stem] = table
    if not run.evaluations:
        run.problems.append(f"no evaluation yet: `chorus evaluate {folder}` makes one")
    return run


def read_datasets(folders: list[Path], problems: list[str]) -> list[dict[str, Any]]:
    """`stats.json` of each dataset (once each); what cannot be read is told in `problems`."""
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        key = folder.resolve()
        if key not in found and (stats := _json_object(folder / "stats.json", problems)):
            found[key] = {"name": key.name, **stats, FOLDER: str(key)}
    return list(found.values())


def read_ranks(folders: list[Path]) -> dict[str, str]:
    """Label name -> taxonomic rank, from the `labels.json` of datasets that have one."""
    ranks: dict[str, str] = {}
    for folder in folders:
        ranks |= _ranks(folder / "labels.json", [])
    return ranks


def _read_recipe(run: Run) -> None:
    import yaml

    path = run.folder / "recipe.yaml"
    try:
        run.recipe_text = path.read_text(encoding="utf-8", errors="replace")
        recipe = yaml.safe_load(run.recipe_text)
    except FileNotFoundError:
        run.problems.append("recipe.yaml is missing: the stage is guessed from what was logged")
        return
    except (OSError, yaml.YAMLError, RecursionError) as error:
        run.problems.append(f"recipe.yaml could not be read ({_short(error)})")
        return
    if isinstance(recipe, dict):
        run.recipe = {str(k): v for k, v in recipe.items()}
    else:
        run.problems.append("recipe.yaml holds no mapping: the stage is guessed from the log")


def _json_object(path: Path, problems: list[str], prefix: str = "") -> dict[str, Any]:
    name = f"{prefix}{path.name}" if path.name != "stats.json" else str(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        problems.append(f"{name} is missing")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{name} could not be read ({_short(error)})")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{name} holds no JSON object")
        return {}
    return value


def _ranks(path: Path, problems: list[str]) -> dict[str, str]:
    labels = _json_object(path, problems).get("labels")
    rows = labels if isinstance(labels, list) else []
    return {
        str(r["name"]): str(r.get("rank", "")) for r in rows if isinstance(r, dict) and "name" in r
    }


def _read_examples(run: Run) -> None:
    path = run.folder / "examples.npz"
    if not path.exists():
        run.problems.append("examples.npz is missing: training writes it when it ends")
        return
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        mel_KTF, frames_K = arrays["mel_KTF"], arrays["frames_K"]
        if mel_KTF.ndim != 3 or frames_K.shape != mel_KTF.shape[:1]:
            raise ValueError(f"mel_KTF has shape {mel_KTF.shape}, frames_K {frames_K.shape}")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        run.problems.append(f"examples.npz could not be read ({_short(error)})")
        return
    records = _example_records(run, len(mel_KTF))
    for k, record in enumerate(records):
        frames = int(np.clip(frames_K[k], 0, mel_KTF.shape[1]))
        if frames == 0:
            continue
        mel_TF = np.nan_to_num(mel_KTF[k, :frames].astype(np.float32))
        tokens = {
            name: arrays[f"{name}_KN"][k]
            for name in ("mask", "code", "predicted")
            if arrays.get(f"{name}_KN", np.empty(0)).ndim == 2 and k < len(arrays[f"{name}_KN"])
        }
        run.examples.append(_example(record, mel_TF, tokens))


def _example_records(run: Run, count: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    path = run.folder / "examples.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        records = (
            [r if isinstance(r, dict) else {} for r in value] if isinstance(value, list) else []
        )
    except (OSError, ValueError, RecursionError) as error:
        run.problems.append(f"examples.json could not be read ({_short(error)})")
    return (records + [{}] * count)[:count]


def _example(
    record: dict[str, Any], mel_TF: NDArray[np.float32], tokens: dict[str, NDArray[Any]]
) -> Example:
    labels = record.get("labels")
    predictions = []
    raw = record.get("predictions")
    for pair in raw if isinstance(raw, list) else []:
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], int | float):
            predictions.append((str(pair[0]), float(pair[1])))
    return Example(
        key=str(record.get("key", "")),
        source=str(record.get("source", "")),
        labels=[str(name) for name in labels] if isinstance(labels, list) else [],
        predictions=predictions,
        mel_TF=mel_TF,
        mask_N=tokens["mask"].astype(bool) if "mask" in tokens else None,
        code_N=tokens["code"].astype(np.int64) if "code" in tokens else None,
        predicted_N=tokens["predicted"].astype(np.int64) if "predicted" in tokens else None,
    )


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
