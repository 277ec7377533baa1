"""The index of a prepared dataset: where each clip lies, how long it is, and its labels.

Shape legend: N clips, M rows of one piece of the index file, P label entries, K shards.
A million clips take about 45 MB in a handful of arrays; text columns stay in the file until a
message or an evaluation asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError

IntArray = npt.NDArray[np.int64]

CODECS = ("flac", "wav")
_NUMBERS = ("offset", "size", "samples", "sample_rate_hz")
_COLUMNS = ("split", "shard", "codec", "fold", "label_ids", *_NUMBERS)
_TAR_BLOCK = 512
_MENDING = "prepare the dataset again (`chorus prep`), or restore the files from a good copy"


@dataclass(frozen=True)
class LabelSpace:
    """The classes that labels are numbered by."""

    names: tuple[str, ...]
    """Class names; a class's id is its place here."""

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
            DataError: missing, unreadable, ids that are not 0..n-1, or a name that occurs twice.
        """
        path = Path(path)
        try:
            labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
            names = {int(label["id"]): str(label["name"]) for label in labels}
        except FileNotFoundError:
            raise DataError(f"{path} is missing: {_MENDING}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a label space ({error!r}): {_MENDING}") from None
        if sorted(names) != list(range(len(labels))) or len(set(names.values())) != len(labels):
            raise DataError(f"{path}: ids must be 0..n-1 and names unique: {_MENDING}")
        return cls(tuple(names[i] for i in range(len(names))))

    @classmethod
    def union(cls, spaces: Sequence[LabelSpace]) -> LabelSpace:
        """All classes of several label spaces, sorted by name, whatever the order of the spaces."""
        return cls(tuple(sorted({name for space in spaces for name in space.names})))

    def remap(self, other: LabelSpace) -> npt.NDArray[np.int32]:
        """Our id of each class of `other`; -1 for a class that we do not have."""
        return np.array([self.index.get(name, -1) for name in other.names], dtype=np.int32)


class Member(NamedTuple):
    """Where the bytes of one clip are, and what they must decode to."""

    path: str
    """The tar file."""
    offset: int
    """Of the first byte of the sound file in the tar."""
    size: int
    """Bytes."""
    codec: str
    """One of `CODECS`."""
    sample_rate_hz: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class ClipColumns:
    """The chosen rows of an index file, one entry per clip."""

    row_N: npt.NDArray[np.int32]
    """Row of each clip in `index.parquet`."""
    shard_N: npt.NDArray[np.int32]
    """Place of each clip's tar in `shards`."""
    codec_N: npt.NDArray[np.uint8]
    """Place in `CODECS`."""
    offset_N: IntArray
    size_N: IntArray
    samples_N: IntArray
    label_start_N1: IntArray
    """Labels of clip i are `label_P[label_start_N1[i] : label_start_N1[i + 1]]`."""
    label_P: npt.NDArray[np.int32]
    """Foreground class ids, in the numbers of `labels`."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex(ClipColumns):
    """The chosen clips of one dataset. Make it with `ShardIndex.open`."""

    root: Path
    labels: LabelSpace
    """The dataset's own classes."""
    shards: tuple[str, ...]
    """Tar files, relative to `root`."""
    sample_rate_hz: int
    """One rate for all clips."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        splits: Sequence[str] | None = None,
        folds: Sequence[str] | None = None,
        exclude_folds: Sequence[str] = (),
    ) -> ShardIndex:
        """Open a dataset and choose clips from it.

        Args:
            path: the dataset folder.
            splits: splits to use; None for all.
            folds: use only clips of these folds; None for all, also those without a fold.
            exclude_folds: leave out clips of these folds.

        Raises:
            DataError: the folder, the index or a shard is missing; a split or fold does not exist;
                nothing is left; the index does not fit its tar files or its label space.
        """
        root = Path(path)
        labels_path = root / "labels.json"
        choice = _Choice(root, splits, folds, tuple(exclude_folds))
        table = choice.read()
        labels = LabelSpace.read(labels_path)
        if table.label_P.size and not 0 <= table.label_P.min() <= table.label_P.max() < len(labels):
            raise DataError(
                f"{root / 'index.parquet'} has label id {table.label_P.max()}, but {labels_path} "
                f"has {len(labels)} labels: {_MENDING}"
            )
        index = cls(
            root=root,
            labels=labels,
            shards=tuple(choice.shards),
            sample_rate_hz=_one_rate(root, sorted(choice.rates)),
            **vars(table),
        )
        index._check_shards()
        return index

    def __len__(self) -> int:
        return len(self.row_N)

    @property
    def hours(self) -> float:
        """Sound in the chosen clips."""
        return float(self.samples_N.sum()) / self.sample_rate_hz / 3600.0

    def member(self, clip: int) -> Member:
        """Where clip number `clip` of the chosen ones is."""
        return Member(
            str(self.root / self.shards[self.shard_N[clip]]),
            int(self.offset_N[clip]),
            int(self.size_N[clip]),
            CODECS[self.codec_N[clip]],
            self.sample_rate_hz,
            int(self.samples_N[clip]),
        )

    def label_ids(self, clip: int) -> npt.NDArray[np.int32]:
        """Foreground classes of a clip, in the numbers of `labels`."""
        return self.label_P[self.label_start_N1[clip] : self.label_start_N1[clip + 1]]

    def label_counts(self) -> IntArray:
        """Clips per class of `labels` (a clip that names a class twice counts twice)."""
        return np.bincount(self.label_P, minlength=len(self.labels)).astype(np.int64)

    def key(self, clip: int) -> str:
        """Name of a clip. Reads one row group of the file: for messages, not for loops."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.root / "index.parquet") as file:
            row = int(self.row_N[clip])
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < rows:
                    keys = file.read_row_group(group, columns=["key"], use_threads=False)
                    return str(keys.column("key")[row].as_py())
                row -= rows
        raise DataError(f"{self.root / 'index.parquet'} changed while it was in use")

    def column(self, name: str) -> list[Any]:
        """Any column of the index (group_id, fold, recording_id, ...) for the chosen clips."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.root / "index.parquet", columns=[name], use_threads=False)
        values: list[Any] = table.column(name).take(self.row_N).to_pylist()
        return values

    def describe(self, clip: int) -> str:
        """Name of a clip's member, for messages."""
        codec = CODECS[self.codec_N[clip]]
        return f"{self.root / self.shards[self.shard_N[clip]]}: {self.key(clip)}.{codec}"

    def _check_shards(self) -> None:
        """Compare each tar's length with what the index says: one `stat` per shard."""
        last_K = np.zeros(len(self.shards), dtype=np.int64)
        np.maximum.at(last_K, self.shard_N, self.offset_N + self.size_N)
        if self.offset_N.min() < 0 or self.size_N.min() <= 0 or self.samples_N.min() < 0:
            raise DataError(f"{self.root / 'index.parquet'} has negative numbers: {_MENDING}")
        for shard in np.unique(self.shard_N).tolist():
            path = self.root / self.shards[shard]
            try:
                actual = path.stat().st_size
            except FileNotFoundError:
                raise DataError(f"shard {path} is missing: {_MENDING}") from None
            blocks = -(-int(last_K[shard]) // _TAR_BLOCK) * _TAR_BLOCK
            # A tar ends with two blocks of zeros and consists of whole blocks.
            if actual < blocks + 2 * _TAR_BLOCK or actual % _TAR_BLOCK:
                raise DataError(
                    f"shard {path} has {actual} bytes; by the index it must have at least "
                    f"{blocks + 2 * _TAR_BLOCK}, in whole blocks of {_TAR_BLOCK}. It was truncated "
                    f"or is not the one that was indexed: {_MENDING}"
                )


# --------------------------------------------------------------------------- reading the file


@dataclass
class _Choice:
    """Reads an index file piece by piece and keeps the chosen rows, as arrays."""

    root: Path
    splits: Sequence[str] | None
    folds: Sequence[str] | None
    exclude_folds: Sequence[str]
    shards: dict[str, int] = field(default_factory=dict)
    seen_splits: set[str] = field(default_factory=set)
    seen_folds: set[str] = field(default_factory=set)
    rates: set[int] = field(default_factory=set)

    def read(self) -> ClipColumns:
        pieces = [self._piece(batch, first) for batch, first in self._batches()]
        self._check_names()
        if not pieces or not sum(len(piece["row"]) for piece in pieces):
            raise DataError(
                f"{self.root}: no clip is left with splits={_listed(self.splits)}, "
                f"folds={_listed(self.folds)}, exclude_folds={_listed(self.exclude_folds)}; the "
                f"index has splits {sorted(self.seen_splits)}, folds {sorted(self.seen_folds)}"
            )
        joined = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
        start_N1 = np.zeros(len(joined["row"]) + 1, dtype=np.int64)
        np.cumsum(joined["labels_of"], out=start_N1[1:])
        return ClipColumns(
            row_N=joined["row"],
            shard_N=joined["shard"],
            codec_N=joined["codec"],
            offset_N=joined["offset"],
            size_N=joined["size"],
            samples_N=joined["samples"],
            label_start_N1=start_N1,
            label_P=joined["label"],
        )

    def _batches(self) -> Iterator[tuple[Any, int]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.root / "index.parquet"
        if not self.root.is_dir():
            raise DataError(f"there is no dataset folder {self.root}: check the path")
        if not path.is_file():
            raise DataError(
                f"{self.root} has no index.parquet: it is not a prepared dataset, or its "
                f"preparation did not finish; run `chorus prep` on the sound first"
            )
        try:
            missing = sorted({*_COLUMNS, "key"} - set(pq.read_schema(path).names))
            if missing:
                raise DataError(f"{path} lacks the columns {missing}: {_MENDING}")
            # Dictionary codes instead of a string per row; no threads, because data-loader
            # workers are forked from this process.
            text = ["split", "shard", "codec", "fold"]
            with pq.ParquetFile(path, read_dictionary=text, pre_buffer=False) as file:
                first = 0
                for batch in file.iter_batches(1 << 16, columns=list(_COLUMNS), use_threads=False):
                    yield batch, first
                    first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}): {_MENDING}") from None
        pa.default_memory_pool().release_unused()

    def _piece(self, batch: Any, first: int) -> dict[str, npt.NDArray[Any]]:
        """The chosen rows of one piece, as arrays."""
        split_M, splits = _codes(batch.column("split"))
        fold_M, folds = _codes(batch.column("fold"))
        self.seen_splits.update(splits[:-1])
        self.seen_folds.update(folds[:-1])
        keep_M = np.ones(batch.num_rows, dtype=bool)
        if self.splits is not None:
            keep_M &= np.isin(splits, self.splits)[split_M]
        if self.folds is not None:
            keep_M &= np.isin(folds, self.folds)[fold_M]
        keep_M &= ~np.isin(folds, self.exclude_folds)[fold_M]
        shard_M, shards = _codes(batch.column("shard"))
        codec_M, codecs = _codes(batch.column("codec"))
        chosen: list[str] = [shards[i] for i in np.unique(shard_M[keep_M])]
        for name in chosen:
            self.shards.setdefault(name, len(self.shards))
        unknown = sorted({codecs[i] for i in np.unique(codec_M[keep_M])} - set(CODECS))
        if unknown:
            raise DataError(f"{self.root}: unknown codec {unknown}; allowed are {list(CODECS)}")
        shard_ids = np.array([self.shards.get(name, -1) for name in shards], dtype=np.int32)
        codec_ids = np.array([CODECS.index(c) if c in CODECS else 255 for c in codecs], np.uint8)
        numbers = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in _NUMBERS}
        self.rates.update(np.unique(numbers["sample_rate_hz"][keep_M]).tolist())
        labels = batch.column("label_ids")
        count_M = labels.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        label_Q = labels.flatten().to_numpy(zero_copy_only=False)
        return {
            "row": (np.flatnonzero(keep_M) + first).astype(np.int32),
            "shard": shard_ids[shard_M[keep_M]],
            "codec": codec_ids[codec_M[keep_M]],
            **{n: numbers[n][keep_M].astype(np.int64) for n in ("offset", "size", "samples")},
            "labels_of": count_M[keep_M].astype(np.int64),
            "label": label_Q[np.repeat(keep_M, count_M)].astype(np.int32),
        }

    def _check_names(self) -> None:
        for what, asked, seen in (
            ("split", self.splits, self.seen_splits),
            ("fold", self.folds, self.seen_folds),
            ("fold", self.exclude_folds, self.seen_folds),
        ):
            unknown = sorted(set(asked or ()) - seen)
            if unknown:
                raise DataError(
                    f"{self.root} has no {what} {_listed(unknown)}; it has {_listed(sorted(seen))}"
                )


def _codes(column: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Codes and names of a text column; null gets the last code, whose name is ""."""
    if not hasattr(column, "dictionary"):  # all null, or written in an unusual way
        column = column.cast("string").dictionary_encode()
    names = [str(name) for name in column.dictionary.to_pylist()]
    codes_M = column.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return codes_M.astype(np.int64), [*names, ""]


def _listed(names: Sequence[str] | None) -> str:
    if names is None:
        return "all"
    shown = ", ".join(repr(str(name)) for name in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{shown}{more}" if names else "none"


def _one_rate(root: Path, rates: list[int]) -> int:
    if len(rates) != 1:
        raise DataError(
            f"{root} has clips at {rates} Hz; one dataset has one rate: prepare it again with one"
        )
    return rates[0]
