"""Read a run folder and dataset statistics, tolerating whatever is missing or damaged.

Nothing here raises for a bad file: each fault becomes one sentence in `problems`, which the page
prints. Only a run folder that does not exist at all is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.results import Result
from dawnchorus.trainer.metrics_log import Log, read_log
from dawnchorus.trainer.panels import EXAMPLES, Example, TokenPanel, load_examples
from dawnchorus.trainer.registry import needs_labels
from dawnchorus.trainer.training.layout import total_steps
from dawnchorus.trainer.training.recorded_paths import recorded_path

T = TypeVar("T")
FOLDER = "folder"
"""Added to a dataset's statistics: where they were read."""
_ADJECTIVES = {
    "pre-training": "pre-trained",
    "post-training": "post-trained",
    "training from scratch": "trained from scratch",
    "training": "trained",
}
_STATES = {
    "finish": "finished",
    "pre-emption": "pre-empted, to be continued",
    "stop": "stopped by hand, to be continued",
}


@dataclass
class Run:
    """A run folder as it stands."""

    folder: Path
    log: Log = field(default_factory=Log)
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, str] = field(default_factory=dict)
    """Label name -> taxonomic rank, where labels.json tells it."""
    examples: list[Example] = field(default_factory=list)
    evaluations: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The recipe's name, else the folder's."""
        return str(self.recipe.get("name") or self.folder.resolve().name)

    @property
    def recipe_text(self) -> str:
        """The recipe as it was written; empty without one."""
        with suppress(OSError):
            return (self.folder / "recipe.yaml").read_text("utf-8", errors="replace")
        return ""

    @property
    def stage(self) -> str:
        """One of `_ADJECTIVES`."""
        objective = str(self.get("objective", "name") or "")
        without_labels = bool(objective) and not needs_labels(objective)
        if without_labels or "masked_accuracy" in self.log.train or any(self.tokens()):
            return "pre-training"
        if objective:
            return "post-training" if self.recipe.get("init_from") else "training from scratch"
        return "post-training" if self.log.series("map", "auroc", kind="valid") else "training"

    @property
    def adjective(self) -> str:
        """What an encoder is called that comes out of this run."""
        return _ADJECTIVES[self.stage]

    def get(self, *path: str) -> Any:
        """Return a value of the recipe by its path, or None."""
        value: Any = self.recipe
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def planned(self) -> int | None:
        """Optimiser steps of the whole run, from its recipe."""
        with suppress(TypeError, ValueError, AttributeError):
            return total_steps(self.recipe.get("train") or {})
        return None

    @property
    def done(self) -> float | None:
        """Per cent of the planned steps."""
        return min(100.0, 100 * self.log.step / self.planned) if self.planned else None

    @property
    def state(self) -> str:
        """Whether it is finished, pre-empted, stopped or unfinished, by the log and no clock."""
        events = self.log.events
        if self.log.empty:
            return "not started"
        if self.done == 100:
            return "finished"
        if events and events[-1].kind in _STATES:
            return _STATES[events[-1].kind]
        newest = max((e.step for e in events if e.kind == "non-finite"), default=-1)
        broke = newest >= self.log.step > 0
        return "stopped after non-finite steps" if broke else "under way or interrupted"

    def tokens(self) -> list[TokenPanel]:
        """The panels of tokens in the examples."""
        return [p for e in self.examples for p in e.panels if isinstance(p, TokenPanel)]

    def sources(self) -> list[Mapping[str, Any]]:
        """Return what data.json says of each dataset."""
        return mappings(self.data.get("sources"))


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the objects in a list from a file; none where it is no list."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


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
    told = run.problems
    run.recipe = _read(folder / "recipe.yaml", _object, told) or {}
    if not run.recipe:
        told[-1:] = [f"{told[-1]}: the stage is guessed from what was logged"]
    run.environment = _read(folder / "environment.json", _object, told) or {}
    run.data = _read(folder / "data.json", _object, told) or {}
    nothing = "is missing: no curves, steps or times can be shown"
    run.log = _read(folder / "metrics.jsonl", read_log, told, nothing) or Log()
    told += run.log.problems
    late = "is missing: training writes it when it ends"
    run.examples = _read(folder / EXAMPLES, lambda _: load_examples(folder), told, late) or []
    if run.stage != "pre-training" or (folder / "labels.json").exists():
        run.ranks = _ranks(folder / "labels.json", told)
    faults: list[str] = []
    results = [_read(p, Result.read, faults) for p in sorted(folder.glob("evaluation/*.json"))]
    run.evaluations = [result for result in results if result is not None]
    told += [f"evaluation/{fault}" for fault in faults]
    if not any(result.rows for result in run.evaluations):
        told.append(f"no evaluation yet: `chorus evaluate {folder}` makes one")
    return run


def named_datasets(runs: Iterable[Run], problems: list[str]) -> list[Path]:
    """Return the datasets that data.json points to and that are there; others are problems."""
    found: dict[str, Path | None] = {}
    for run in runs:
        for path in (row.get("path") for row in run.sources()):
            if isinstance(path, str) and path and not found.get(path):
                place = recorded_path(path, run.folder)
                there = place is not None and (place / "stats.json").is_file()
                found[path] = place if there else None
    looked = (". It was looked for from the working folder, from where the run was started, and "
              "from above the run")  # fmt: skip
    for path in (path for path, place in found.items() if place is None):
        where, more = ("in an object store", "") if "://" in path else ("not there", looked)
        problems.append(f"{path} is {where}: its classes and clips per class are not shown{more}")
    return list(dict.fromkeys(filter(None, found.values())))


def read_datasets(folders: list[Path], problems: list[str]) -> list[dict[str, Any]]:
    """`stats.json` of each dataset (once each); what cannot be read is told in `problems`."""
    keys = dict.fromkeys(folder.resolve() for folder in folders)
    read = {key: _read(key / "stats.json", _object, problems) for key in keys}
    return [{"name": key.name, **s, FOLDER: str(key)} for key, s in read.items() if s]


def read_ranks(folders: list[Path]) -> dict[str, str]:
    """Label name -> taxonomic rank, from the `labels.json` of datasets that have one."""
    return {n: rank for f in folders for n, rank in _ranks(f / "labels.json", []).items()}


def _ranks(path: Path, problems: list[str]) -> dict[str, str]:
    rows = mappings((_read(path, _object, problems) or {}).get("labels"))
    return {str(row["name"]): str(row.get("rank", "")) for row in rows if "name" in row}


def _read(
    path: Path, parse: Callable[[Path], T], problems: list[str], missing: str = "is missing"
) -> T | None:
    """Return what `parse` makes of a file, or None with the fault told."""
    import yaml

    name = path if path.name == "stats.json" else path.name
    try:
        return parse(path)
    except FileNotFoundError:
        problems.append(f"{name} {missing}")
    except DataError as error:
        problems.append(str(error))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        problems.append(f"{name} could not be read ({said[:160]})")
    return None


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON or YAML file."""
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace")
    value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(value, dict):
        kind = "JSON object" if path.suffix == ".json" else "mapping"
        raise DataError(f"{path.name} holds no {kind}")
    return {str(key): part for key, part in value.items()}
