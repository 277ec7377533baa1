"""What is imported is declared, and the package says who made it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("dawnchorus", "scripts")
EXTRAS = {"transformers", "datasets", "s3fs", "tensorboard"}
"""Distributions that are imported where an extra asks for them, and told by name where missing."""


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _declared(requirements: list[str]) -> set[str]:
    return {_plain(re.match(r"[A-Za-z0-9._-]+", line).group()) for line in requirements}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(folders: tuple[str, ...]) -> dict[str, Path]:
    """Top-level name -> a file that imports it."""
    names: dict[str, Path] = {}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found = []
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found = [node.module or ""]
                for name in found:
                    names.setdefault(name.partition(".")[0], path)
    return names


def test_every_import_is_declared() -> None:
    providers = importlib.metadata.packages_distributions()
    project = _project()
    declared = _declared(project["dependencies"]) | EXTRAS
    missing = {}
    for name, path in _imported(("trainer", "data_prep", "slurm")).items():
        if name in sys.stdlib_module_names or name in OURS or name == "avex":
            continue
        distributions = {_plain(d) for d in providers.get(name, [name])}
        if not distributions & declared:
            missing[name] = str(path.relative_to(ROOT))
    assert not missing, f"imported and not declared in pyproject.toml: {missing}"


def test_what_an_extra_brings_is_declared_there() -> None:
    extras = _project()["optional-dependencies"]
    brought = set().union(*(_declared(v) for k, v in extras.items() if k != "dev"))
    assert brought >= EXTRAS - {"datasets"}  # `datasets` reads our shards in tests and examples


def test_the_package_says_who_made_it_under_which_licence() -> None:
    project = _project()
    assert project["authors"] and project["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    for folder in ("trainer", "data_prep", "slurm"):
        assert (ROOT / folder / "py.typed").is_file()


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_command_says_its_version(flag: str) -> None:
    from typer.testing import CliRunner

    from dawnchorus.trainer.cli import app

    result = CliRunner().invoke(app, [flag])
    assert result.exit_code == 0 and _project()["version"] in result.output


def test_every_package_is_installed_under_one_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        "dawnchorus." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("trainer", "data_prep", "slurm")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert listed == found | {"dawnchorus.recipes"}


def test_the_wheel_holds_all_that_is_read_at_run_time(tmp_path: Path) -> None:
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    tree = str(copy_of_tree(tmp_path / "tree"))
    command = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(tmp_path), tree]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    wanted = {
        "dawnchorus/" + str(path.relative_to(ROOT))
        for top in ("trainer", "data_prep", "slurm", "recipes")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == wanted
    assert {name.partition("/")[0] for name in held} == {"dawnchorus"}


def copy_of_tree(place: Path) -> Path:
    """The sources alone: setuptools writes a build folder beside them."""
    place.mkdir()
    for top in ("trainer", "data_prep", "slurm", "recipes"):
        shutil.copytree(ROOT / top, place / top, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    return place


@pytest.mark.parametrize("module", ["trainer.cli", "data_prep.cli"])
def test_a_checkout_runs_its_own_code_whatever_is_installed(tmp_path: Path, module: str) -> None:
    tree = copy_of_tree(tmp_path / "jörg")
    for name in ("trainer", "data_prep"):
        (tree / name / "errors.py").write_text("raise SystemExit('this very code')\n")
    words = {
        "trainer.cli": ["recipe", "show", "none"],
        "data_prep.cli": ["shards", "no", "--out", "x"],
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *words[module]], cwd=tree, capture_output=True, text=True
    )
    assert "this very code" in done.stderr, done.stderr
