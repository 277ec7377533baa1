"""`chorus data describe`: the numbers of the tables, for a person and for a program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.describe import describe_dataset, show

REPO = Path(__file__).resolve().parents[3]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from dawnchorus.data_prep.cli import data_app; data_app()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPO, capture_output=True, text=True,
        env={"COLUMNS": "100", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_facts_are_those_of_the_tables(dataset: Path) -> None:
    facts = describe_dataset(dataset)
    assert facts["clips"] == 24 and facts["sources"] == {"birds": 24}
    assert facts["label_ranks"] == {"": 3}
    assert sum(row["clips"] for row in facts["licences"]) == 24
    assert [row["recordists"] for row in facts["licences"]] == [2, 2]


def test_a_person_reads_tables(dataset: Path) -> None:
    done = run("describe", dataset)
    assert done.returncode == 0, done.stderr
    for part in ("24 of 1.0 s on average", "CC BY 4.0", "CC0 1.0", "Parus major", "Folds",
                 "flac 6, mp3 6, vorbis 6, wav 6", "16000 Hz mono, 16 bit, flac"):  # fmt: skip
        assert part in done.stdout


def test_a_program_reads_json(dataset: Path) -> None:
    done = run("describe", dataset, "--json")
    assert json.loads(done.stdout) == describe_dataset(dataset)


def test_names_are_no_markup_and_long_lists_are_cut(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = describe_dataset(dataset)
    counts = {"[red]x[/red]": 9} | {f"label {i}": 1 for i in range(50)}
    show(facts | {"clips_per_label": counts, "rejected_reasons": {"silent": 3}}, top=4)
    text = capsys.readouterr().out
    assert "[red]x[/red]" in text and "the first 4 of 51" in text and "label 3" not in text
    assert "silent" in text


def test_what_is_no_dataset(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="not a dataset"):
        describe_dataset(tmp_path)
    copy = Path(shutil.copytree(dataset, tmp_path / "set"))
    (copy / "stats.json").write_text("{")
    with pytest.raises(PrepError, match="cannot be described"):
        describe_dataset(copy)
    done = run("describe", copy)
    assert done.returncode == 2 and "chorus data verify" in done.stderr
