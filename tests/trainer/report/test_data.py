from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dawnchorus.trainer.report.data import clips_per_class, licence_shares, sources
from dawnchorus.trainer.report.page import render
from dawnchorus.trainer.report.reading import Run, read_run


def test_a_source_that_two_runs_used_is_listed_and_counted_once(
    make_run: Callable[..., Path],
) -> None:
    runs = [read_run(make_run("ssl", examples=0)), read_run(make_run("sl", "post", examples=0))]
    found = sources(runs, [{"name": "xc_birds", "labels": 12}, {"name": "spare", "clips": 7}], [])
    assert [(s.name, s.used_by) for s in found] == [
        ("xc_birds", ["ssl", "sl"]), ("esc10", ["ssl", "sl"]), ("spare", []),
    ]  # fmt: skip
    whole = (found[0].labels, found[0].recordists, found[0].hours)
    assert whole == (12, 88, pytest.approx(6.1))
    shares = licence_shares(runs)
    assert [s.name for s in shares] == [
        "CC BY-NC-SA 4.0", "CC BY-NC 4.0", "CC BY-NC 3.0", "CC BY-SA 3.0",
    ]  # fmt: skip
    assert sum(s.percent for s in shares) == pytest.approx(100)
    assert 'href="https://creativecommons.org/licenses/by-nc-sa/4.0/"' in render(runs)


def test_a_licence_that_is_no_web_address_gets_no_link() -> None:
    run = Run(Path("x"), data={"sources": [{"name": "a", "licences": [
        {"licence_url": "javascript:alert(1)", "hours": 1.0}, {"licence_url": None, "hours": 1.0},
    ]}]})  # fmt: skip
    assert {s.name for s in licence_shares([run])} == {"javascript:alert(1)", "not stated"}
    assert 'href="javascript' not in render([run])


def test_a_dataset_has_one_size_whatever_part_of_it_a_run_took(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "datasets" / "birds"
    folder.mkdir(parents=True)
    stats = {"name": "Birds of the valley", "folder": str(folder), "clips": 400, "hours": 0.5}
    ledger = [{"licence_url": "", "clips": 400, "hours": 0.5}]

    def used(name: str, clips: int, hours: float, path: str) -> Run:
        source = {"name": "main", "path": path, "clips": clips, "hours": hours, "licences": ledger,
                  "recordists": [{"recordist": "", "clips": 400}, {"recordist": None}]}  # fmt: skip
        run = tmp_path / "work" / "runs" / name
        return Run(run, recipe={"name": name}, data={"sources": [source]})

    runs = [
        used("pre", 400, 0.5, "datasets/birds"),
        used("post", 240, 0.3, "datasets/birds"),
        used("again", 400, 0.5, str(folder)),
    ]
    (source,) = sources(runs, [stats], [])
    assert (source.clips, source.hours, source.recordists) == (400, 0.5, None)
    assert source.used_by == ["pre", "post (240 clips, 0.30 h)", "again"]
    problems: list[str] = []
    (source,) = sources(runs, [stats | {"clips": 500}], problems)
    assert source.clips == 400
    assert problems[0] == "datasets/birds has 500 clips now; it had 400 when pre began"
    # Without its statistics, its ledger says how large it is.
    (source,) = sources(runs[1:2], [], [])
    assert (source.clips, source.hours) == (400, 0.5)


def test_nonsense_in_data_json_is_passed_over() -> None:
    for data in ({}, {"sources": 3}, {"sources": [None, {"name": 1, "clips": "many"}]}):
        run = Run(Path("x"), data=data)
        assert len(sources([run], [], [])) <= 1
        assert licence_shares([run]) == []


def test_few_classes_are_bars_many_are_a_curve(make_stats: Callable[..., Path]) -> None:
    few, many = make_stats("few", 12), make_stats("many", 10_000)
    shown = section(few)
    assert "<svg" not in shown and shown.count('class="name"') == 12
    assert shown.count("<i>") == 12 and "<i>Parus major</i>" in shown
    assert shown.index("Parus major") < shown.index("width:100.0%") < shown.index("Turdus merula")
    shown = section(many)
    assert "both axes logarithmic" in shown and shown.count('class="name"') == 24
    assert "Genus species0" in shown and "Genus species5000" not in shown
    assert "10,000 classes; median" in shown and len(shown) < 60_000


def section(folder: Path) -> str:
    return render([Run(Path("x"))], datasets=[folder]).partition("Clips per class")[2]


def test_statistics_without_classes_make_no_histogram() -> None:
    for stats in ({}, {"clips_per_label": []}, {"clips_per_label": {"a": None}}):
        assert clips_per_class(stats, {}) is None
    assert clips_per_class({"clips_per_label": {"a": 0, "b": 0}}, {}) is not None
