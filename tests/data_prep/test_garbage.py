"""Every archive command, once with garbage of each kind in the place of each of its inputs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from helpers import evil_zip
from typer.testing import CliRunner

from dawnchorus.data_prep.commands.apps import ARCHIVES


def archive_commands() -> dict[str, typer.core.TyperCommand]:
    from dawnchorus.data_prep.cli import prep_app

    group = typer.main.get_command(prep_app)
    return {
        name: command
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        if getattr(command, "rich_help_panel", None) == ARCHIVES
    }


def garbage() -> dict[str, bytes]:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.csv", "a,b\n" * 1000)
    return {
        "empty": b"",
        "nul": bytes(5000),
        "binary": np.random.default_rng(0).bytes(5000),
        "page": b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n" * 50,
        "field of 10 MB": b'id,name\n1,"' + b"x" * 10_000_000,
        "utf-16": ("id,name\n" + "1,Öd\n" * 300).encode("utf-16"),
        "latin-1": ("id,name\n" + "1,Öd\n" * 300).encode("latin-1"),
        "json": b'{"recordings": [{"id": ' + b"[" * 5000,
        "evil zip": evil_zip(),
        "cut zip": whole.getvalue()[:-40],
    }


@pytest.mark.parametrize("kind", garbage())
@pytest.mark.parametrize("name", archive_commands())
def test_archive_commands_refuse_garbage(tmp_path: Path, name: str, kind: str) -> None:
    """Exit code 2, an error and no trace, nothing written but into the output folder."""
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "audio").mkdir(parents=True)
    given = work / "given"
    given.write_bytes(garbage()[kind])
    arguments = [name]
    for parameter in archive_commands()[name].params:
        option = parameter.opts[0]
        if option == "--out":
            arguments += ["--out", str(out)]
        elif option in ("--audio", "--audio-dir"):
            arguments += [option, str(work / "audio")]
        elif parameter.param_type_name == "argument":
            arguments.append(str(given))
        elif parameter.required:
            arguments += [option, str(given)]
    before = set(work.rglob("*"))
    from dawnchorus.data_prep.cli import prep_app

    done = CliRunner().invoke(prep_app, arguments)
    assert done.exit_code == 2, (arguments, done.output, done.exception)
    assert "Traceback" not in done.output and len(done.stderr) < 8000
    assert "error" in done.stderr.lower()
    assert not out.exists() or not list(out.glob("*.parquet"))
    assert set(work.rglob("*")) == before
