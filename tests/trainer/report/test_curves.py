from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dawnchorus.trainer.metrics_log import Event, Log, Series
from dawnchorus.trainer.page import readable
from dawnchorus.trainer.page.charts import Axis
from dawnchorus.trainer.report.curves import charts_of, envelope, other_charts, smooth


def series(*values: float) -> Series:
    return Series(np.arange(1, len(values) + 1, dtype=float), np.array(values, dtype=float))


def test_smoothing_keeps_a_straight_line_and_skips_gaps() -> None:
    line = np.linspace(0, 10, 101)
    inner = slice(10, -10)
    np.testing.assert_allclose(smooth(line, 9)[inner], line[inner])
    gap = np.full(50, 2.0)
    gap[20] = np.nan
    np.testing.assert_allclose(smooth(gap, 9), 2.0)
    assert np.isnan(smooth(np.full(50, np.nan), 9)).all()


def test_smoothing_does_not_lag_at_the_start_and_averages_at_the_end() -> None:
    value = np.exp(-np.arange(200) / 5.0)
    assert smooth(value, 21)[0] == value[0]
    noisy = np.where(np.arange(200) % 2, 1.0, -1.0)
    assert abs(smooth(noisy, 21)[-1]) < 0.2


def test_the_envelope_keeps_every_spike() -> None:
    value = np.zeros(400_000)
    value[123_457] = 50.0
    value[300_001] = -7.0
    value[5] = np.nan
    step, low, high = envelope(np.arange(value.size, dtype=float), value)
    assert step.size == low.size == high.size == 240
    assert (high.max(), low.min()) == (50.0, -7.0)


def test_charts_show_what_was_logged_and_the_baseline_beside_it() -> None:
    log = Log(
        train={"loss": series(6.0, 5.0, 4.0), "unigram_loss": series(6.3, 6.3, 6.3)},
        valid={"loss": series(6.1, 5.2, 4.4)},
    )
    (chart,) = charts_of(log)
    assert chart.title == "Loss"
    assert chart.legend == [
        ("s1", "training", "4"), ("s2", "validation", "4.4"), ("base", "unigram baseline", "6.3"),
    ]  # fmt: skip
    assert chart.pointer["series"][0] == {"x": [1, 2, 3], "y": ["6", "5", "4"]}
    assert chart.svg.count('class="line ') == 3 and 'class="line base"' in chart.svg


def test_a_baseline_alone_or_an_empty_metric_makes_no_chart() -> None:
    nothing = series(np.nan, np.nan)
    assert charts_of(Log(train={"unigram_accuracy": series(0.1), "loss": nothing})) == []


def test_shares_are_shown_in_per_cent() -> None:
    (chart,) = charts_of(Log(train={"data_wait": series(0.02, 0.03)}))
    assert chart.unit.startswith("%")
    assert chart.pointer["series"][0]["y"] == ["2", "3"]


def test_other_metrics_are_not_lost() -> None:
    log = Log(train={"loss": series(1.0), "code_perplexity": series(3.0, 4.0)})
    assert [c.title for c in other_charts(log)] == ["code perplexity"]


def test_events_of_every_kind_are_marked_even_hundreds() -> None:
    log = Log(train={"loss": series(*np.linspace(3, 1, 500))})
    events = [Event(s, "broken clip", "") for s in range(400)] + [Event(9, "resume", "")]
    (plain,), (marked,) = charts_of(log), charts_of(replace(log, events=events))
    assert 'class="mark"' not in plain.svg and "●" in marked.svg and "▲" in marked.svg
    assert len(marked.svg) < 60_000


def test_a_chart_of_a_long_run_is_small() -> None:
    rng = np.random.default_rng(0)
    log = Log(train={"loss": series(*rng.random(400_000))})
    (chart,) = charts_of(log)
    assert len(chart.svg) < 30_000
    assert len(chart.pointer["series"][0]["x"]) == 240


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05123, "0.05123"), (3.4, "3.4"), (2577.3, "2,577"), (12_500, "12.5k"),
     (1.2e6, "1.2M"), (3e-5, "3e-5"), (-4e-4, "-4e-4"), (None, "–"), (float("inf"), "–")],
)  # fmt: skip
def test_readable_numbers(value: float | None, text: str) -> None:
    assert readable(value) == text


def test_ticks_of_one_axis_agree() -> None:
    assert [Axis(0, 20_000).tick(v) for v in (0, 4000, 12_000)] == ["0", "4k", "12k"]
    assert [Axis(0, 900).tick(v) for v in (0, 400)] == ["0", "400"]
    assert [Axis(0, 3e6).tick(v) for v in (0, 5e5)] == ["0", "0.5M"]
    assert [Axis(1, 1e5, log=True).tick(v) for v in (1, 1000, 1e5)] == ["1", "1,000", "100k"]


def test_ticks_are_round_and_inside() -> None:
    assert Axis(0, 9.3).ticks(4) == [0, 2.5, 5, 7.5]
    assert Axis(0, 3, whole=True).ticks(5) == [0, 1, 2, 3]
    assert Axis(-2.1, 2.1).ticks(4) == [-2, 0, 2]
    assert Axis(0.8, 2500, log=True).ticks(4) == [1, 10, 100, 1000]
    assert Axis(1, 8, log=True).ticks(4) == [1, 2, 5]
