"""The recipe of `chorus evaluate`: one frozen dataclass for each measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dawnchorus.trainer.compose import load
from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Positive,
    Range,
    ShareBelowOne,
    Whole,
    check_ranges,
)
from dawnchorus.trainer.evaluation.probes.base_config import ProbeConfig
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.kinds import EVALUATE
from dawnchorus.trainer.registry import PROBES

_STRICT: dict[str, object] = {"extra": "forbid", "use_attribute_docstrings": True}


if TYPE_CHECKING:
    AnyProbe = ProbeConfig
else:
    AnyProbe = PROBES.union(default="linear")


def rebuild() -> None:
    """Make the section `probe` know what was added to the registry since."""
    globals()["AnyProbe"] = PROBES.union(default="linear")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """ROC-AUC of each clip as a query against the others, by cosine similarity."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    enabled: bool = True
    """Whether to measure it."""
    exclude_same_group: bool = True
    """Also report figures whose gallery leaves out the query's own group (the same recording, or
    the same recordist and site): finding those clips says little about the label. The paper leaves
    them in; its figures have the plain names."""
    across: bool = False
    """Also rank the clips of the training part (and of a validation part that was cut from it) for
    each tested clip: retrieval from one set to another, such as from one year to the next; and the
    other way round, as the published figures were made."""
    bootstrap: Whole = 200
    """Number of resamples of whole groups of queries for the 95 % interval; 0: no interval."""
    chunk_queries: Count = 256
    """Number of queries that are ranked at once. The memory is some tens of bytes x this number x
    the number of clips."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Labels by the nearest clips, each clip left out in turn; embeddings less their mean."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    enabled: bool = True
    """Whether to measure it."""
    neighbours: Count = 5
    """How many of the nearest clips vote."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """K-means on the raw embeddings, compared with the labels."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    enabled: bool = True
    """Whether to measure it."""
    seeds: Count = 3
    """Number of clusterings, with seeds 42, 43, ...; the paper ran only the first."""
    n_init: Count = 10
    """Starts per clustering, of which the best inertia is kept (paper: 10)."""
    max_iter: Count = 300
    """Most Lloyd iterations per start (paper: 300)."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """Tokens of every clip, for the probes that read them (attentive, prototypes)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    layers: Literal["blocks"] | tuple[Whole, ...] = "blocks"
    """Layers for probes that read several: `blocks` (what leaves each block, as their sources have
    it), or numbers (0: before the first block, i: after block i)."""
    stride: Count = 1
    """Keep every so many-th column of tokens in time, with all its bands: a smaller file, a
    quicker probe, less to find."""
    limit_gib: NotNegative = 20.0
    """Most space that the files of tokens may take in the cache, in GiB. Older ones are deleted for
    new ones. Where one alone is larger, or the disk is full, there is none, and the encoder runs
    again whenever the probe reads (0: always)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.layers:
            raise ValueError("tokens.layers is empty: name a layer, or blocks for all of them")


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Baselines that the model should beat, measured on the same clips and splits."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    logmel: bool = True
    """Pool the log-mel bands over the clip as the model's tokens are; nothing is learned."""
    random_init: bool = True
    """The same encoder with its initial, untrained weights."""
    random_init_seed: int = 0
    """Draws those weights."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One evaluation: a model, a dataset, the measurements."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    data: str
    """Dataset folder, as `chorus prep` writes it."""
    splits: tuple[str, ...] | None = None
    """Splits of the dataset to use. Null: all of them. With `protocol: splits` the three splits
    named below are used instead."""
    protocol: Literal["auto", "folds", "splits", "groups"] = "auto"
    """How clips are divided for the probe. `folds`: each value of the dataset's fold column is
    the test part once. `splits`: the dataset's own train, valid and test. `groups`: folds made
    here, stratified by label, whole groups only. `auto`: `folds` where all clips have a fold,
    else `splits` where there is a test split, else `groups`."""
    train_split: str = "train"
    """With `protocol: splits`: the split on which the probe learns."""
    valid_split: str = "valid"
    """With `protocol: splits`: the split that chooses the probe's best epoch. If the dataset has no
    such split, a part of the training split does it."""
    test_split: str = "test"
    """With `protocol: splits`: the split on which the probe is measured."""
    test_folds: tuple[str | int, ...] | None = None
    """With `protocol: folds`: only these are test parts, and retrieval and clustering use only
    their clips. Name here the folds that a model was *not* post-trained on. Null: all."""
    group_folds: Annotated[int, Range(ge=2)] = 5
    """With `protocol: groups`: the number of folds to make."""
    split_seed: int = 0
    """Decides the folds of `protocol: groups` and the carved validation parts."""
    valid_fraction: ShareBelowOne = 0.2
    """Share of the training part that chooses the probe's epoch. It consists of whole groups, and
    each class keeps training clips. 0: no choice, the last epoch counts."""
    task: Literal["auto", "single", "multi"] = "auto"
    """`single`: one label per clip, cross-entropy, accuracy; clips without a label are left out.
    `multi`: any number, binary cross-entropy, macro mAP; clips without a label are negatives.
    `auto`: what the dataset declares; else `multi` as soon as one clip has two labels, or none."""
    rare_classes: Literal["error", "drop", "keep"] = "error"
    """How to treat a class with fewer than two groups, or with no group outside the test part: it
    cannot be learned and tested on different groups. `keep` measures a published division as it is:
    such a class counts although no probe can get it right; the result says how many there are."""
    shared_groups: Literal["error", "allow"] = "error"
    """How to treat given folds or splits that have a group in two parts. `allow` measures a
    published division as it is: then a probe may learn and be tested on the same recording; the
    result says how many groups are shared."""
    layer: Whole | Literal["last", "all"] = "last"
    """Layer to measure: `last` (the paper), a number (0: before the first block, i: after block
    i), or `all`, with one row per layer and one for a learned mix."""
    pooling: Literal["mean", "mean_std", "mean_std_max"] = "mean_std"
    """Statistics over time of an encoder's valid tokens, and of the frames of log-mel: `mean` (the
    paper), `mean_std` with the standard deviation too, `mean_std_max` with the maximum as well."""
    window_s: Positive = 10.0
    """Longest piece that goes through the model at once (paper: each dataset's own length, at
    most 10 s). Shorter clips are not stretched."""
    long_clips: Literal["first", "mean"] = "first"
    """For a clip longer than the window: `first` takes its beginning (the paper), `mean` the mean
    over consecutive windows weighted by their length."""
    batch_size: Count = 16
    """Windows per forward pass. It changes speed and memory, not results."""
    device: str = "auto"
    """`auto` takes a CUDA device where there is one; else a torch device name."""
    cache: bool = True
    """Keep embeddings under `<run>/evaluation/cache`, keyed by weights, data and options."""
    probe: AnyProbe = field(default_factory=LinearConfig)
    """The probe; without a `name` the linear one."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    """What probes that pool for themselves read."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Retrieval ROC-AUC."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """Labels by the nearest clips."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """K-means against the labels."""
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    """Log-mel statistics and an untrained encoder."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.data:
            raise ValueError("data is empty: name a dataset folder, e.g. data=datasets/mine")
        if len({self.train_split, self.valid_split, self.test_split}) < 3:
            raise ValueError("train_split, valid_split and test_split must be three names")
        if self.test_folds is not None and not self.test_folds:
            raise ValueError("test_folds is empty: name folds, or null for all of them")
        if self.test_folds is not None and self.protocol not in ("auto", "folds"):
            raise ValueError(f"test_folds needs protocol folds, not {self.protocol}")
        if self.long_clips == "mean" and self.probe.needs in ("tokens", "layer_tokens"):
            raise ValueError(
                f"the probe {self.probe.name} reads the tokens of one window: long_clips=mean is "
                "not possible with it. Use long_clips=first, with a larger window_s if need be"
            )


def load_config(overrides: Sequence[str], preset: str = "default") -> EvaluateConfig:
    """Compose a preset (of `recipes/evaluate`, or the path of a file) with overrides; validate it.

    Raises:
        RecipeError: lists every problem.
    """
    loaded: EvaluateConfig = load(EVALUATE, preset, overrides)
    return loaded
