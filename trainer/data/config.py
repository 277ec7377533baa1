"""The `data` section of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import WithJsonSchema

from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Positive,
    Range,
    Share,
    Whole,
    check_ranges,
)

# Finds a user, token or password before the host, or anything after a question mark.
SECRETIVE = re.compile(r"://(?:[^/\s]*@|.*:.*@|.*\?)")

Fold = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]
"""Name of a fold. Folds are often called 0, 1, 2, so numbers are accepted without quotes."""


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
    """Dataset folder, which holds `index.parquet` and the tar files of the splits; or its URL in an
    object store (`s3://bucket/datasets/xc`)."""
    weight: Positive | None = None
    """Share of the mixture, relative to the other sources' weights. Null: the number of clips, so
    that every clip of every source is drawn equally often. Give it for all sources or for none."""
    splits: tuple[str, ...] = ("train",)
    """Splits to use, by the names in the index ("train", "valid", ...)."""
    folds: tuple[Fold, ...] | None = None
    """Use only clips of these folds. Null: all clips, with or without a fold."""
    exclude_folds: tuple[Fold, ...] = ()
    """Leave out clips of these folds, for example the one kept for testing."""
    class_floor: Count | None = None
    """Least number of clips that each class has in an epoch: clips of rarer classes are drawn
    several times, each time with another window (BirdCLEF+ 2026). Null: every clip once. It is for
    `train` only."""

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
    """How datasets in an object store (`s3://...`) are read. No effect on which clips are seen."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    cache: str | None = None
    """Folder for fetched data, best on the node's own scratch. All ranks and workers of a node
    share it, and it is kept between runs. Null: in $TMPDIR, $XDG_CACHE_HOME or ~/.cache."""
    cache_gb: NotNegative = 50.0
    """Most space for clips in that folder, in 10^9 bytes; the least recently used are removed
    first. 0: keep none. The tables of each dataset come on top (about 60 bytes per clip)."""
    patience_s: NotNegative = 120.0
    """Seconds during which requests are repeated when the object store does not answer."""

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
    """Datasets to train on, each under a name of your choice; they are mixed by their weights."""
    valid: dict[str, SourceConfig] = field(default_factory=dict)
    """Datasets to validate on. Of every clip, the first window is used once."""
    noise: dict[str, SourceConfig] = field(default_factory=dict)
    """Datasets whose clips are mixed in as background noise. Empty: no noise is added."""
    window_s: Annotated[float, Range(gt=0, le=3600)] = 10.0
    """Length of the window cut out of each clip, in seconds; shorter clips are zero-padded
    (10 s: the supervised stage of the paper, section 3)."""
    workers: Whole = 2
    """Processes per rank that read and decode. 0: the training process does it itself. The number
    has no effect on which clips are seen."""
    prefetch: Count = 2
    """Micro-batches that each worker prepares in advance. Has no effect on which clips are seen."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How datasets in an object store are read."""
    max_broken: Share = 0.01
    """The run stops when more than this share of the clips cannot be decoded. A broken clip is
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
        for kind, sources in (("valid", self.valid), ("noise", self.noise)):
            floored = [name for name, source in sources.items() if source.class_floor is not None]
            _require(not floored, f"{kind}: {floored} have a class_floor; it is for train only")
