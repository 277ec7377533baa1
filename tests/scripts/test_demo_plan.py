"""The demo takes what it gets: which table, groups and parts it makes of folders of odd shape."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from dawnchorus.data_prep.archives.columns import FIELDS
from dawnchorus.data_prep.archives.own_folder import prepare_folder
from scripts.demo import REPO, tell_what_is_missing
from scripts.demo_plan import CannotDemonstrate, Part, divide, listed, plan_source, run_folder


def folder(root: Path, rows: list[dict[str, str]], names: list[str] | None = None) -> Path:
    """A folder with a table (none without rows) and sounds that nobody opens."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names if names is not None else [row["filename"] for row in rows]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    if rows:
        with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return root


def rows(count: int, **columns: Any) -> list[dict[str, str]]:
    """`count` rows; a column is one text, or the texts that rows take in turn."""
    return [
        {"filename": f"{i}.wav"}
        | {k: v if isinstance(v, str) else v[i % len(v)] for k, v in columns.items()}
        for i in range(count)
    ]


def planned(tmp_path: Path, table: list[dict[str, str]]) -> tuple[str, str]:
    source = plan_source(folder(tmp_path / "d", table), tmp_path / "run")
    return " ".join(source.options), "; ".join(source.notes)


@pytest.mark.parametrize(
    ("columns", "options", "note"),
    [
        ({"label": "x"}, "--make-folds 5", ""),
        ({"split": "data"}, "--split-column none --make-folds 5", "not at least train and test"),
        ({"split": "test"}, "--split-column none --make-folds 5", "folds are made"),
        ({"split": ["training", "dev", "eval"]},
         "--split-map dev=valid,eval=test,training=train", "renamed"),
        ({"split": ["train", "test"]}, "--make-folds 5", "no validation split"),
        ({"split": ["train", "valid", "test", "night"]}, "", "night are not used"),
        ({"fold": ["1", "2", "3"]}, "", ""),
        ({"fold": ["1", "2"]}, "--fold-column none --make-folds 5", "fewer than 3"),
        ({"fold": ["1", "2", "3"], "group": ["a", "b"]},
         "--group-column none", "too few to divide"),
        ({"recordist": ["A", "B", "C", "D"]},
         "--group-column recordist --make-folds 4", "stay together"),
        ({"recordist": ["A", "B"]}, "--make-folds 5", ""),
        ({"split": ["train", "test"], "group": ["a", "b", "c"]},
         "--split-column none --make-folds 3", "divide groups"),
    ],
)  # fmt: skip
def test_tables(tmp_path: Path, columns: dict[str, Any], options: str, note: str) -> None:
    found, notes = planned(tmp_path, rows(24, **columns))
    assert found == options and note in notes


def test_folders_without_a_table(tmp_path: Path) -> None:
    names = ["a/1.wav", "a/2.wav", "b, c/3.wav", "notes.md"]
    source = plan_source(folder(tmp_path / "d", [], names), tmp_path / "run")
    written = list(csv.DictReader((tmp_path / "run" / "metadata.csv").open()))
    assert [(r["filename"], r["label"]) for r in written] == [
        ("a/1.wav", "a"), ("a/2.wav", "a"), ("b, c/3.wav", "b, c"),
    ]  # fmt: skip
    assert "the names of the folders are the labels" in source.notes[0]
    other = folder(tmp_path / "e", rows(5, label="x"))
    (other / "metadata.csv").rename(other / "my table.csv")
    assert "my table.csv is taken for it" in plan_source(other, tmp_path / "run").notes[0]


@pytest.mark.parametrize(
    ("table", "names", "says"),
    [
        (rows(2, label="x"), None, "lists 2 sounds; at least 3"),
        ([], [], "neither metadata.csv nor any sound"),
        (rows(4, start="0.5", end="0.7"), None, "no column holds their labels"),
        (rows(4, label=["Parus major, Bubo bubo"]), None, "one label or several"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    tmp_path: Path, table: list[dict[str, str]], names: list[str] | None, says: str
) -> None:
    data = folder(tmp_path / "d", table, names)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--data", str(data)],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 2 and says in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("demo: ")


def test_each_state_of_a_folder_has_runs_of_its_own(tmp_path: Path) -> None:
    first = folder(tmp_path / "Käuze & Möwen", rows(4, label="x"))
    found = run_folder(first, tmp_path)
    assert found == run_folder(first, tmp_path)
    assert found.name.startswith("demo-kauze-mowen-")
    assert run_folder(folder(tmp_path / "b", rows(4, label="x")), tmp_path) != found
    folder(first, rows(4, label="x", licence="CC0"))
    assert run_folder(first, tmp_path) != found


def index(dataset: Path, clips: list[tuple[str, str | None, str, list[int]]]) -> Path:
    dataset.mkdir()
    names = ("split", "fold", "group_id", "label_ids")
    table = pa.table({n: [clip[i] for clip in clips] for i, n in enumerate(names)})
    pq.write_table(table, dataset / "index.parquet")
    return dataset


def test_parts_of_a_dataset(tmp_path: Path) -> None:
    clips = [("train", str(i % 5), f"g{i}", [i % 2]) for i in range(20)]
    found = divide(index(tmp_path / "folds", clips))
    assert (found.learn, found.choose) == (Part(folds=("0", "1", "2")), Part(folds=("3",)))
    assert found.hear == Part(exclude_folds=("3", "4"))
    assert found.test_options == ('test_folds=["4"]',) and not found.no_labels_because
    clips = [(["train", "valid", "test"][i % 3], None, f"g{i}", [i % 2]) for i in range(18)]
    found = divide(index(tmp_path / "splits", clips))
    assert found.learn.overrides("x") == ['x.splits=["train"]']
    assert found.test_options == ("protocol=splits",)
    clips = [(["train", "test"][i % 2], str(i % 3), f"g{i}", [i // 2 % 2]) for i in range(24)]
    found = divide(index(tmp_path / "two", clips))
    assert found.choose == Part(splits=("train",), folds=("2",))
    assert found.learn == found.hear == Part(splits=("train",), exclude_folds=("2",))
    with pytest.raises(CannotDemonstrate, match="no usable sound is left"):
        divide(index(tmp_path / "few", clips[:2]))


@pytest.mark.parametrize(
    ("labels", "because"),
    [
        ([[]], "no sound has a label"), ([[0]], "the same label"), ([[0], []], ""),
        ([[i] for i in range(20)], "one recording"), ([[0], [1]], ""),
    ],
)  # fmt: skip
def test_whether_there_are_labels_to_learn(
    tmp_path: Path, labels: list[list[int]], because: str
) -> None:
    clips = [("train", str(i // 4), f"g{i}", labels[i % len(labels)]) for i in range(20)]
    found = divide(index(tmp_path / "d", clips)).no_labels_because
    assert because in found and bool(because) == bool(found)


def test_names_of_parts_may_hold_anything() -> None:
    assert listed(["fold 1", 'a,"b"', "é"]) == '["fold 1","a,\\"b\\"","é"]'


def test_broken_and_short_sounds_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder(tmp_path / "d", rows(6, label=["x", "y"]))
    for i in range(4):
        noise = 0.1 * np.random.default_rng(i).standard_normal(8000)
        soundfile.write(data / f"{i}.wav", noise, 16000)
    source = plan_source(data, tmp_path / "run")
    given = dict(zip(source.options[::2], source.options[1::2], strict=True))
    options: dict[str, Any] = {k[2:].replace("-", "_"): v for k, v in given.items()}
    assert set(options) <= {"make_folds", *(f"{field.name}_column" for field in FIELDS)}
    options["make_folds"] = int(options["make_folds"])
    prepare_folder(data, tmp_path / "out", jobs=1, allow_broken=True, **options)
    tell_what_is_missing(tmp_path / "out")
    assert "2 of 6 sounds are left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["recordings"] == 4
