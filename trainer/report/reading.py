"""Read a run folder and dataset statistics, tolerating whatever is missing or damaged.

Nothing here raises for a bad file: each fault becomes one sentence in `problems`, which the page
prints. Only a run folder that does not exist at all is an error.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.results import Result
from dawnchorus.trainer.metrics_log import Log, read_log
from dawnchorus.trainer.page.charts import Chart
from dawnchorus.trainer.panels import EXAMPLES, Example, TokenPanel, load_examples
from dawnchorus.trainer.registry import needs_labels
from dawnchorus.trainer.report.curves import charts_of, other_charts
from dawnchorus.trainer.training.recorded_paths import recorded_path

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
        """One of `_ADJECTIVES`."""
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
        steps, clips, batch = (
            value if isinstance(value := self.get("train", key), int) else 0
            for key in ("max_steps", "max_clips", "global_batch")
        )
        whole = -(-clips // batch) if clips > 0 and batch > 0 else None
        return steps if steps > 0 else whole

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

    @functools.cached_property
    def charts(self) -> list[Chart]:
        """The standard charts."""
        return charts_of(self.log, self.log.events)

    @functools.cached_property
    def others(self) -> list[Chart]:
        """Charts of whatever else was logged."""
        return other_charts(self.log)

    @property
    def event_counts(self) -> list[tuple[str, int]]:
        """Kinds of events and how often they happened."""
        return Counter(e.kind for e in self.log.events).most_common()

    @property
    def masked(self) -> bool:
        """Whether an example shows what was hidden from the encoder."""
        panels = [panel for example in self.examples[:8] for panel in example.panels]
        return any(isinstance(p, TokenPanel) and p.mask_N is not None for p in panels)

    def sources(self) -> Iterator[Mapping[str, Any]]:
        """Yield what data.json says of each dataset."""
        yield from mappings(self.data.get("sources"))


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


def named_datasets(runs: Iterable[Run], problems: list[str]) -> list[Path]:
    """Return the datasets that data.json points to and that are there; others are problems."""
    found: dict[Path, None] = {}
    missing: dict[str, None] = {}
    for run in runs:
        for path in (row.get("path") for row in run.sources()):
            if isinstance(path, str) and path:
                place = recorded_path(path, run.folder)
                if place is not None and (place / "stats.json").is_file():
                    found[place] = None
                else:
                    missing[path] = None
    for path in missing:
        far = "://" in path
        problems.append(
            f"{path} is {'in an object store' if far else 'not there'}: its classes and clips per "
            "class are not shown"
            + ("" if far else ". It was looked for from the working folder, from where the run was "
               "started, and from above the run")
        )  # fmt: skip
    return list(found)


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
    return {n: rank for f in folders for n, rank in _ranks(f / "labels.json", []).items()}


def _read_recipe(run: Run) -> None:
    import yaml

    guessed = "the stage is guessed from what was logged"
    recipe = _read(run.folder / "recipe.yaml", yaml.safe_load, run.problems, f": {guessed}")
    path = run.folder / "recipe.yaml"
    run.recipe_text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    if isinstance(recipe, dict):
        run.recipe = {str(k): v for k, v in recipe.items()}
    elif recipe is not _UNREAD:
        run.problems.append(f"recipe.yaml holds no mapping: {guessed}")


_UNREAD = object()


def _read(path: Path, parse: Callable[[str], Any], problems: list[str], missing: str = "") -> Any:
    """Return a file's content, or `_UNREAD` with the fault told."""
    import yaml

    name = path.name if path.name != "stats.json" else str(path)
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        problems.append(f"{name} is missing{missing}")
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        problems.append(f"{name} could not be read ({said[:160]})")
    return _UNREAD


def _json_object(path: Path, problems: list[str]) -> dict[str, Any]:
    value = _read(path, json.loads, problems)
    if isinstance(value, dict):
        return value
    if value is not _UNREAD:
        problems.append(f"{path.name} holds no JSON object")
    return {}


def _ranks(path: Path, problems: list[str]) -> dict[str, str]:
    rows = mappings(_json_object(path, problems).get("labels"))
    return {str(row["name"]): str(row.get("rank", "")) for row in rows if "name" in row}
