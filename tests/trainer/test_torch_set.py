"""Packages that do not fit together are named before anything of them is imported."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dawnchorus.trainer.errors import InstallError
from dawnchorus.trainer.torch_set import check_torch_set


def install(place: Path, **versions: str) -> None:
    """Metadata of packages, as pip leaves them; found before the real ones."""
    for name, number in versions.items():
        folder = place / f"{name}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
        )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


SETS = [
    {"torch": "2.8.0", "torchaudio": "2.8.0", "torchvision": "0.23.0"},
    {"torch": "2.9.1", "torchaudio": "2.9.1", "torchvision": "0.24.1"},
    {"torch": "2.10.0+cu126", "torchaudio": "2.10.0+cu126", "torchvision": "0.25.0+cu126"},
    {"torch": "2.11.0", "torchaudio": "2.11.1", "torchvision": "0.26.0"},
    {"torch": "2.13.0+cpu", "torchaudio": "2.11.0+cpu", "torchvision": "0.28.0+cpu"},
    # A container of NVIDIA's.
    {"torch": "2.8.0a0+34c6371d24.nv25.8", "torchaudio": "2.8.0a0+1", "torchvision": "0.23.0a0+42"},
]


@pytest.mark.parametrize("versions", SETS, ids=lambda v: v["torch"])
def test_sets_that_were_made_together_pass(place: Path, versions: dict[str, str]) -> None:
    install(place, **versions)
    assert importlib.metadata.version("torch") == versions["torch"]
    check_torch_set()


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"torch": "2.11.0", "torchaudio": "2.8.0"}, "goes with torchaudio 2.11 and torchvision"),
        ({"torch": "2.1.0"}, "torch 2.1.0 is too old"),
        ({"torch": "1.13.1"}, "torch 1.13.1 is too old"),
        ({"torch": "2.9.0", "torchaudio": "2.9.0", "torchvision": "0.2.4"}, "torchvision 0.24"),
        ({"torch": "2.11.0+cpu", "torchaudio": "2.11.0"}, "torchaudio 2.11.0 is of another index"),
        ({"torch": "2.11.0+cu126", "torchaudio": "2.11.0+cu130"}, "for cu126, torchaudio"),
    ],
)
def test_others_are_named(place: Path, versions: dict[str, str], said: str) -> None:
    install(place, **versions)
    with pytest.raises(InstallError, match=r"docs/install\.md") as told:
        check_torch_set()
    assert said in str(told.value)


def test_the_command_says_so_before_it_imports_torch(tmp_path: Path) -> None:
    install(tmp_path, torch="2.11.0", torchaudio="2.8.0", torchvision="0.26.0")
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def chorus(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dawnchorus.trainer.cli", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = chorus("train", "sl_beats_tiny", "data.train.mine.path=there")
    assert done.returncode == 2
    assert "torch 2.11.0 and torchaudio 2.8.0 do not work together" in done.stderr
    assert chorus("recipe", "check", "sl_beats_tiny").returncode == 0
