from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dawnchorus.trainer.evaluation.comparison import Comparison, side_by_side
from dawnchorus.trainer.evaluation.results import Figure, Result
from dawnchorus.trainer.metrics_log import Log, Series
from dawnchorus.trainer.report.page import render
from dawnchorus.trainer.report.reading import Run
from dawnchorus.trainer.report.verdict import verdict


def row(name: str, probe: Any, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    return {"name": name, "probe": {"metric": metric, "mean": probe, "std": 0.01}, **more}


def run(objective: str, *rows: Any, init_from: str | None = None, **more: Any) -> Run:
    content = {"dataset": "esc10", "clips": 400, "rows": list(rows)} | more
    recipe = {"name": objective, "objective": {"name": objective}, "init_from": init_from}
    found = [Result.of(content)] if rows else []
    return Run(Path("x"), recipe=recipe, evaluations=found)


def tables(runs: list[Run]) -> list[Comparison]:
    return side_by_side((r.adjective, r.name, result) for r in runs for result in r.evaluations)


def test_what_was_measured_differently_does_not_share_a_table() -> None:
    pre, post = (
        run(objective, row("model", score), groups=1, folds=["0", "1"],
            protocol={"kind": "folds", "tested_clips": tested})
        for objective, score, tested in (("masked_tokens", 0.7, 400), ("multilabel", 0.8, 80))
    )  # fmt: skip
    found = tables([pre, post])
    assert [t.facts for t in found] == [
        "400 clips, 1 group, 2 folds", "400 clips, 1 group, 2 folds, 80 clips tested",
    ]  # fmt: skip
    assert verdict([pre, post], found).startswith("Trained from scratch probe accuracy 0.80")


def test_warnings_and_layers_are_kept() -> None:
    layer = row("model layer 3", 0.6, layer=3)
    one = run("multilabel", row("model", 0.8), warnings=["the labels were seen"], layers=[layer])
    (table,) = tables([one])
    assert table.warnings == [("multilabel", "the labels were seen")]
    assert [(r.title, r.figures["probe"].mean) for r in table.layers] == [("layer 3", 0.6)]


def test_retrieval_in_other_groups_and_a_named_checkpoint() -> None:
    retrieval = {
        "roc_auc": 0.8,
        "same_group_excluded": {"roc_auc": 0.7, "roc_auc_ci95": [0.6, 0.8]},
    }
    (table,) = tables([run("multilabel", row("model (best)", 0.8, retrieval=retrieval))])
    assert [c.key for c in table.columns] == ["probe", "roc_auc", "roc_auc_groups"]
    assert table.rows[0].detail == "multilabel, best"
    assert table.rows[0].figures["roc_auc_groups"].interval == (0.6, 0.8)


def test_runs_and_baselines_come_together_in_order() -> None:
    base = [row("log-mel", 0.64), row("random-init", 0.59)]
    pre = run("masked_tokens", row("model", 0.73), *base)
    post = run("multilabel", *base, row("model", 0.81), init_from="runs/pre")
    (table,) = tables([pre, post])
    assert [r.title for r in table.rows] == [
        "log-mel",
        "random-init",
        "pre-trained",
        "post-trained",
    ]
    assert [c.key for c in table.columns] == ["probe"]
    assert [r.best for r in table.rows] == [set(), set(), set(), {"probe"}]
    assert (table.metric, table.facts) == ("accuracy", "400 clips")


def test_baselines_that_came_out_differently_are_both_shown() -> None:
    first = run("masked_tokens", row("log-mel", 0.64))
    second = run("multilabel", row("log-mel", 0.66))
    (table,) = tables([first, second])
    assert [(r.title, r.detail) for r in table.rows] == [
        ("log-mel", ""), ("log-mel", "measured with multilabel"),
    ]  # fmt: skip


def test_equal_as_printed_is_equally_best() -> None:
    (table,) = tables([run("multilabel", row("log-mel", 0.70004), row("model", 0.7004))])
    assert all(r.best == {"probe"} for r in table.rows)


def test_figures_have_their_spread_and_their_whisker() -> None:
    raw = row("model", 0.99, "map", retrieval={"roc_auc": 0.8, "roc_auc_ci95": [0.7, 0.9]},
              clustering={"nmi": {"mean": 0.4, "std": 0.1}, "ari": None})  # fmt: skip
    one = run("multilabel", raw)
    (table,) = tables([one])
    figures = table.rows[0].figures
    assert figures["roc_auc"] == Figure(0.8, None, (0.7, 0.9))
    assert figures["nmi"] == Figure(0.4, 0.1)
    assert table.metric == "macro mAP"
    page = render([one])
    assert "left:70.0%;width:20.0%" in page  # the interval
    assert "left:98.0%;width:2.0%" in page  # 0.99 ± 0.01, cut off at 1


@pytest.mark.parametrize(
    "rows", [[{}], [{"name": "model", "probe": {"mean": float("nan")}}], [{"retrieval": None}]]
)
def test_rows_without_figures_are_left_out(rows: list[Any]) -> None:
    assert tables([run("multilabel", *rows)]) == []


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (0.81, "Post-trained probe accuracy 0.81, against the log-mel baseline's 0.64 (esc10)."),
        (0.55, "Post-trained probe accuracy 0.55, below the log-mel baseline's 0.64 (esc10)."),
        (0.645, "no clear difference from the log-mel baseline's 0.64"),
    ],
)
def test_the_verdict_is_honest(model: float, text: str) -> None:
    runs = [run("multilabel", row("log-mel", 0.64), row("model", model), init_from="pre")]
    assert text in verdict(runs, tables(runs))


def test_the_verdict_tells_when_the_labels_had_been_seen() -> None:
    def said(labelled: int) -> str:
        exposure = {"labelled": labelled, "tested_recordings": 80}
        one = run("multilabel", row("log-mel", 0.64), row("model", 0.99), exposure=exposure)
        return verdict([one], tables([one]))

    told = "the labels of 80 of the 80 tested recordings: this measures memory too."
    assert said(80).endswith(told)
    assert "memory" not in said(0)


def test_the_verdict_tells_when_training_was_for_nothing() -> None:
    rows = [row("log-mel", 0.64), row("random-init", 0.66), row("model", 0.65)]
    one = run("masked_tokens", *rows)
    assert verdict([one], tables([one])).endswith("It does not beat an untrained encoder (0.66).")
    better = run("masked_tokens", rows[0], rows[1], row("model", 0.67))
    assert "untrained" not in verdict([better], tables([better]))


def test_without_evaluation_the_newest_log_speaks() -> None:
    step = np.array([10.0, 20.0])
    pre, post = run("masked_tokens"), run("multilabel")
    pre.log = Log(train={"masked_accuracy": Series(step, np.array([0.1, 0.3])),
                         "unigram_accuracy": Series(step, np.array([0.04, 0.04]))})  # fmt: skip
    assert verdict([pre], []) == (
        "Masked-token accuracy 30.0% at step 20, against 4.0% for always naming the most "
        "frequent code. No evaluation yet."
    )
    post.log = Log(valid={"map": Series(step, np.array([0.5, 0.71]))})
    assert verdict([pre, post], []) == "Validation mAP 0.71 at step 20. No evaluation yet."
    assert verdict([run("multilabel")], []) == "No result yet."


def test_one_group_has_no_interval_and_says_so() -> None:
    single = {"roc_auc": 0.8, "groups": 1, "roc_auc_ci95": [0.8, 0.8]}
    many = {"roc_auc": 0.8, "groups": 9, "roc_auc_ci95": [0.7, 0.9]}
    (table,) = tables([run("multilabel", row("log-mel", 0.5, retrieval=many),
                           row("model", 0.8, retrieval=single))])  # fmt: skip
    base, model = (r.figures["roc_auc"] for r in table.rows)
    assert (base.spread, base.interval) == ("0.700–0.900", (0.7, 0.9))
    assert (model.spread, model.interval) == ("one group: no interval", None)


def test_the_step_that_was_evaluated_is_named() -> None:
    rows = row("log-mel", 0.5), row("model (best)", 0.8)
    one = run("multilabel", *rows, model={"step": 1240})
    (table,) = tables([one])
    assert [r.detail for r in table.rows] == ["", "multilabel, best, step 1,240"]


def test_it_is_said_where_log_mel_wins() -> None:
    def measured(name: str, probe: float, auc: float, nmi: float) -> dict[str, Any]:
        return row(name, probe, retrieval={"roc_auc": auc}, clustering={"nmi": {"mean": nmi}})

    runs = [
        run("masked_tokens", measured("log-mel", 0.7, 0.8, 0.5), measured("model", 0.5, 0.7, 0.6)),
        run("multilabel", measured("model", 0.6, 0.9, 0.4), init_from="runs/pre"),
    ]
    (table,) = tables(runs)
    said = "Log-mel, which has learned nothing, is ahead of every model in probe accuracy"
    assert table.wins == f"{said} (0.700 against 0.600)."
    assert "below the log-mel baseline's 0.70 (esc10)." in verdict(runs, [table])
    (table,) = tables([runs[0]])
    assert table.wins.endswith("(0.700 against 0.500) and retrieval ROC-AUC (0.800 against 0.700).")
    (table,) = tables([run("multilabel", row("log-mel", 0.7), row("model", 0.7001))])
    assert table.wins == ""
