"""What an evaluation is about: the clips, their division, what was left out, and how to say so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import DataError
from trainer.evaluation.clips import Clips, open_clips
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.embed import weights_digest
from trainer.evaluation.splits import Protocol, settle_classes
from trainer.runtime.environment import describe_environment

if TYPE_CHECKING:
    from trainer.hub.importing import LoadedModel

FORMAT = 1


@dataclass(frozen=True)
class Task:
    """The clips, how they are divided, and what was left out on the way."""

    clips: Clips
    protocol: Protocol
    multi_label: bool
    unlabelled: int
    """Clips without a label that a single-label task leaves out."""
    dropped: dict[str, str]
    """Classes left out, with the reasons."""
    dropped_clips: int


def prepare_task(config: EvaluateConfig) -> Task:
    """Open the dataset, decide single- or multi-label, divide the clips.

    Raises:
        DataError: see `open_clips`, `settle_classes`; or several labels in a single-label task.
    """
    clips = open_clips(config.data, config.splits)
    multi = clips.multi_label if config.task == "auto" else config.task == "multi"
    if clips.multi_label and not multi:
        several = int((clips.label_NC.sum(1) > 1).sum())
        raise DataError(
            f"{clips.path}: task=single, but {several} clips have more than one label; use "
            "task=multi"
        )
    unlabelled = 0
    if not multi:
        labelled_N = clips.label_NC.any(1)
        unlabelled = int((~labelled_N).sum())
        clips = clips.take(np.flatnonzero(labelled_N))
    before = len(clips)
    clips, protocol, dropped = settle_classes(clips, config)
    return Task(clips, protocol, multi, unlabelled, dropped, before - len(clips))


def remarks(task: Task, seen: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Warnings (figures that do not mean what they seem to) and notes, given what `exposure`
    found.
    """
    warnings, notes = [], []
    tested = f"of the {seen['tested_recordings']} tested recordings"
    if seen["labelled"]:
        warnings.append(
            f"the model was trained with the labels of {seen['labelled']} {tested}: its figures "
            "measure memory too. Name the folds it has not seen with test_folds, or the split "
            "with test_split"
        )
    if task.protocol.valid == "none":
        warnings.append("no validation part: the last epoch of the probe counts, not the best")
    if seen["unlabelled"]:
        notes.append(f"the model was pre-trained, without labels, on {seen['unlabelled']} {tested}")
    if seen["missing"]:
        notes.append(
            "whether the tested recordings were trained on could not be checked against: "
            + "; ".join(seen["missing"])
        )
    return warnings, notes


def describe_task(task: Task, config: EvaluateConfig, loaded: LoadedModel) -> dict[str, Any]:
    """What was measured on what, by what."""
    clips, protocol = task.clips, task.protocol
    first = protocol.folds[0]
    return {
        "format": FORMAT,
        "dataset": clips.name,
        "metric": "map" if task.multi_label else "accuracy",
        "clips": len(clips),
        "classes": len(clips.classes),
        "groups": len(np.unique(clips.group_N)),
        "folds": [f.name for f in protocol.folds],
        "seeds": config.probe.seeds,
        "protocol": {
            "kind": protocol.kind,
            "valid": protocol.valid,
            "tested_clips": len(protocol.tested),
            "clips_of_first_division": {
                "train": len(first.train), "valid": len(first.valid), "test": len(first.test)
            },
            **_measurement_options(config),
        },
        "data": {
            "path": clips.path,
            "digest": clips.digest,
            "sample_rate_hz": clips.sample_rate_hz,
            "splits": sorted(set(clips.split_N)),
            "clips_per_class": dict(
                zip(clips.classes, clips.label_NC.sum(0).tolist(), strict=True)
            ),
            "clips_longer_than_window": int(
                (clips.samples_N > round(config.window_s * clips.sample_rate_hz)).sum()
            ),
            "left_out": {
                "unlabelled": task.unlabelled,
                "classes": task.dropped,
                "clips_of_dropped_classes": task.dropped_clips,
            },
        },
        "model": {
            "source": loaded.source,
            "kind": loaded.kind,
            "digest": weights_digest(loaded.model),
            "encoder": loaded.weights.encoder,
            "parameters": sum(p.numel() for p in loaded.model.encoder.parameters()),
            "step": loaded.weights.step,
            "samples_seen": loaded.weights.samples_seen,
            "recipe": (loaded.recipe or {}).get("name"),
        },
        "environment": describe_environment(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _measurement_options(config: EvaluateConfig) -> dict[str, Any]:
    """The options that decide the figures; results that differ in them are not comparable."""
    options = asdict(config)
    for name in ("data", "batch_size", "device", "cache", "baselines", "protocol"):
        del options[name]
    return options
