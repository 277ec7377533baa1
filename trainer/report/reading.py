"""Read a run folder and dataset statistics, tolerating whatever is missing or damaged.

Nothing here raises for a bad file: each fault becomes one sentence in `problems`, which the page
prints. Only a run folder that does not exist at all is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.results import Result
from dawnchorus.trainer.metrics_log import Log, read_log
from dawnchorus.trainer.panels import EXAMPLES, Example, TokenPanel, load_examples
from dawnchorus.trainer.registry import needs_labels

FOLDER = "folder"
"""Added to a dataset's statistics: where they were read."""


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
    evaluations: dict[str, Result] = field(default_factory=dict)
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
        tokens = any(isinstance(p, TokenPanel) for e in self.examples for p in e.panels)
        without_labels = bool(objective) and not needs_labels(objective)
        if without_labels or "masked_accuracy" in self.log.train or tokens:
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
        """Return a value of the recipe by its path, or None."""
        value: Any = self.recipe
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


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
    try:
        run.examples = load_examples(folder)
    except FileNotFoundError:
        run.problems.append(f"{EXAMPLES} is missing: training writes it when it ends")
    except DataError as error:
        run.problems.append(str(error))
    if run.stage != "pre-training" or (folder / "labels.json").exists():
        run.ranks = _ranks(folder / "labels.json", run.problems)
    for path in sorted((folder / "evaluation").glob("*.json")):
        try:
            run.evaluations[path.stem] = Result.read(path)
        except DataError as error:
            run.problems.append(f"evaluation/{error}")
    if not any(result.rows for result in run.evaluations.values()):
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


def _json_object(path: Path, problems: list[str]) -> dict[str, Any]:
    name = path.name if path.name != "stats.json" else str(path)
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


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
