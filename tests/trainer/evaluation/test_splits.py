"""Dividing clips: groups never straddle, every class stays learnable, and mistakes are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.clips import Clips
from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.evaluation.splits import carve_valid, make_protocol, settle_classes

Make = Callable[..., Clips]


def rows(
    count: int, *, classes: int = 3, per_group: int = 2, folds: int = 0
) -> list[dict[str, Any]]:
    """Clips of `classes` labels; each group holds `per_group` clips of one label."""
    result = []
    for i in range(count):
        group = i // per_group
        fold = group // classes % folds if folds else None
        label = f"l{group % classes}"
        result.append({"labels": [label], "group": f"g{group}", "fold": fold})
    return result


LABELS = ["l0", "l1", "l2"]


def config(**options: Any) -> EvaluateConfig:
    return EvaluateConfig(data="unused", **options)


def assert_fair(clips: Clips, protocol: Any) -> None:
    for fold in protocol.folds:
        parts = [set(clips.group_N[p].tolist()) for p in (fold.train, fold.valid, fold.test)]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert clips.label_NC[fold.train].any(0).all()
        together = np.concatenate([fold.train, fold.valid, fold.test])
        assert len(np.unique(together)) == len(together)


def test_folds_each_test_once_with_a_carved_validation_part(make_clips: Make) -> None:
    clips = make_clips(rows(72, folds=4), LABELS)
    protocol = make_protocol(clips, config())
    assert (protocol.kind, protocol.valid) == ("folds", "carved")
    assert [f.name for f in protocol.folds] == ["0", "1", "2", "3"]
    assert sorted(np.concatenate([f.test for f in protocol.folds])) == list(range(72))
    assert_fair(clips, protocol)
    for fold in protocol.folds:
        assert set(np.array(clips.fold_N)[fold.test]) == {fold.name}
        assert 0.1 < len(fold.valid) / (len(fold.train) + len(fold.valid)) <= 0.3
        assert clips.label_NC[fold.valid].any(0).all()


def test_test_folds_limits_what_is_tested(make_clips: Make) -> None:
    clips = make_clips(rows(72, folds=4), LABELS)
    protocol = make_protocol(clips, config(test_folds=(2,)))
    assert [f.name for f in protocol.folds] == ["2"]
    assert (np.array(clips.fold_N)[protocol.tested] == "2").all()
    with pytest.raises(DataError, match="no fold 9; test_folds can name 0, 1, 2, 3"):
        make_protocol(clips, config(test_folds=("9",)))


def test_a_group_in_two_folds_is_refused(make_clips: Make) -> None:
    bad = rows(72, folds=4)
    bad[0]["fold"] = 3
    with pytest.raises(DataError, match=r"1 groups have clips in both fold 0 and fold 3: g0"):
        make_protocol(make_clips(bad, LABELS), config())


def test_a_group_in_train_and_test_is_refused(make_clips: Make) -> None:
    given = rows(60)
    for i, row in enumerate(given):
        row["split"] = "test" if i >= 42 else "train"
    clips = make_clips(given, LABELS, "good")
    protocol = make_protocol(clips, config())
    assert (protocol.kind, protocol.valid) == ("splits", "carved")
    assert_fair(clips, protocol)
    given[41]["split"] = "test"
    with pytest.raises(DataError, match="both split train and split test: g20"):
        make_protocol(make_clips(given, LABELS, "bad"), config())


def test_a_given_validation_split_is_used(make_clips: Make) -> None:
    given = rows(60)
    for i, row in enumerate(given):
        row["split"] = "train" if i < 30 else "valid" if i < 42 else "test"
    clips = make_clips(given, LABELS, "good")
    protocol = make_protocol(clips, config(protocol="splits"))
    assert protocol.valid == "given"
    assert set(np.array(clips.split_N)[protocol.folds[0].valid]) == {"valid"}
    given[30]["group"] = given[0]["group"]
    with pytest.raises(DataError, match="both split train and split valid"):
        make_protocol(make_clips(given, LABELS, "bad"), config())


def test_no_fold_column_is_an_error_that_names_the_alternatives(make_clips: Make) -> None:
    clips = make_clips(rows(30), LABELS)
    with pytest.raises(DataError, match=r"no fold column.*protocol=groups"):
        make_protocol(clips, config(protocol="folds"))
    with pytest.raises(DataError, match="no fold column"):
        make_protocol(clips, config(test_folds=(1,)))
    with pytest.raises(DataError, match="no clips in split 'test'; the dataset has train"):
        make_protocol(clips, config(protocol="splits"))


def test_groups_are_divided_where_there_is_nothing_else(make_clips: Make) -> None:
    clips = make_clips(rows(90, per_group=3), LABELS)
    protocol = make_protocol(clips, config(group_folds=3))
    assert protocol.kind == "groups" and len(protocol.folds) == 3
    assert sorted(np.concatenate([f.test for f in protocol.folds])) == list(range(90))
    assert_fair(clips, protocol)
    again = make_protocol(clips, config(group_folds=3))
    other = make_protocol(clips, config(group_folds=3, split_seed=1))
    assert [f.test.tolist() for f in again.folds] == [f.test.tolist() for f in protocol.folds]
    assert [f.test.tolist() for f in other.folds] != [f.test.tolist() for f in protocol.folds]


def test_carving_keeps_training_clips_of_every_class(make_clips: Make) -> None:
    # l1 has two groups of very different size, l2 only one.
    given = rows(40, classes=1)
    given += [{"labels": ["l1"], "group": "big"}] * 9 + [{"labels": ["l1"], "group": "small"}]
    given += [{"labels": ["l2"], "group": "only"}] * 3
    clips = make_clips(given, LABELS)
    everything = np.arange(len(clips))
    for seed in range(20):
        valid = carve_valid(clips, everything, 0.3, seed)
        assert 0 < valid.mean() <= 0.4
        assert clips.label_NC[~valid].any(0).all()
        assert not set(clips.group_N[valid]) & set(clips.group_N[~valid])
    assert not valid[clips.label_NC[:, 2]].any()


def test_nothing_to_carve_is_an_error_unless_not_wanted(make_clips: Make) -> None:
    given = [
        {"labels": [f"l{i % 3}"], "group": f"g{i % 3}-{i // 6}", "fold": i // 6} for i in range(12)
    ]
    clips = make_clips(given, LABELS)
    with pytest.raises(DataError, match=r"no validation part can be carved.*valid_fraction=0"):
        make_protocol(clips, config())
    protocol = make_protocol(clips, config(valid_fraction=0))
    assert protocol.valid == "none" and not protocol.folds[0].valid.size


def test_a_class_with_one_group_is_refused_or_dropped(make_clips: Make) -> None:
    given = rows(48, classes=2, folds=4)
    given += [{"labels": ["l2"], "group": "alone", "fold": 0}] * 3
    clips = make_clips(given, LABELS)
    with pytest.raises(DataError, match=r"1 of 3 classes.*l2 \(1 group\).*rare_classes=drop"):
        settle_classes(clips, config())
    left, protocol, dropped = settle_classes(clips, config(rare_classes="drop"))
    assert dropped == {"l2": "1 group"} and left.classes == ("l0", "l1") and len(left) == 48
    assert_fair(left, protocol)


def test_a_class_that_is_in_one_fold_only_is_refused_or_dropped(make_clips: Make) -> None:
    given = rows(48, classes=2, folds=4)
    given += [{"labels": ["l2"], "group": f"g-l2-{i}", "fold": 1} for i in range(4)]
    clips = make_clips(given, LABELS)
    with pytest.raises(DataError, match=r"l2 \(no training clip where 1 is the test part\)"):
        settle_classes(clips, config())
    left, _, dropped = settle_classes(clips, config(rare_classes="drop"))
    assert list(dropped) == ["l2"] and len(left) == 48


def test_dropping_a_class_keeps_clips_that_have_another(make_clips: Make) -> None:
    given = [{"labels": ["l0"], "group": f"a{i}"} for i in range(6)]
    given += [{"labels": ["l1"], "group": f"b{i}"} for i in range(6)]
    given += [{"labels": ["l0", "l2"], "group": "c"}, {"labels": ["l2"], "group": "c"}]
    given += [{"labels": [], "group": "d"}]
    left = make_clips(given, LABELS).without_classes([2])
    assert left.classes == ("l0", "l1")
    assert len(left) == 14  # the clip of l2 alone is gone, the empty one stays
    assert left.label_NC.sum(1).tolist() == [1] * 13 + [0]


def published() -> list[dict[str, Any]]:
    """A division as some are published: g0 is on both sides, l2 in the test part alone."""
    return [
        {"labels": [f"l{i % 2}"], "group": f"g{i}", "split": "train"} for i in range(8)
    ] + [
        {"labels": ["l0"], "group": "g0", "split": "test"},
        {"labels": ["l1"], "group": "g9", "split": "test"},
        {"labels": ["l2"], "group": "g10", "split": "test"},
        {"labels": ["l2"], "group": "g11", "split": "test"},
    ]  # fmt: skip


def test_a_published_division_is_measured_as_it_is_where_that_is_asked_for(
    make_clips: Make,
) -> None:
    clips = make_clips(published(), LABELS)
    with pytest.raises(DataError, match=r"1 groups have clips in both .*shared_groups=allow"):
        settle_classes(clips, config())
    with pytest.raises(DataError, match=r"l2 \(no training clip .*rare_classes=keep"):
        settle_classes(clips, config(shared_groups="allow"))
    dropped, protocol, reasons = settle_classes(
        clips, config(shared_groups="allow", rare_classes="drop")
    )
    assert len(dropped) == 10 and list(reasons) == ["l2"] and protocol.shared_groups == 1
    whole, protocol, reasons = settle_classes(
        clips, config(shared_groups="allow", rare_classes="keep")
    )
    assert (len(whole), reasons, protocol.shared_groups) == (12, {}, 1)
    assert protocol.kept_classes == {"l2": "no training clip where test is the test part"}
    fold = protocol.folds[0]
    assert len(fold.test) == 4 and protocol.valid == "carved"
    # Retrieval from one set to the other ranks all of the published training part.
    assert protocol.gallery(fold).tolist() == [
        i for i, split in enumerate(whole.split_N) if split == "train"
    ]


def test_a_class_of_one_group_is_learned_and_tested_where_groups_are_shared(
    make_clips: Make,
) -> None:
    clips = make_clips(
        [{"labels": [f"l{i % 2}"], "group": f"g{i % 2}", "split": "train"} for i in range(6)]
        + [{"labels": [f"l{i % 2}"], "group": f"g{i % 2}", "split": "test"} for i in range(4)],
        LABELS,
    )
    options = {"shared_groups": "allow", "valid_fraction": 0}
    _, protocol, dropped = settle_classes(clips, config(**options))
    assert protocol.shared_groups == 2 and not dropped and not protocol.kept_classes
