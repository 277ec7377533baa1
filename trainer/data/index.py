"""The index of a prepared dataset: where each clip lies, how long it is, and its labels.

Shape legend: N clips, P label entries, K shards.
The arrays of a million clips take about 45 MB. Text columns stay in the file until a message or an
evaluation needs them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.data.choice import CODECS as CODECS
from dawnchorus.trainer.data.choice import REBUILD_HINT, Choice, ClipColumns, IntArray, one_rate
from dawnchorus.trainer.data.config import RemoteConfig
from dawnchorus.trainer.data.remote import Version
from dawnchorus.trainer.data.storage import DatasetFolder, open_folder
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.strong_labels import KEY, OverlapRule
from dawnchorus.trainer.tasks import TASKS, DeclaredTask

_TAR_BLOCK = 512


@dataclass(frozen=True)
class LabelSpace:
    """The numbered classes of a dataset or a run."""

    names: tuple[str, ...]
    """Class names; the id of a class is its place in this list."""
    task: DeclaredTask | None = None
    """The task that the dataset declares for its labels; None if it declares none."""
    overlap: OverlapRule = field(default=OverlapRule(), compare=False)
    """Which events count for a window, where labels have times."""

    @cached_property
    def index(self) -> dict[str, int]:
        """Class id by name."""
        return {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def read(cls, path: str | Path) -> LabelSpace:
        """Read `labels.json` of a dataset.

        Raises:
            DataError: the file is missing or unreadable, ids are not 0..n-1, a name occurs twice,
                or the task is unknown.
        """
        path = Path(path)
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
            labels, task = whole["labels"], whole.get("task")
            overlap = OverlapRule.from_json(whole[KEY]) if KEY in whole else OverlapRule()
            names = {int(label["id"]): str(label["name"]) for label in labels}
        except FileNotFoundError:
            raise DataError(f"{path} is missing: {REBUILD_HINT}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a label space ({error!r}): {REBUILD_HINT}") from None
        if sorted(names) != list(range(len(labels))) or len(set(names.values())) != len(labels):
            raise DataError(f"{path}: ids must be 0..n-1 and names unique: {REBUILD_HINT}")
        if task is not None and task not in TASKS:
            raise DataError(
                f"{path}: task is {task!r}; it can be {', '.join(TASKS)}, or be left out"
            )
        return cls(tuple(names[i] for i in range(len(names))), task, overlap)

    @classmethod
    def union(cls, spaces: Sequence[LabelSpace]) -> LabelSpace:
        """All classes of several label spaces, sorted by name; the order of the spaces is free."""
        return cls(tuple(sorted({name for space in spaces for name in space.names})))

    def remap(self, other: LabelSpace) -> npt.NDArray[np.int32]:
        """For each class of `other`, its id in this space; -1 if it is not here."""
        return np.array([self.index.get(name, -1) for name in other.names], dtype=np.int32)


class Member(NamedTuple):
    """The place of one clip's bytes, and the properties of the decoded sound."""

    path: str
    """The tar file, or its URL."""
    offset: int
    """Place of the sound file's first byte in the tar."""
    size: int
    """Bytes."""
    codec: str
    """One of `CODECS`."""
    sample_rate_hz: int
    samples: int
    version: Version | None = None
    """Version of a tar in an object store; None for a local file."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex(ClipColumns):
    """The chosen clips of one dataset. Make it with `ShardIndex.open`."""

    folder: DatasetFolder
    labels: LabelSpace
    """The dataset's own classes."""
    shards: tuple[str, ...]
    """Tar files, relative to the folder."""
    sample_rate_hz: int
    """Sample rate of all clips."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        splits: Sequence[str] | None = None,
        folds: Sequence[str] | None = None,
        exclude_folds: Sequence[str] = (),
        remote: RemoteConfig | None = None,
    ) -> ShardIndex:
        """Open a dataset and choose clips from it.

        Args:
            path: the dataset folder, or its URL in an object store.
            splits: splits to use; None for all.
            folds: use only clips of these folds; None for all clips, with or without a fold.
            exclude_folds: leave out clips of these folds.
            remote: how an object store is read.

        Raises:
            DataError: the folder, the index or a shard is missing; a split or fold does not exist;
                no clip is left; the index does not fit its tar files or its label space.
        """
        folder = open_folder(path, remote or RemoteConfig())
        choice = Choice(folder, splits, folds, tuple(exclude_folds))
        table = choice.read()
        labels = LabelSpace.read(folder.root / "labels.json")
        _check_events(folder.location, table, len(labels))
        if table.label_P.size and not 0 <= table.label_P.min() <= table.label_P.max() < len(labels):
            raise DataError(
                f"{folder.location}/index.parquet has label id {table.label_P.max()}, but "
                f"labels.json has {len(labels)} labels: {REBUILD_HINT}"
            )
        strange = [name for name in choice.shards if not _below(name)]
        if strange:
            raise DataError(
                f"{folder.location}/index.parquet names {strange[0]!r} as a shard: only tar files "
                f"below the dataset are read. {REBUILD_HINT}"
            )
        index = cls(
            folder=folder,
            labels=labels,
            shards=tuple(choice.shards),
            sample_rate_hz=one_rate(folder.location, sorted(choice.rates)),
            **vars(table),
        )
        index._check_shards()
        return index

    def __len__(self) -> int:
        return len(self.row_N)

    @property
    def root(self) -> Path:
        """Local folder with the tables, or with their copies if the dataset is remote."""
        return self.folder.root

    @property
    def location(self) -> str:
        """Folder or URL of the dataset, for people and for records."""
        return self.folder.location

    @property
    def remote(self) -> bool:
        """Whether the tars lie in an object store."""
        return self.folder.versions is not None

    @cached_property
    def digest(self) -> str:
        """Digest of the index (every clip's name, place, length, labels, group and fold) and of the
        label space: 16 hexadecimal digits, which do not depend on where the dataset lies.
        """
        digest = hashlib.sha256()
        for name in ("index.parquet", "labels.json"):
            digest.update((self.root / name).read_bytes())
        return digest.hexdigest()[:16]

    @property
    def hours(self) -> float:
        """Hours of sound in the chosen clips."""
        return float(self.samples_N.sum()) / self.sample_rate_hz / 3600.0

    def member(self, clip: int) -> Member:
        """The place of the chosen clip with number `clip`."""
        shard = self.shards[self.shard_N[clip]]
        return Member(
            f"{self.folder.location}/{shard}",
            int(self.offset_N[clip]),
            int(self.size_N[clip]),
            CODECS[self.codec_N[clip]],
            self.sample_rate_hz,
            int(self.samples_N[clip]),
            self.folder.version(shard),
        )

    def label_ids(
        self, clip: int, start: int = 0, samples: int | None = None
    ) -> npt.NDArray[np.int32]:
        """Foreground classes of a clip, numbered as in `labels`.

        Where labels have times, those of the events that count for a window of the clip: by
        default the whole clip, else `samples` samples from `start` on, as far as the clip goes.
        """
        if self.strong_N is None or samples is None or not self.strong_N[clip]:
            return self.label_P[self.label_start_N1[clip] : self.label_start_N1[clip + 1]]
        event_E, begin_E, end_E = self.events(clip)
        rate, last = self.sample_rate_hz, min(start + samples, int(self.samples_N[clip]))
        counts_E = self.labels.overlap.counts(begin_E, end_E, start / rate, last / rate)
        return np.unique(event_E[counts_E])

    def events(
        self, clip: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Class, begin and end of the events in a clip, in seconds from its start; they may begin
        before it and end behind it. Empty where the labels hold for the whole clip.
        """
        if (
            self.event_start_N1 is None or self.event_E is None
            or self.begin_E is None or self.end_E is None
        ):  # fmt: skip
            none_E = np.empty(0, np.float64)
            return np.empty(0, np.int32), none_E, none_E
        here = slice(int(self.event_start_N1[clip]), int(self.event_start_N1[clip + 1]))
        return self.event_E[here], self.begin_E[here], self.end_E[here]

    def label_counts(self) -> IntArray:
        """Clips per class of `labels` (a clip that names a class twice counts twice).

        A class that only windows of clips can have counts once.
        """
        counts_C = np.bincount(self.label_P, minlength=len(self.labels)).astype(np.int64)
        if self.event_E is not None:
            counts_C[self.event_E] = np.maximum(counts_C[self.event_E], 1)
        return counts_C

    def key(self, clip: int) -> str:
        """Name of a clip. Each call reads a row group of the file, so do not use it in loops."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.root / "index.parquet") as file:
            row = int(self.row_N[clip])
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < rows:
                    keys = file.read_row_group(group, columns=["key"], use_threads=False)
                    return str(keys.column("key")[row].as_py())
                row -= rows
        raise DataError(f"{self.location}/index.parquet changed while it was in use")

    def column(self, name: str) -> list[Any]:
        """Any column of the index (group_id, fold, recording_id, ...) for the chosen clips."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.root / "index.parquet", columns=[name], use_threads=False)
        values: list[Any] = table.column(name).take(self.row_N).to_pylist()
        return values

    def describe(self, clip: int) -> str:
        """Name of a clip's member, for messages."""
        codec = CODECS[self.codec_N[clip]]
        return f"{self.location}/{self.shards[self.shard_N[clip]]}: {self.key(clip)}.{codec}"

    def _check_shards(self) -> None:
        """Compare each tar's length with the index, by a `stat` per shard or by the listing."""
        last_K = np.zeros(len(self.shards), dtype=np.int64)
        np.maximum.at(last_K, self.shard_N, self.offset_N + self.size_N)
        if self.offset_N.min() < 0 or self.size_N.min() <= 0 or self.samples_N.min() < 0:
            raise DataError(f"{self.location}/index.parquet has negative numbers: {REBUILD_HINT}")
        for shard in np.unique(self.shard_N).tolist():
            path = f"{self.location}/{self.shards[shard]}"
            try:
                actual = self.folder.size(self.shards[shard])
            except FileNotFoundError:
                raise DataError(f"shard {path} is missing: {REBUILD_HINT}") from None
            blocks = -(-int(last_K[shard]) // _TAR_BLOCK) * _TAR_BLOCK
            # A tar ends with two blocks of zeros and consists of whole blocks.
            if actual < blocks + 2 * _TAR_BLOCK or actual % _TAR_BLOCK:
                raise DataError(
                    f"shard {path} has {actual} bytes; by the index it must have at least "
                    f"{blocks + 2 * _TAR_BLOCK}, in whole blocks of {_TAR_BLOCK}. It was truncated "
                    f"or is not the one that was indexed: {REBUILD_HINT}"
                )


def _check_events(location: str, table: ClipColumns, labels: int) -> None:
    """Raise DataError where events do not fit the label space, or have impossible times."""
    event_E, begin_E, end_E = table.event_E, table.begin_E, table.end_E
    if event_E is None or begin_E is None or end_E is None or not event_E.size:
        return
    fit = len(event_E) == len(begin_E) == len(end_E) and 0 <= event_E.min() <= event_E.max()
    if not fit or event_E.max() >= labels or not bool(np.all(begin_E <= end_E)):
        raise DataError(f"{location}/index.parquet has events that cannot be: {REBUILD_HINT}")


def _below(shard: str) -> bool:
    """Whether a name from the index, which cannot be trusted, is a tar file below the dataset."""
    parts = shard.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and "\\" not in shard
    return plain and shard.endswith(".tar") and shard.isprintable() and "://" not in shard
