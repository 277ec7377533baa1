"""An export never deletes what is not an export's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub import exporting
from dawnchorus.trainer.hub.place import foreign_files
from dawnchorus.trainer.model import BioEncoder

MakeRun = Callable[..., BioEncoder]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, links by where they lead."""
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize(
    "strange", ["thesis.tex", ".hidden", "chapters/", "other.safetensors", "link", "recipe.yaml/"]
)
def test_an_export_with_anything_else_in_it_is_not_replaced(
    strange: str, tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run")
    out = exporting.export(tmp_path / "run", tmp_path / "out")
    (tmp_path / "precious").write_text("precious")
    path = out / strange.rstrip("/")
    path.unlink(missing_ok=True)
    if strange == "link":
        path.symlink_to(tmp_path / "precious")
    elif strange.endswith("/"):
        path.mkdir()
        (path / "one.tex").write_text("precious")
    else:
        path.write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=rf"other things too: {re.escape(strange)}\. "):
        exporting.export(tmp_path / "run", out, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("config", [None, "{", "[]", '{"model_type": "bert"}'])
def test_a_folder_that_is_no_export_is_not_replaced(
    config: str | None, tmp_path: Path, make_run: MakeRun
) -> None:
    """Not even where its files are called as an export's."""
    make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/README.md").write_text("my thesis")
    if config is not None:
        (tmp_path / "out/config.json").write_text(config)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"not an export of this project.*README\.md"):
        exporting.export(tmp_path / "run", tmp_path / "out", overwrite=True)
    assert contents(tmp_path) == before
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a link"):
        exporting.export(tmp_path / "run", tmp_path / "link", overwrite=True)


def test_what_comes_into_the_folder_meanwhile_is_kept(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    out = exporting.export(tmp_path / "run", tmp_path / "out")
    written = exporting.write_repo

    def and_somebody_saves(*arguments: Any) -> None:
        written(*arguments)
        (out / "notes.txt").write_text("precious")

    monkeypatch.setattr(exporting, "write_repo", and_somebody_saves)
    with pytest.raises(CheckpointError, match=r"other things too: notes\.txt"):
        exporting.export(tmp_path / "run", out, overwrite=True)
    assert (out / "notes.txt").read_text() == "precious" and (out / "config.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_an_export_holds_nothing_that_it_would_not_know_again(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run")
    assert foreign_files(exporting.export(tmp_path / "run", tmp_path / "out")) == []
