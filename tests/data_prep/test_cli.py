"""The command as a person meets it: help, messages, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dawnchorus.data_prep.cli", *map(str, arguments)],
        cwd=REPO, capture_output=True, text=True, env={"COLUMNS": "120", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_help_names_every_option() -> None:
    from dawnchorus.data_prep.archives.columns import FIELDS

    text = run("folder", "--help").stdout
    for option in [field.option for field in FIELDS] + [
        "--label-separator", "--rank", "--split", "--source-name", "--codec", "--sample-rate-hz",
        "--max-piece-s", "--shard-size-mb", "--jobs", "--seed", "--max-broken", "--allow-broken",
        "--metadata", "--taxonomy", "--make-folds",
    ]:  # fmt: skip
        assert f"{option} " in text
    assert "--no-allow-broken" not in text and "metadata.csv" in text


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys, dawnchorus.data_prep.cli\n"
        "heavy = {'torch', 'numpy', 'polars', 'pyarrow', 'soundfile', 'av', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_it_prepares_and_shows_what_was_mapped(archive: Path, tmp_path: Path) -> None:
    done = run("folder", archive, "--out", tmp_path / "set", "--jobs", "1", "--group-column",
               "recordist")  # fmt: skip
    assert done.returncode == 0, done.stderr
    mapping, _, finish = done.stderr.partition("Wrote")
    assert "24 recordings, 3 labels" in mapping
    assert "group        recordist            as given" in mapping
    assert "licence      licence              by its usual name" in mapping
    assert "24 clips of 24 recordings" in finish
    assert (tmp_path / "set" / "index.parquet").is_file()
    again = run("folder", archive, "--out", tmp_path / "set", "--group-column", "recordist")
    assert again.returncode == 0 and "Nothing to do" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-column", "colour"], "--label-column colour: there is no such column"),
        (["--codec", "opus"], "codec must be one of flac, wav"),
        (["--metadata", "nowhere.csv"], "There is no table at nowhere.csv"),
        (["--make-folds", "9"], "4 groups cannot make 9 folds"),
    ],
)
def test_mistakes_end_with_one_message(
    archive: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    if "--make-folds" in arguments:
        arguments = [*arguments, "--fold-column", "none"]
    done = run("folder", archive, "--out", tmp_path / "set", *arguments)
    assert done.returncode == 2
    assert "error: " in done.stderr and message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "set").exists()
