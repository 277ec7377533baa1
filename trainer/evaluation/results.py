"""The result of `chorus evaluate` as a type with one reader, for report, card and tables.

docs/evaluation.md describes the file. An absent figure was not measured. A value of the wrong type
makes the file unreadable, and the message says where it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.registry import PROBES

FORMAT = 2
"""Version of the JSON. In version 1 log-mel alone had mean and standard deviation, whatever
`pooling` said, and clips without a label were left out unless another clip had two labels."""
BASELINES = ("log-mel", "random-init")
METRIC_NAMES = {"accuracy": "accuracy", "map": "macro mAP"}
POOLING_NAMES = {
    "mean": "mean",
    "mean_std": "mean and standard deviation",
    "mean_std_max": "mean, standard deviation and maximum",
}


def protocol_of(result: Mapping[str, Any]) -> Any:
    """The options that decide whether two results can be compared.

    In earlier results the probe has no name: it was the linear one, and gets that name here. What
    came later has the value that it had before it could be chosen.
    """
    protocol = result.get("protocol") or {}
    probe = protocol.get("probe") if isinstance(protocol, Mapping) else None
    if not isinstance(probe, Mapping):
        return protocol
    probe = {"name": "linear", **probe}
    if probe["name"] == "linear":
        probe = {"clip": 0.0, **probe}
    later = {
        "tokens": {"layers": "blocks", "stride": 1},
        "knn": {"enabled": True, "neighbours": 5},
    }
    return {**later, **protocol, "probe": probe}


def probe_title(result: Mapping[str, Any]) -> str:
    """Return the probe of a result as people name it, for example `Linear probe`.

    A probe that this version does not know is called by its name. Results that name no probe were
    made by the linear one.
    """
    protocol = protocol_of(result)
    probe = protocol.get("probe") if isinstance(protocol, Mapping) else None
    name = str(probe["name"]) if isinstance(probe, Mapping) else "linear"
    title = PROBES.config(name).title if name in PROBES.names() else ""
    return title or f"{name} probe"


@dataclass(frozen=True)
class Measure:
    """One kind of measurement: its place in a row, and its name for people."""

    key: str
    title: str
    place: tuple[str, ...]
    """Path to its object in a row; the last word is the figure's own name there."""
    metric: str = ""
    """The metric's id on the Hub; the probe has the id of what it measured."""
    chance: float | None = None
    note: str = ""

    def said(self, metric: str) -> str:
        """Return its name within a sentence; `metric` is what the probe measured."""
        if self.key == "probe":
            return f"probe {METRIC_NAMES.get(metric, metric or 'score')}"
        return self.title[:1].lower() + self.title[1:]


MEASURES = (
    Measure("probe", "Probe", ("probe", "mean"), note="a classifier on frozen embeddings"),
    Measure("roc_auc", "Retrieval ROC-AUC", ("retrieval", "roc_auc"), "roc_auc", 0.5,
            "each clip queries all others by cosine similarity; chance is 0.5"),
    Measure("roc_auc_groups", "Retrieval, other groups",
            ("retrieval", "same_group_excluded", "roc_auc"), "roc_auc", 0.5,
            "the same without clips of the query's own recording or site"),
    Measure("roc_auc_across", "Retrieval across sets", ("retrieval", "across", "roc_auc"),
            "roc_auc", 0.5, "tested clips query the training part"),
    Measure("roc_auc_across_published", "Retrieval across sets, as published",
            ("retrieval", "across_published", "roc_auc"), "roc_auc", 0.5,
            "the other way round, as avex has it: training clips query the tested ones"),
    Measure("p_at_1", "Retrieval P@1", ("retrieval", "p_at_1"), "precision_at_1"),
    Measure("knn", "Nearest neighbours", ("knn", "same_group_excluded", "value"),
            note="labels by the five nearest clips of other recordings or sites"),
    Measure("nmi", "Clustering NMI", ("clustering", "nmi", "mean"), "nmi",
            note="K-means clusters against labels, normalised mutual information"),
    Measure("ari", "Clustering ARI", ("clustering", "ari", "mean"), "ari"),
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A measured value, 0 to 1, with its spread over seeds or folds where it has one."""

    mean: float
    std: float | None = None
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the value."""
    note: str = ""
    """Why there is no interval."""

    @property
    def text(self) -> str:
        """Three decimals, as the tables of the field have them."""
        return f"{self.mean:.3f}"

    @property
    def spread(self) -> str:
        """The uncertainty as text; empty if there is none."""
        if self.interval is not None:
            return f"{self.interval[0]:.3f}–{self.interval[1]:.3f}"
        spread = f"± {self.std:.3f}" if self.std is not None else ""
        return "; ".join(text for text in (spread, self.note) if text)


@dataclass(frozen=True)
class ResultRow:
    """The measurements of a baseline, of the model, or of one of its layers."""

    name: str
    layer: str | int | None
    metric: str
    """What the probe measured: `accuracy`, `map`."""
    figures: dict[str, Figure]
    """Figures by the key of their measure; figures that were not measured are absent."""


@dataclass(frozen=True)
class Result:
    """An evaluation of one model on one dataset."""

    dataset: str
    metric: str
    rows: tuple[ResultRow, ...]
    layers: tuple[ResultRow, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    """Clips, classes, groups, folds, seeds and tested_clips; what the file lacks is absent."""
    probe: str = "Linear probe"
    """The probe as people name it."""
    pooling: str = ""
    """How the clip's tokens are pooled over time, in words."""
    comparable: str = ""
    """Results with the same text here measured the same clips in the same way."""
    digest: str | None = None
    """Digest of the measured weights."""
    step: int | None = None
    seen: tuple[int, int] = (0, 0)
    """(tested recordings whose labels the model was trained with, tested recordings)."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            DataError: it cannot be read, or is no evaluation result.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            said = " ".join(str(error).split())[:160] or type(error).__name__
            raise DataError(f"{path.name} could not be read ({said})") from error
        try:
            return cls.of(content)
        except DataError as error:
            raise DataError(
                f"{path.name} could not be read: it is no evaluation result ({error}). "
                "Evaluate again"
            ) from error

    @classmethod
    def of(cls, content: object) -> Result:
        """Read a result from JSON. Raises DataError, which names the part that is wrong."""
        whole = _mapping(content, "the file")
        if int(_number(whole.get("format", FORMAT), "format") or 0) > FORMAT:
            raise DataError(f"its format is {whole['format']}, this version reads {FORMAT}")
        metric = _text(whole, "metric")
        protocol = _mapping(protocol_of(whole), "protocol")
        data = _mapping(whole.get("data") or {}, "data")
        model = _mapping(whole.get("model") or {}, "model")
        seen = _mapping(whole.get("exposure") or {}, "exposure")
        counted = {
            word: whole.get(word) for word in ("clips", "classes", "groups", "folds", "seeds")
        }
        counted["tested_clips"] = protocol.get("tested_clips")
        parts = [whole.get("format"), metric, whole.get("clips"), protocol, data.get("digest")]
        step = _number(model.get("step"), "model.step")
        return cls(
            dataset=_text(whole, "dataset", needed=True),
            metric=metric,
            rows=_rows(whole, "rows", metric),
            layers=_rows(whole, "layers", metric),
            counts={
                word: int(count)
                for word, raw in counted.items()
                if (count := len(raw) if isinstance(raw, list) else _number(raw, word))
            },
            probe=probe_title(whole),
            pooling=POOLING_NAMES.get(_text(protocol, "pooling"), ""),
            comparable=json.dumps(parts, sort_keys=True, default=str),
            digest=_text(model, "digest") or None,
            step=None if step is None else int(step),
            seen=(
                int(_number(seen.get("labelled"), "exposure.labelled") or 0),
                int(_number(seen.get("tested_recordings"), "exposure.tested_recordings") or 0),
            ),
            warnings=tuple(str(text) for text in _list(whole, "warnings")),
        )


def figures_of(row: Mapping[str, Any], where: str = "row") -> dict[str, Figure]:
    """Return the figures of a row of a result. Raises DataError where one is of another type."""
    found = {m.key: _figure(row, m, where) for m in MEASURES}
    return {key: figure for key, figure in found.items() if figure is not None}


def _rows(whole: Mapping[str, Any], key: str, metric: str) -> tuple[ResultRow, ...]:
    """The rows that have a figure."""
    found = []
    for i, raw in enumerate(_list(whole, key)):
        row = _mapping(raw, f"{key}[{i}]")
        if figures := figures_of(row, f"{key}[{i}]"):
            probe = row.get("probe") or {}
            name = _text(row, "name").strip() or "model"
            own = _text(probe, "metric") or metric or "accuracy"
            found.append(ResultRow(name, row.get("layer"), own.lower(), figures))
    return tuple(found)


def _figure(row: Mapping[str, Any], measure: Measure, where: str) -> Figure | None:
    section: Mapping[str, Any] = row
    *path, key = measure.place
    for word in path:
        where = f"{where}.{word}"
        section = _mapping(section.get(word) or {}, where)
    mean = _number(section.get(key), f"{where}.{key}")
    if mean is None:
        return None
    spread = _number(section.get("std"), f"{where}.std") if key == "mean" else None
    ends = [_number(v, f"{where}.{key}_ci95") for v in _list(section, f"{key}_ci95")]
    pair = None
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        pair = (ends[0], ends[1])
    if section.get("groups") == 1:
        # Resampling a single group shows no spread, but other groups may well differ.
        return Figure(mean, spread, None, "one group: no interval")
    return Figure(mean, spread, pair)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is {_short(value)}, not an object")
    return value


def _list(whole: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = whole.get(key)
    if value is not None and not isinstance(value, list | tuple):
        raise DataError(f"{key} is {_short(value)}, not a list")
    return value or ()


def _number(value: object, where: str) -> float | None:
    """A finite number, or None where there is none; NaN counts as none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where} is {_short(value)}, not a number")
    return float(value) if math.isfinite(value) else None


def _text(whole: Mapping[str, Any], key: str, *, needed: bool = False) -> str:
    value = whole.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{key} is {_short(value)}, not a text")
    return value


def _short(value: object) -> str:
    said = "missing" if value is None else json.dumps(value, default=str)
    return said if len(said) <= 40 else f"{said[:37]}..."
