"""Divides clips into training, validation and test parts of a probe; groups stay whole.

Shape legend: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.clips import Clips
from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.sound_folders import PREPARE_AGAIN

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """One division of the clips; the arrays hold clip numbers."""

    name: str
    """Name of the test fold or the test split."""
    train: IntArray
    valid: IntArray
    """Clips that choose the epoch; empty if it is not chosen."""
    test: IntArray


@dataclass(frozen=True)
class Protocol:
    """The divisions of a dataset, and how they were made."""

    kind: str
    """`folds`, `splits` or `groups`."""
    folds: tuple[Fold, ...]
    valid: str
    """Origin of the validation part: `given`, `carved` or `none`."""
    shared_groups: int = 0
    """Groups that lie in two parts of some division; only with `shared_groups: allow`."""
    kept_classes: dict[str, str] = field(default_factory=dict)
    """Classes that cannot be learned and tested on different groups but count, with the reasons;
    only where `rare_classes: keep` says so."""

    @property
    def tested(self) -> IntArray:
        """All clips of the test parts, in order; retrieval and clustering use these."""
        return np.unique(np.concatenate([f.test for f in self.folds]))

    def gallery(self, fold: Fold) -> IntArray:
        """The clips that retrieval across two sets ranks for the tested clips: the training part,
        and a validation part that was carved from it.
        """
        if self.valid != "carved":
            return fold.train
        return np.sort(np.concatenate([fold.train, fold.valid]))


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few of a list, for a message."""
    listed = [str(n) for n in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def check_disjoint(clips: Clips, parts: Sequence[tuple[str, IntArray]]) -> None:
    """Make sure that no group has clips in two of the parts.

    Raises:
        DataError: a group has; the message names the parts and some of the groups.
    """
    for i, (name_a, part_a) in enumerate(parts):
        for name_b, part_b in parts[i + 1 :]:
            both = np.intersect1d(clips.group_N[part_a], clips.group_N[part_b])
            if both.size:
                raise DataError(
                    f"{clips.path}: {both.size} groups have clips in both {name_a} and {name_b}: "
                    f"{some(clips.groups[g] for g in both)}. What a probe learns of a recording "
                    "would be tested on the same recording. Correct the group, fold or split "
                    f"column and {PREPARE_AGAIN}, or use protocol=groups, which makes "
                    "folds of whole groups. To measure a published division as it is: "
                    "shared_groups=allow."
                )


def shared_groups(clips: Clips, folds: Iterable[Fold]) -> IntArray:
    """Groups that some division has in more than one of its parts."""
    found = []
    for fold in folds:
        parts = [np.unique(clips.group_N[p]) for p in (fold.train, fold.valid, fold.test)]
        groups, counts = np.unique(np.concatenate(parts), return_counts=True)
        found.append(groups[counts > 1])
    return np.unique(np.concatenate(found)).astype(np.int64)


def carve_valid(clips: Clips, train: IntArray, fraction: float, seed: int) -> BoolArray:
    """Choose whole groups of a training part for validation, stratified by class.

    Groups are visited in a random order. A group is taken if each of its classes stays within its
    quota (`fraction` of the class's clips, rounded up) or, while a class has no validation clip,
    loses at most half of its clips. So every class with two groups keeps training clips.

    Args:
        clips: the dataset.
        train: clip numbers to divide.
        fraction: share to aim for.
        seed: decides the order.

    Returns:
        bool per entry of `train`: true for validation. All are false if no group could be taken.
    """
    hot_NC = clips.label_NC[train]
    # Clips without a label form a class of their own, so that both parts get some.
    hot_NC = np.concatenate([hot_NC, ~hot_NC.any(1, keepdims=True)], axis=1).astype(np.int64)
    groups, code = np.unique(clips.group_N[train], return_inverse=True)
    count_GC = np.zeros((len(groups), hot_NC.shape[1]), dtype=np.int64)
    np.add.at(count_GC, code, hot_NC)
    total_C = count_GC.sum(0)
    quota_C = np.ceil(fraction * total_C)
    taken_C = np.zeros_like(total_C)
    chosen = np.zeros(len(groups), dtype=bool)
    clips_of = np.bincount(code)
    wanted = fraction * len(train)
    for g in np.random.default_rng([seed, 0x5EED]).permutation(len(groups)):
        has_C = count_GC[g] > 0
        after_C = taken_C + count_GC[g]
        fits_C = (after_C <= quota_C) | ((taken_C == 0) & (2 * count_GC[g] <= total_C))
        if (fits_C & (after_C < total_C))[has_C].all() and clips_of[chosen].sum() < wanted:
            chosen[g] = True
            taken_C = after_C
    return chosen[code]


def _with_valid(clips: Clips, name: str, rest: IntArray, test: IntArray, c: EvaluateConfig) -> Fold:
    if c.valid_fraction == 0:
        return Fold(name, rest, np.empty(0, dtype=np.int64), test)
    is_valid = carve_valid(clips, rest, c.valid_fraction, c.split_seed)
    if not is_valid.any():
        raise DataError(
            f"{clips.path}: no validation part can be carved from the {len(rest)} training clips "
            f"of {name!r}: its classes have too few groups. Give the dataset a valid split, or "
            "set valid_fraction=0 (the last epoch of the probe counts)."
        )
    return Fold(name, rest[~is_valid], rest[is_valid], test)


def _by_fold(clips: Clips, config: EvaluateConfig) -> list[Fold]:
    missing = [clips.keys[i] for i, fold in enumerate(clips.fold_N) if fold is None]
    if missing:
        what = "has no fold column" if len(missing) == len(clips) else "has clips without a fold"
        raise DataError(
            f"{clips.path}: the index {what} ({len(missing)} of {len(clips)} clips, e.g. "
            f"{missing[0]}). Use protocol=groups (folds are made here) or protocol=splits, or "
            "prepare the dataset with its fold column."
        )
    fold_N = np.array([str(f) for f in clips.fold_N])
    names = sorted(set(fold_N))
    if len(names) < 2:
        raise DataError(f"{clips.path}: only one fold ({names[0]}); folds need at least two")
    tested = names if config.test_folds is None else [str(f) for f in config.test_folds]
    unknown = sorted(set(tested) - set(names))
    if unknown:
        raise DataError(
            f"{clips.path}: no fold {some(unknown)}; test_folds can name {some(names, 20)}"
        )
    if config.shared_groups == "error":
        check_disjoint(clips, [(f"fold {n}", np.flatnonzero(fold_N == n)) for n in names])
    return [
        _with_valid(clips, n, np.flatnonzero(fold_N != n), np.flatnonzero(fold_N == n), config)
        for n in tested
    ]


def _by_split(clips: Clips, config: EvaluateConfig) -> list[Fold]:
    split_N = np.array(clips.split_N)
    train, valid, test = (
        np.flatnonzero(split_N == s)
        for s in (config.train_split, config.valid_split, config.test_split)
    )
    for name, part in ((config.train_split, train), (config.test_split, test)):
        if not part.size:
            raise DataError(
                f"{clips.path}: no clips in split {name!r}; the dataset has "
                f"{some(sorted(set(split_N)), 20)}. Set train_split and test_split, or use "
                "protocol=folds or protocol=groups."
            )
    if config.shared_groups == "error":
        named = (
            (config.train_split, train),
            (config.valid_split, valid),
            (config.test_split, test),
        )
        check_disjoint(clips, [(f"split {name}", part) for name, part in named])
    if valid.size:
        return [Fold(config.test_split, train, valid, test)]
    return [_with_valid(clips, config.test_split, train, test, config)]


def _by_group(clips: Clips, config: EvaluateConfig) -> list[Fold]:
    from sklearn.model_selection import StratifiedGroupKFold

    groups = len(np.unique(clips.group_N))
    if groups < config.group_folds:
        raise DataError(
            f"{clips.path}: {groups} groups cannot fill group_folds={config.group_folds} folds"
        )
    # Stratified by the set of labels: each distinct set counts as a class of its own.
    _, kind_N = np.unique(clips.label_NC, axis=0, return_inverse=True)
    import warnings

    splitter = StratifiedGroupKFold(
        config.group_folds, shuffle=True, random_state=config.split_seed
    )
    with warnings.catch_warnings():
        # `check_classes` in this module deals with rare classes.
        warnings.filterwarnings("ignore", message="The least populated class")
        pairs = list(splitter.split(np.zeros(len(clips)), kind_N.ravel(), clips.group_N))
    return [_with_valid(clips, str(k), rest, test, config) for k, (rest, test) in enumerate(pairs)]


def make_protocol(clips: Clips, config: EvaluateConfig) -> Protocol:
    """Divide the clips as the config says.

    Raises:
        DataError: the fold column is absent, a split is empty, a group is in two parts, or no
            validation part can be carved.
    """
    kind = config.protocol
    if kind == "auto":
        if config.test_folds is not None or all(f is not None for f in clips.fold_N):
            kind = "folds"
        elif config.test_split in clips.split_N:
            kind = "splits"
        else:
            kind = "groups"
    make = {"folds": _by_fold, "splits": _by_split, "groups": _by_group}[kind]
    folds = tuple(make(clips, config))
    if config.shared_groups == "error":
        for fold in folds:
            check_disjoint(
                clips, [("the train part", fold.train), ("the validation part", fold.valid),
                        (f"the test part {fold.name}", fold.test)],
            )  # fmt: skip
    if not folds[0].valid.size:
        valid = "none"
    else:
        given = kind == "splits" and config.valid_split in clips.split_N
        valid = "given" if given else "carved"
    return Protocol(kind, folds, valid, len(shared_groups(clips, folds)))


def untestable_classes(
    clips: Clips, protocol: Protocol | None = None, *, groups: bool = True
) -> dict[int, str]:
    """Classes that no probe can be tested on fairly, with the reason.

    Without a protocol: classes with fewer than two groups (unless `groups` is false). With one:
    also classes that some test part has and its training part lacks.
    """
    reasons: dict[int, str] = {}
    for c in range(len(clips.classes)) if groups else ():
        count = len(np.unique(clips.group_N[clips.label_NC[:, c]]))
        if count < 2:
            reasons[c] = f"{count} group{'' if count == 1 else 's'}"
    for fold in protocol.folds if protocol else ():
        absent = clips.label_NC[fold.test].any(0) & ~clips.label_NC[fold.train].any(0)
        for missing in np.flatnonzero(absent).tolist():
            reasons.setdefault(missing, f"no training clip where {fold.name} is the test part")
    return reasons


def settle_classes(
    clips: Clips, config: EvaluateConfig, least_classes: int = 2
) -> tuple[Clips, Protocol, dict[str, str]]:
    """Make the protocol and see that every class can be learned and tested on other groups.

    Args:
        clips: the labelled clips, and negatives where the task has them.
        config: the protocol.
        least_classes: with fewer there is nothing to measure: 2, or 1 beside negatives.

    Returns:
        The clips that are left, their protocol, and the dropped classes with the reasons.

    Raises:
        DataError: with `rare_classes: error`, naming the classes; or too few are left.
    """
    dropped: dict[str, str] = {}
    while True:
        protocol: Protocol | None = None
        # With shared groups, or classes kept as published, it is the division that decides.
        published = config.shared_groups == "allow" or config.rare_classes == "keep"
        reasons = {} if published else untestable_classes(clips)
        if not reasons:
            protocol = make_protocol(clips, config)
            reasons = untestable_classes(clips, protocol, groups=config.shared_groups == "error")
        if protocol is not None and config.rare_classes == "keep":
            kept = {clips.classes[c]: why for c, why in reasons.items()}
            return clips, replace(protocol, kept_classes=kept), dropped
        if reasons and config.rare_classes == "error":
            told = some((f"{clips.classes[c]} ({why})" for c, why in reasons.items()), 8)
            raise DataError(
                f"{clips.path}: {len(reasons)} of {len(clips.classes)} classes cannot be learned "
                f"and tested on different groups: {told}. Add recordings of them, or leave them "
                "out with rare_classes=drop. To measure a published division as it is: "
                "rare_classes=keep."
            )
        if protocol is not None and not reasons:
            return clips, protocol, dropped
        dropped |= {clips.classes[c]: why for c, why in reasons.items()}
        clips = clips.without_classes(sorted(reasons))
        if len(clips.classes) < least_classes:
            raise DataError(
                f"{clips.path}: {len(clips.classes) or 'no'} classes are left after dropping "
                f"{len(dropped)} that have too few groups; {least_classes} are needed"
            )
