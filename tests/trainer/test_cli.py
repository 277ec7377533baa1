"""The command line as a stranger meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "import sys; sys.argv[0] = 'chorus'; from dawnchorus.trainer.cli import main; main()"


def chorus(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


def test_help_imports_nothing_that_is_slow() -> None:
    """`chorus --help` in half a second: not by the clock, which another machine's work decides."""
    program = (
        "import sys; sys.argv = ['chorus', '--help']\n"
        "from dawnchorus.trainer.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('imported', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Usage" in done.stdout
    imported = set(done.stdout.partition("imported ")[2].split())
    assert {"dawnchorus", "typer"} <= imported
    slow = {"torch", "numpy", "lightning", "pytorch_lightning", "pyarrow", "polars", "hydra",
            "omegaconf", "soundfile", "transformers", "wandb", "grain"}  # fmt: skip
    assert not imported & slow


COMMANDS = ("", "train", "evaluate", "export", "prep", "prep folder", "report", "recipe",
            "recipe show", "recipe check", "recipe list", "recipe schema")  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = chorus(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout and len(done.stdout) > 200


def test_a_wrong_recipe_ends_with_2_and_one_message(tmp_path: Path) -> None:
    done = chorus("train", "ssl_beats_tiny", "optim.lrr=1", "data.train.mine.path=/absent",
                  "encoder.hads=2", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 2
    assert "optim.lrr" in done.stderr and "encoder.hads" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_dataset_ends_with_2_and_leaves_nothing(tmp_path: Path) -> None:
    done = chorus("train", "ssl_beats_tiny", "data.train.mine.path=absent_dataset", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "absent_dataset" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_recipe_commands(tmp_path: Path) -> None:
    listed = chorus("recipe", "list").stdout
    assert "ssl_beats_base" in listed and "sl_beats_bio" in listed
    assert chorus("recipe", "check").returncode == 0
    shown = chorus("recipe", "show", "ssl_beats_base").stdout
    assert "global_batch: 560" in shown
    chorus("recipe", "schema", "--out", str(tmp_path / "schema.json"))
    assert json.loads((tmp_path / "schema.json").read_text())["title"]
