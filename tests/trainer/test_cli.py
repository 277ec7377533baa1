"""The command line as a stranger meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "import sys; sys.argv[0] = 'chorus'; from trainer.cli import main; main()"


def chorus(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


def test_help_is_quick_and_imports_no_torch() -> None:
    program = (
        "import sys, time; start = time.process_time(); sys.argv = ['chorus', '--help']\n"
        "from trainer.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('seconds', time.process_time() - start, 'torch' in sys.modules)"
    )
    best = min(
        (
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
            for _ in range(3)
        ),
        key=lambda out: float(out.split("seconds ")[1].split()[0]),
    )
    seconds, torch_there = best.split("seconds ")[1].split()
    assert torch_there == "False"
    assert float(seconds) < 0.5


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
