"""What a recipe says about its data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import WithJsonSchema

from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Positive,
    Share,
    Whole,
    check_ranges,
)

# A user, a token or a password before the host, or anything after a question mark.
SECRETIVE = re.compile(r"://(?:[^/\s]*@|.*:.*@|.*\?)")

Fold = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]
"""Folds are often called 0, 1, 2; nobody should have to quote them."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One dataset folder and the part of it that is used."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
        "coerce_numbers_to_str": True,
    }

    path: str
    """Dataset folder, the one that holds `index.parquet` and the splits' tar files; or its URL in
    an object store (`s3://bucket/datasets/xc`)."""
    weight: Positive | None = None
    """Share of the mixture, relative to the other sources' weights. Null: the number of clips, so
    that every clip of every source is drawn equally often. Give it for all sources or for none."""
    splits: tuple[str, ...] = ("train",)
    """Splits to use, by the names in the index ("train", "valid", ...)."""
    folds: tuple[Fold, ...] | None = None
    """Use only clips of these folds. Null: clips of every fold, and clips without one."""
    exclude_folds: tuple[Fold, ...] = ()
    """Leave out clips of these folds, for example the one kept for testing."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _require(bool(self.path), "path is empty: name a dataset folder")
        _require(
            not SECRETIVE.search(self.path),
            "path may not hold a password or a query: recipes are copied into run folders. Give "
            "credentials by the environment or ~/.aws",
        )
        _require(len(self.splits) > 0, "splits is empty: name at least one split")
        both = sorted(set(self.folds or ()) & set(self.exclude_folds))
        _require(not both, f"folds {both} are both in folds and in exclude_folds: keep one")


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How datasets in an object store (`s3://...`) are read. Without effect on what is seen."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    cache: str | None = None
    """Folder for what was fetched, best on the node's own scratch; shared by all ranks and workers
    of a node, and kept between runs. Null: in $TMPDIR, $XDG_CACHE_HOME or ~/.cache."""
    cache_gb: NotNegative = 50.0
    """Most that clips may take there, in 10^9 bytes; the least recently used go first. 0: keep
    none. The tables of each dataset come on top (about 60 bytes per clip)."""
    patience_s: NotNegative = 120.0
    """How long to try again when the object store does not answer, in seconds."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _require(self.cache != "", "cache is empty: name a folder, or null for the usual one")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Datasets for training, validation and noise, and how they are read."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    train: dict[str, SourceConfig] = field(default_factory=dict)
    """Datasets to train on, by a name of your choice; mixed by their weights."""
    valid: dict[str, SourceConfig] = field(default_factory=dict)
    """Datasets to validate on: every clip once, its first window."""
    noise: dict[str, SourceConfig] = field(default_factory=dict)
    """Datasets whose clips are mixed in as background noise. Empty: no noise is added."""
    window_s: Positive = 10.0
    """Length of the window cut out of each clip, in seconds; shorter clips are zero-padded
    (10 s: the supervised stage of the paper, section 3)."""
    workers: Whole = 2
    """Processes that read and decode, per rank. 0: the training process does it itself. Has no
    effect on which clips are seen."""
    prefetch: Count = 2
    """Micro-batches that each worker prepares in advance. Has no effect on which clips are seen."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How datasets in an object store are read."""
    max_broken: Share = 0.01
    """Share of clips that may turn out to be undecodable before the run stops. A broken clip is
    named in the log and replaced by the clip of the next position."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for kind, sources in (("train", self.train), ("noise", self.noise)):
            given = [name for name, source in sources.items() if source.weight is not None]
            missing = [name for name in sources if name not in given]
            _require(
                not given or not missing,
                f"{kind}: {given} have a weight and {missing} have none; give it for all or none",
            )
