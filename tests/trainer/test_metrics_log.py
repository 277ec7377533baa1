from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dawnchorus.trainer.metrics_log import read_log


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    path.write_text("\n".join(lines) + ("" if isinstance(rows[-1], str) else "\n"))
    return path


def train(step: int, loss: float | None, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "samples_seen": step * 4, "wall_s": step * 2.0,
            "loss": loss, **more}  # fmt: skip


def test_reads_metrics_of_both_kinds_and_where_the_run_stands(tmp_path: Path) -> None:
    log = read_log(
        write(
            tmp_path / "m", train(1, 3.0), train(2, 2.5), {"kind": "valid", "step": 2, "map": 0.4}
        )
    )
    assert log.train["loss"].value.tolist() == [3.0, 2.5]
    assert log.valid["map"].last == 0.4
    assert (log.step, log.samples_seen, log.wall_s) == (2, 8, 4.0)
    assert not log.problems


def test_a_torn_last_line_is_told_and_left_out(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "m", train(1, 3.0), train(2, 2.5), '{"kind": "train", "st'))
    assert log.step == 2
    assert len(log.problems) == 1
    assert "line 3" in log.problems[0] and "torn" in log.problems[0]


def test_unreadable_lines_in_between_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "m"
    good = json.dumps(train(1, 3.0)).encode()
    path.write_bytes(
        b"\xff\xfe{\n" + good + b"\n[1, 2]\n\n" + b"[" * 100_000 + b"\n" + good + b"\n"
    )
    log = read_log(path)
    assert log.train["loss"].value.tolist() == [3.0]
    assert log.problems == [
        "3 lines of metrics.jsonl could not be read and were left out (the first: line 1)"
    ]


def test_steps_that_were_taken_again_count_once(tmp_path: Path) -> None:
    log = read_log(
        write(
            tmp_path / "m",
            *(train(s, float(s)) for s in (10, 20, 30, 40)),
            {"kind": "valid", "step": 40, "map": 0.9},
            {"kind": "event", "event": "resume", "step": 20, "message": "from step 20"},
            train(30, 300.0),
        )
    )
    assert log.train["loss"].step.tolist() == [10, 20, 30]
    assert log.train["loss"].value.tolist() == [10, 20, 300]
    assert "map" not in log.valid
    assert log.step == 30


def test_a_run_that_went_back_without_saying_so_is_cut_too(tmp_path: Path) -> None:
    log = read_log(
        write(tmp_path / "m", *(train(s, float(s)) for s in (10, 20, 30, 40)), train(25, 0.5))
    )
    assert log.train["loss"].step.tolist() == [10, 20, 25]


def test_superseded_lines_are_left_out_but_their_events_stay(tmp_path: Path) -> None:
    log = read_log(
        write(
            tmp_path / "m",
            train(10, 1.0),
            train(20, 9.0, superseded=True),
            {
                "kind": "event",
                "event": "broken_clip",
                "step": 20,
                "message": "x",
                "superseded": True,
            },
        )
    )
    assert log.train["loss"].value.tolist() == [1.0]
    assert log.step == 10
    assert [(e.kind, e.text) for e in log.events] == [("broken clip", "x")]


def test_null_and_nan_are_gaps_not_numbers(tmp_path: Path) -> None:
    log = read_log(
        write(tmp_path / "m", train(1, 3.0), train(2, None), '{"kind":"train","step":3,"loss":NaN}')
    )
    assert log.train["loss"].last == 3.0
    assert log.train["loss"].step.tolist() == [1, 2, 3]


def test_events_get_the_kinds_the_page_draws_and_one_line_of_text(tmp_path: Path) -> None:
    names = ["resumed", "preempted", "non_finite", "broken_clip", "finished", "coffee"]
    rows = [{"kind": "event", "event": n, "step": i} for i, n in enumerate(names)]
    rows[3] |= {"clips": [f"c{i}" for i in range(9)], "rank": 2}
    log = read_log(write(tmp_path / "m", *rows))
    assert [e.kind for e in log.events] == [
        "resume", "pre-emption", "non-finite", "broken clip", "finish", "coffee",
    ]  # fmt: skip
    assert log.events[3].text == "clips c0, c1, c2, c3 and 5 more; rank 2"


def test_validation_on_several_sets_stays_apart(tmp_path: Path) -> None:
    rows = [
        {"kind": "valid", "step": 5, "dataset": d, "map": m} for d, m in (("a", 0.1), ("b", 0.2))
    ]
    log = read_log(write(tmp_path / "m", *rows))
    assert {n: s.last for n, s in log.valid.items()} == {"map · a": 0.1, "map · b": 0.2}
