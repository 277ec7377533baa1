"""Decides how the demo uses a person's folder: its table, its groups, its training parts.

Nothing here runs a stage. Each decision is printed as a note, so that nobody misreads a score.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from dawnchorus.data_prep.archives.own_folder import FolderTable, read_folder
from dawnchorus.data_prep.archives.own_folder_notes import SPLITS, suggested_split_map
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.sound_folders import is_sound_name

TABLE = "metadata.csv"
FOLDS, FEWEST = 5, 3
_TABLES = (".csv", ".tsv", ".parquet", ".jsonl")


class CannotDemonstrate(Exception):
    """The folder cannot be used; the message is one sentence for the person."""


@dataclass
class Source:
    """How `chorus prep folder` is to read the folder."""

    options: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """Clips of a dataset by split and fold, as overrides of a recipe say it."""

    splits: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    exclude_folds: tuple[str, ...] = ()

    def takes(self, split: str, fold: str | None) -> bool:
        """Return whether a clip belongs to it."""
        if self.splits and split not in self.splits:
            return False
        return fold not in self.exclude_folds and (not self.folds or fold in self.folds)

    def overrides(self, source: str) -> list[str]:
        """Return overrides for a source such as "data.train.main"."""
        named = {"splits": self.splits, "folds": self.folds, "exclude_folds": self.exclude_folds}
        return [f"{source}.{name}={listed(values)}" for name, values in named.items() if values]


@dataclass(frozen=True)
class Division:
    """The parts of a dataset: for learning, for the choice of the checkpoint, and for the test."""

    learn: Part
    choose: Part
    hear: Part
    """Part for pre-training, which needs no labels: all clips except validation and test."""
    test_options: tuple[str, ...]
    """Of `chorus evaluate`."""
    no_labels_because: str = ""
    """Why there is nothing to post-train and evaluate on; '' if there is."""


def listed(values: tuple[str, ...] | list[str]) -> str:
    """Return a list of strings in the override grammar, whatever characters they hold."""
    return "[" + ",".join(json.dumps(value, ensure_ascii=False) for value in values) + "]"


def run_folder(data: Path, root: Path) -> Path:
    """Return the folder of the runs on `data`; it changes with the table or the files."""
    digest = hashlib.sha256(str(data.resolve()).encode())
    for folder, below, names in os.walk(data):
        below.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file():
                shown = path.relative_to(data).as_posix()
                digest.update(f"{shown}\0{path.stat().st_size}\0".encode("utf-8", "replace"))
                if path.suffix.lower() in _TABLES:
                    digest.update(path.read_bytes())
    bare = unicodedata.normalize("NFKD", data.resolve().name)
    bare = "".join(c for c in bare if not unicodedata.combining(c))
    plain = re.sub(r"[^A-Za-z0-9]+", "-", bare).strip("-").lower()
    return root / f"demo-{plain or 'sounds'}-{digest.hexdigest()[:8]}"


def plan_source(data: Path, run: Path) -> Source:
    """Decide how the folder is read. Raises CannotDemonstrate with what is wrong with it."""
    source = Source()
    try:
        metadata = _table(data, run, source)
        if metadata != data / TABLE:
            source.options += ["--metadata", str(metadata)]
        separator = "" if metadata.parent == run else None
        table = read_folder(data, FolderOptions(metadata=metadata, label_separator=separator))
    except PrepError as err:
        raise CannotDemonstrate(str(err)) from err
    if len(table.recordings) < FEWEST:
        raise CannotDemonstrate(
            f"{data} lists {len(table.recordings)} sounds; at least {FEWEST} are needed, to learn, "
            "to choose a checkpoint and to test"
        )
    groups = _plan_groups(table, source)
    _plan_parts(table, source, groups)
    return source


def _table(data: Path, run: Path, source: Source) -> Path:
    """Return the table of the folder; without one, a table of its files is written into `run`."""
    if not data.is_dir():
        raise PrepError(f"{data} is not a folder")
    if (data / TABLE).is_file():
        return data / TABLE
    others = sorted(p for p in data.iterdir() if p.suffix.lower() in _TABLES and p.is_file())
    refused = []
    for other in others:
        try:
            read_folder(data, FolderOptions(metadata=other))
        except PrepError as err:
            refused.append(err)
            continue
        source.notes.append(f"there is no {TABLE}; {other.name} is taken for it")
        return other
    if len(others) == 1:
        raise refused[0]
    files = sorted(
        (Path(folder) / name).relative_to(data).as_posix()
        for folder, _, names in os.walk(data)
        for name in names
        if is_sound_name(name)
    )
    if not files:
        raise PrepError(f"{data} holds neither {TABLE} nor any sound")
    labelled = len({Path(name).parent for name in files}) > 1
    what = "the names of the folders are the labels" if labelled else "there are no labels"
    source.notes.append(f"there is no {TABLE}; {what}")
    written = run / TABLE
    written.parent.mkdir(parents=True, exist_ok=True)
    with written.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["filename", "label"])
        for name in files:
            folder = Path(name).parent.name if labelled else ""
            rows.writerow([name, folder])
    source.options += ["--label-separator", ""]
    return written


def _plan_groups(table: FolderTable, source: Source) -> list[str]:
    """Decide which recordings stay together; return the group of every recording."""
    groups = [recording.group_id for recording in table.recordings]
    if "group" not in table.mapped.columns:
        if not table.grouping:
            return groups
        options = FolderOptions(metadata=table.metadata, columns={"group": table.grouping})
        shared = [r.group_id for r in read_folder(table.root, options).recordings]
        if len(set(shared)) < FEWEST:
            return groups
        source.options += ["--group-column", table.grouping]
        source.notes.append(f"recordings of one {table.grouping} stay together")
        return shared
    if len(set(groups)) < FEWEST:
        source.options += ["--group-column", "none"]
        source.notes.append(
            f"{len(set(groups))} groups are too few to divide: recordings are divided one by one, "
            "so scores are those of known groups"
        )
        return [recording.id for recording in table.recordings]
    return groups


def _plan_parts(table: FolderTable, source: Source, groups: list[str]) -> None:
    """Decide between the table's folds, its splits, and folds of our own."""
    recordings = table.recordings
    folds = [recording.fold for recording in recordings]
    if len(set(folds)) >= FEWEST and None not in folds and _whole(groups, folds):
        return
    if "fold" in table.mapped.columns:
        source.options += ["--fold-column", "none"]
        why = "divide groups" if len(set(folds)) >= FEWEST else f"are fewer than {FEWEST}"
        source.notes.append(f"the table's folds {why}: they are not used")
    names = {recording.split for recording in recordings}
    mapping = suggested_split_map(names)
    renamed = dict(pair.rpartition("=")[::2] for pair in mapping.split(",") if pair)
    splits = [renamed.get(recording.split, recording.split) for recording in recordings]
    count = min(FOLDS, len(set(groups)))
    if {"train", "test"} <= set(splits) and _whole(groups, splits):
        if mapping:
            source.options += ["--split-map", mapping]
            source.notes.append(f"the splits are renamed: {mapping}")
        if others := sorted(set(splits) - set(SPLITS)):
            source.notes.append(f"the splits {', '.join(others)} are not used")
        if "valid" not in splits:
            source.options += ["--make-folds", str(count)]
            source.notes.append("there is no validation split; a fifth of the training one is it")
        return
    if "split" in table.mapped.columns:
        shown = ", ".join(sorted(names)[:5])
        train_and_test = {"train", "test"} <= set(splits)
        why = "divide groups" if train_and_test else "are not at least train and test"
        source.options += ["--split-column", "none"]
        source.notes.append(f"the splits ({shown}) {why}: folds are made instead")
    source.options += ["--make-folds", str(count)]


def _whole(groups: list[str], parts: list[str | None] | list[str]) -> bool:
    """Return whether no group lies in two parts."""
    found: dict[str, set[str | None]] = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        found[group].add(part)
    return all(len(places) == 1 for places in found.values())


def divide(dataset: Path) -> Division:
    """Return the parts of a prepared dataset. Raises CannotDemonstrate where too few are left."""
    import pyarrow.parquet as pq

    columns = ["split", "fold", "group_id", "label_ids"]
    clips = pq.read_table(dataset / "index.parquet", columns=columns).to_pylist()
    splits, folds = {c["split"] for c in clips}, sorted({c["fold"] for c in clips if c["fold"]})
    if set(SPLITS) <= splits:
        train, valid = Part(splits=("train",)), Part(splits=("valid",))
        parts = (train, valid, train, ("protocol=splits",))
        test = Part(splits=("test",))
    elif {"train", "test"} <= splits and len(folds) > 1:
        known = sorted({c["fold"] for c in clips if c["split"] == "train" and c["fold"]})
        valid = Part(splits=("train",), folds=tuple(known[-1:]))
        train = Part(splits=("train",), exclude_folds=tuple(known[-1:]))
        parts = (train, valid, train, ("protocol=splits",))
        test = Part(splits=("test",))
    elif len(folds) >= FEWEST:
        *learn, choose, last = folds
        test = Part(folds=(last,))
        parts = (
            Part(folds=tuple(learn)),
            Part(folds=(choose,)),
            Part(exclude_folds=(choose, last)),
            (f"test_folds={listed([last])}",),
        )
    else:
        raise CannotDemonstrate(
            f"{len(clips)} usable clips of {len({c['group_id'] for c in clips})} groups are too "
            "few to learn, to choose a checkpoint and to test"
        )
    learn_part, choose_part, hear, options = parts
    for what, part in (("learn from", learn_part), ("choose by", choose_part), ("test on", test)):
        if not any(part.takes(c["split"], c["fold"]) for c in clips):
            raise CannotDemonstrate(f"no usable sound is left to {what}")
    because = _without_labels(clips, (learn_part, choose_part, test))
    return Division(learn_part, choose_part, hear, options, because)


def _without_labels(clips: list[dict[str, object]], parts: tuple[Part, ...]) -> str:
    """Return why labels cannot be learned and tested, or ''."""
    groups: dict[int, set[object]] = defaultdict(set)
    used = [c for c in clips if any(p.takes(str(c["split"]), c["fold"]) for p in parts)]  # type: ignore[arg-type]
    negatives = False
    for clip in used:
        labels = clip["label_ids"]
        assert isinstance(labels, list)
        negatives |= not labels
        for label in labels:
            groups[label].add(clip["group_id"])
    several = sum(len(found) > 1 for found in groups.values())
    if not groups:
        return "no sound has a label"
    if len(groups) == 1 and not negatives:
        return "all sounds have the same label"
    if several < (1 if negatives else 2):
        return "nearly every label is of one recording (or group) alone"
    for what, part in zip(("learn from", "choose by", "test on"), parts, strict=True):
        here = {
            label
            for c in used
            if part.takes(str(c["split"]), c["fold"])  # type: ignore[arg-type]
            for label in c["label_ids"]  # type: ignore[attr-defined]
        }
        if not here:
            return f"no labelled sound is left to {what}"
    return ""
