"""The benchmark that trains every pair of encoder and objective."""

from __future__ import annotations

import pytest

from dawnchorus.trainer.registry import ENCODERS, OBJECTIVES
from scripts.bench import Figure, Report, print_table, read_table
from scripts.bench.training import TARGETS, Scale, pairs, report_run, run

SMALL = Scale(tiny=True, window_s=1.0, clips=4, steps=1, rounds=1, workers=0, lines=3)


@pytest.mark.parametrize("tiny", [True, False])
def test_every_encoder_and_every_objective_is_measured(tiny: bool) -> None:
    found = pairs(tiny=tiny)
    assert {objective for _, objective in found} == set(OBJECTIVES.names())
    assert {encoder for encoder, _ in found} == set(ENCODERS.names())
    assert tiny or {pair for pair in TARGETS if pair[1] in OBJECTIVES.names()} <= found.keys()


@pytest.mark.slow
def test_it_measures_every_step_and_its_log_can_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen, shards = pairs(tiny=True), [("beats", "multilabel")]
    told: list[Figure] = []

    def both(report: Report) -> None:
        def keep(one: Figure) -> None:
            told.append(one)
            report(one)

        run(keep, SMALL, chosen, shards)

    assert print_table(both)
    for pair in chosen:
        start = f"{' '.join(pair)}, 4 clips, memory, eager: "
        names = {f.name.removeprefix(start) for f in told if f.name.startswith(start)}
        assert names == {"speed", "rate", "share of attention"}, pair
    assert any("shards" in f.name and f.name.endswith("waiting for data") for f in told)
    attention = {f.name.split(",")[0]: f.value for f in told if "attention" in f.name}
    assert 0 < attention["vit utterance_frame"] < 1 and attention["efficientnet multilabel"] == 0
    read = read_table(capsys.readouterr().out)
    assert [f.name for f in read] == [f.name for f in told]
    for ours, theirs in zip(read, told, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-3)
        assert (ours.unit, ours.target, ours.passed) == (theirs.unit, theirs.target, theirs.passed)


def test_a_run_s_figures_are_those_of_its_log() -> None:
    speeds = (9.0, 11.0, 10.0)
    lines = [{"clips_per_s": s, "tflops_per_device": s / 100, "data_wait": 0.01} for s in speeds]
    told: list[Figure] = []
    report_run(told.append, "here", lines, rate=1e12, target=">= 0.40")
    speed, rate, share, wait = told
    assert (speed.low, speed.value, speed.high) == (9, 10, 11)
    assert share.value == pytest.approx(rate.value) and share.passed is False
    assert wait.target == "<= 0.03" and wait.passed


def test_a_log_of_a_missed_target_is_read_as_missed() -> None:
    log = (
        "2026-11-22  a machine\n\ntraining\n"
        "beats multilabel, 128 clips, memory, compiled: share of the matrix product"
        "          0.31           0.3 .. 0.33  >= 0.55    MISSED\n"
        "vit utterance_frame: not measured, the 540 s are over\n"
    )
    (one,) = read_table(log)
    assert one.passed is False and (one.low, one.value, one.high) == (0.3, 0.31, 0.33)
