"""What an evaluation measures: the clips, how they are divided, and what was left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.clips import Clips, open_clips
from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.evaluation.embed import weights_digest
from dawnchorus.trainer.evaluation.results import FORMAT
from dawnchorus.trainer.evaluation.splits import Protocol, settle_classes, some
from dawnchorus.trainer.session.environment import describe_environment

if TYPE_CHECKING:
    from dawnchorus.trainer.hub.importing import LoadedModel


@dataclass(frozen=True)
class Task:
    """The clips, how they are divided, and what was left out on the way."""

    clips: Clips
    protocol: Protocol
    multi_label: bool
    decided_by: str
    """The reason why the task is single- or multi-label, in words."""
    unlabelled: int
    """Clips without a label that a single-label task leaves out."""
    dropped: dict[str, str]
    """Classes left out, with the reasons."""
    dropped_clips: int


def is_multi_label(clips: Clips, asked: str) -> tuple[bool, str]:
    """Return whether clips may have any number of labels, and what decided it.

    The first of these decides: `asked` (the config's `task`) unless it is "auto"; what the dataset
    declares; its clips. A clip with two labels, or with none (a negative of every class), makes the
    task multi-label.
    """
    if asked != "auto":
        return asked != "single", f"task={asked}"
    declared = clips.index.labels.task
    if declared is not None:
        return declared != "single", f"the dataset declares task {declared}"
    if clips.several_labels:
        return True, f"{clips.several_labels} clips have more than one label"
    if clips.unlabelled:
        return True, f"{clips.unlabelled} clips have no label"
    return False, "every clip has one label"


def prepare_task(config: EvaluateConfig) -> Task:
    """Open the dataset, decide single- or multi-label, divide the clips.

    Raises:
        DataError: a clip has several labels in a single-label task, or the labels leave nothing to
            tell apart; see also `open_clips` and `settle_classes`.
    """
    clips = open_clips(config.data, config.splits)
    multi, why = is_multi_label(clips, config.task)
    unlabelled = 0
    if not multi:
        if clips.several_labels:
            raise DataError(
                f"{clips.path}: {why}, but {clips.several_labels} clips have more than one label; "
                "use task=multi"
            )
        unlabelled = clips.unlabelled
        clips = clips.take(np.flatnonzero(clips.label_NC.any(1)))
    check_contrast(clips, multi, why, unlabelled)
    before = len(clips)
    clips, protocol, dropped = settle_classes(clips, config, least_classes=1 if multi else 2)
    check_contrast(clips, multi, why, unlabelled)
    if multi:
        check_test_parts(clips, protocol)
    return Task(clips, protocol, multi, why, unlabelled, dropped, before - len(clips))


def check_contrast(clips: Clips, multi: bool, why: str, unlabelled: int) -> None:
    """Raise where every answer would be correct, because a score of 1 would say nothing.

    Raises:
        DataError: a single-label task has only one class, or every clip has every label.
    """
    if not multi and len(clips.classes) < 2:
        negatives = (
            f" The {unlabelled} clips without a label can be its negatives: use task=multi."
            if unlabelled
            else " Add clips of other classes, or clips without a label and task=multi."
        )
        raise DataError(
            f"{clips.path}: one class ({clips.classes[0]}) in a single-label task ({why}): every "
            f"answer would be correct.{negatives}"
        )
    if multi and clips.label_NC.all():
        raise DataError(
            f"{clips.path}: every clip has every label ({len(clips.classes)}), so there is nothing "
            "to tell apart. Add clips of other classes, or clips without a label"
        )


def check_test_parts(clips: Clips, protocol: Protocol) -> None:
    """Raise where average precision is not defined on a test part.

    Raises:
        DataError: in a test part, each class is on all clips or on none.
    """
    empty = []
    for fold in protocol.folds:
        hot_NC = clips.label_NC[fold.test]
        if not (hot_NC.any(0) & ~hot_NC.all(0)).any():
            empty.append(fold.name)
    if empty:
        raise DataError(
            f"{clips.path}: no class can be ranked in the test part {some(empty)}: its clips all "
            "have a label or all lack it, so there is no average precision. Name other parts with "
            "test_folds, or use protocol=groups"
        )


def remarks(task: Task, seen: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the warnings (figures that mean less than they seem to) and the notes of a task.

    `seen` is what `exposure` found: how many tested recordings the model was trained on.
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
    if task.protocol.shared_groups:
        warnings.append(
            f"{task.protocol.shared_groups} groups are in two parts of the division "
            "(shared_groups=allow): figures measure the recognition of recordings too"
        )
    kept = task.protocol.kept_classes
    if kept:
        told = some((f"{name} ({why})" for name, why in kept.items()), 3)
        warnings.append(
            f"{len(kept)} classes count that cannot be learned and tested on different groups "
            f"(rare_classes=keep): {told}"
        )
    if seen["unlabelled"]:
        notes.append(f"the model was pre-trained, without labels, on {seen['unlabelled']} {tested}")
    if seen["missing"]:
        notes.append(
            "whether the tested recordings were trained on could not be checked against: "
            + "; ".join(seen["missing"])
        )
    return warnings, notes


def describe_task(task: Task, config: EvaluateConfig, loaded: LoadedModel) -> dict[str, Any]:
    """Describe the measurement for the result file: the task, the data and the model."""
    clips, protocol = task.clips, task.protocol
    first = protocol.folds[0]
    return {
        "format": FORMAT,
        "dataset": clips.name,
        "metric": "map" if task.multi_label else "accuracy",
        "task": {
            "kind": "multi" if task.multi_label else "single",
            "decided_by": task.decided_by,
            "unlabelled_clips": clips.unlabelled,
        },
        "clips": len(clips),
        "classes": len(clips.classes),
        "groups": len(np.unique(clips.group_N)),
        "folds": [f.name for f in protocol.folds],
        "seeds": config.probe.fits,
        "protocol": {
            "kind": protocol.kind,
            "valid": protocol.valid,
            "tested_clips": len(protocol.tested),
            "groups_in_two_parts": protocol.shared_groups,
            "kept_classes": protocol.kept_classes,
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
    """Return the options that decide the figures. Results that differ in one are not comparable."""
    options = asdict(config)
    for name in ("data", "batch_size", "device", "cache", "baselines", "protocol"):
        del options[name]
    del options["tokens"]["limit_gib"]
    return options
