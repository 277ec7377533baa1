"""A result file has one reader, which says what is wrong and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.results import Result

GOOD: dict[str, Any] = {
    "format": 2,
    "dataset": "garden",
    "metric": "map",
    "clips": 40,
    "folds": ["0", "1"],
    "protocol": {"tested_clips": 40, "pooling": "mean_std"},
    "model": {"digest": "abc", "step": 7},
    "exposure": {"labelled": 3, "tested_recordings": 40},
    "rows": [
        {"name": "log-mel", "layer": "", "probe": None, "retrieval": {"roc_auc": 0.6}},
        {"name": "model", "layer": "last", "probe": {"metric": "map", "mean": 0.5, "std": 0.1},
         "clustering": {"nmi": {"mean": 0.4, "std": 0.1}, "ari": {"mean": float("nan")}}},
    ],
    "layers": None,
    "warnings": ["seen"],
}  # fmt: skip


def test_a_result_is_read_with_all_that_people_look_at(tmp_path: Path) -> None:
    (tmp_path / "garden.json").write_text(json.dumps(GOOD))
    found = Result.read(tmp_path / "garden.json")
    assert (found.dataset, found.metric, found.digest, found.step) == ("garden", "map", "abc", 7)
    assert found.counts == {"clips": 40, "folds": 2, "tested_clips": 40}
    assert (found.pooling, found.seen) == ("mean and standard deviation", (3, 40))
    assert [(r.name, {k: f.mean for k, f in r.figures.items()}) for r in found.rows] == [
        ("log-mel", {"roc_auc": 0.6}), ("model", {"probe": 0.5, "nmi": 0.4}),
    ]  # fmt: skip
    other = Result.of(GOOD | {"protocol": {"tested_clips": 20}})
    assert other.comparable != found.comparable == Result.of(GOOD | {"warnings": []}).comparable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": None}, "dataset is missing, not a text"),
        ({"rows": {"model": 1}}, r"rows is .*, not a list"),
        ({"rows": ["model"]}, r'rows\[0\] is "model", not an object'),
        ({"rows": [{"name": "model", "probe": 0.3}]}, r"rows\[0\]\.probe is 0\.3, not an object"),
        (
            {"rows": [{"probe": {"mean": "good"}}]},
            r'rows\[0\]\.probe\.mean is "good", not a number',
        ),
        ({"rows": [{"probe": {"mean": True}}]}, r"rows\[0\]\.probe\.mean is true, not a number"),
        ({"clips": "many"}, 'clips is "many", not a number'),
        ({"format": 3}, "its format is 3, this version reads 2"),
    ],
)
def test_what_is_of_another_type_is_told_with_its_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(GOOD | changes))
    with pytest.raises(DataError, match=message):
        Result.read(tmp_path / "x.json")
    for content in ("", "[]", "{"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(DataError, match=r"x\.json could not be read"):
            Result.read(tmp_path / "x.json")
