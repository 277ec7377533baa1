"""Learning on real sound: what is heard, what is tested, and how it is told."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from dawnchorus.trainer.evaluation.config import load_config
from dawnchorus.trainer.recipe import load_recipe
from scripts import learning


@pytest.mark.parametrize("family", learning.FAMILIES)
def test_no_family_hears_what_is_tested(family: str) -> None:
    recipe, *overrides = learning.recipe_of(Path("out"), family, 3008, 1)
    heard = load_recipe(recipe, overrides).data.train
    for name, division in learning.TASKS.items():
        task = load_config([f"data={name}", *division, *learning.MEASURED], "fast")
        folds, source = set(task.test_folds or ()), heard[name]
        if folds:
            assert {str(fold) for fold in folds} == set(source.exclude_folds)
        else:
            assert task.test_split not in source.splits


def test_table_and_figure_show_every_point_with_its_spread(tmp_path: Path) -> None:
    (tmp_path / "measured").mkdir()
    points = {"log-mel@0": 0.7, "beats_s0@0": 0.4, "beats_s1@0": 0.5, "beats_s0@3008": 0.6,
              "eat_s0@9024": 0.8}  # fmt: skip
    for name, value in points.items():
        found = {t: {p: [value, 0.9] for p in learning.POOLINGS} for t in learning.TASKS}
        (tmp_path / "measured" / f"{name}.json").write_text(json.dumps(found))
    table = learning.table(tmp_path)
    assert "| BEATs, iteration 1, random weights | 0.450 ± 0.071 / 0.900 ± 0.000 |" in table
    assert "| EAT, 9,024 | 0.800 / 0.900 | 0.800 / 0.900 |" in table
    drawn = ElementTree.fromstring(learning.figure(tmp_path, "mean"))
    lines = [e for e in drawn.iter() if e.get("class", "").startswith("line")]
    assert len(lines) == len(learning.TASKS) * (len(learning.TITLES) + 1)
    dots = [e for e in drawn.iter() if e.tag.endswith("circle")]
    assert len(dots) == len(learning.TASKS) * 3
