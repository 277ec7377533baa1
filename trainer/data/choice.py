"""Chooses rows of a dataset's index and reads them into arrays.

Shape legend: N clips, M rows of one piece of the index file, Q their label entries, P label entries
and E events of the chosen clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.data.storage import DatasetFolder
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.sound_folders import PREPARE_AGAIN, what_to_do_with

IntArray = npt.NDArray[np.int64]

CODECS = ("flac", "wav")
_NUMBERS = ("offset", "size", "samples", "sample_rate_hz")
_COLUMNS = ("split", "shard", "codec", "fold", "label_ids", *_NUMBERS)
_EVENTS = ("event_ids", "event_start_s", "event_end_s")
"""Columns of datasets whose labels have times; see docs/data.md."""
REBUILD_HINT = f"restore the files from a good copy, or {PREPARE_AGAIN}"


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
    """Foreground class ids, numbered as in `labels`."""
    strong_N: npt.NDArray[np.bool_] | None = None
    """Whether the labels of each clip have times; None: those of none."""
    event_start_N1: IntArray | None = None
    """Events of clip i are `event_E[event_start_N1[i] : event_start_N1[i + 1]]`."""
    event_E: npt.NDArray[np.int32] | None = None
    """Their classes."""
    begin_E: npt.NDArray[np.float64] | None = None
    """Their begins in seconds from the clip's start; an event may begin before it."""
    end_E: npt.NDArray[np.float64] | None = None


@dataclass
class Choice:
    """Reads an index file piece by piece and keeps the chosen rows as arrays."""

    folder: DatasetFolder
    splits: Sequence[str] | None
    folds: Sequence[str] | None
    exclude_folds: Sequence[str]
    shards: dict[str, int] = field(default_factory=dict)
    seen_splits: set[str] = field(default_factory=set)
    seen_folds: set[str] = field(default_factory=set)
    rates: set[int] = field(default_factory=set)

    def read(self) -> ClipColumns:
        """Read the file and choose. Raises DataError: see `ShardIndex.open`."""
        pieces = [self._piece(batch, first) for batch, first in self._batches()]
        self._check_names()
        if not pieces or not sum(len(piece["row"]) for piece in pieces):
            raise DataError(
                f"{self.folder.location}: no clip is left with splits={_listed(self.splits)}, "
                f"folds={_listed(self.folds)}, exclude_folds={_listed(self.exclude_folds)}; the "
                f"index has splits {sorted(self.seen_splits)}, folds {sorted(self.seen_folds)}"
            )
        joined = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
        start_N1 = np.zeros(len(joined["row"]) + 1, dtype=np.int64)
        np.cumsum(joined["labels_of"], out=start_N1[1:])
        events: dict[str, Any] = {}
        if "event" in joined:
            first_N1 = np.zeros(len(joined["row"]) + 1, dtype=np.int64)
            np.cumsum(joined["events_of"], out=first_N1[1:])
            events = {"strong_N": joined["strong"], "event_start_N1": first_N1,
                      "event_E": joined["event"], "begin_E": joined["begin"],
                      "end_E": joined["end"]}  # fmt: skip
        return ClipColumns(
            **events,
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

        path = self.folder.root / "index.parquet"
        if not self.folder.root.is_dir():
            raise DataError(f"there is no dataset folder {self.folder.root}: check the path")
        if not path.is_file():
            if told := what_to_do_with(self.folder.root):
                raise DataError(f"{told}.")
            raise DataError(
                f"{self.folder.location} has no index.parquet: it is not a prepared dataset, "
                f"or its preparation did not finish; run `chorus prep` on the sound first"
            )
        try:
            names = set(pq.read_schema(path).names)
            missing = sorted({*_COLUMNS, "key"} - names)
            if missing:
                raise DataError(f"{path} lacks the columns {missing}: {REBUILD_HINT}")
            # Text columns are read as dictionary codes, not as a string per row. No threads are
            # used, because data-loader workers are forked from this process.
            text = ["split", "shard", "codec", "fold"]
            with pq.ParquetFile(path, read_dictionary=text, pre_buffer=False) as file:
                first = 0
                columns = [*_COLUMNS, *(_EVENTS if names >= set(_EVENTS) else ())]
                for batch in file.iter_batches(1 << 16, columns=columns, use_threads=False):
                    yield batch, first
                    first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}): {REBUILD_HINT}") from None
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
            raise DataError(
                f"{self.folder.location}: unknown codec {unknown}; allowed are {list(CODECS)}"
            )
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
            **_events(batch, keep_M),
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
                    f"{self.folder.location} has no {what} {_listed(unknown)}; it has "
                    f"{_listed(sorted(seen))}"
                )


def _events(batch: Any, keep_M: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
    """The events of the chosen rows of one piece; nothing for a dataset without such columns."""
    if "event_ids" not in batch.schema.names:
        return {}
    ids = batch.column("event_ids")
    count_M = ids.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    keep_Q = np.repeat(keep_M, count_M)

    def values(name: str, kind: type) -> npt.NDArray[Any]:
        column = batch.column(name).flatten().to_numpy(zero_copy_only=False)
        return np.asarray(column[keep_Q].astype(kind))

    return {
        "strong": ids.is_valid().to_numpy(zero_copy_only=False)[keep_M],
        "events_of": count_M[keep_M].astype(np.int64),
        "event": values("event_ids", np.int32),
        "begin": values("event_start_s", np.float64),
        "end": values("event_end_s", np.float64),
    }


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


def one_rate(root: str, rates: list[int]) -> int:
    """The sample rate of a dataset, in Hz. Raises DataError if clips have different rates."""
    if len(rates) != 1:
        raise DataError(
            f"{root} has clips at {rates} Hz, but a dataset must have a single rate: "
            f"{PREPARE_AGAIN}"
        )
    return rates[0]
