"""What a person is told who brings the wrong thing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.cli import data_app, prep_app
from dawnchorus.data_prep.download.download_recipe import load_recipe
from dawnchorus.data_prep.errors import UnusableAudio
from dawnchorus.trainer.about import package_version
from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.sound_folders import what_to_do_with

REPO = Path(__file__).resolve().parents[2]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 120044\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [(LFS, "a Git LFS pointer.*git lfs pull"),
     (b"/annex/objects/SHA256E-s1--4d.wav\n", "a git-annex pointer.*git annex get")],
)  # fmt: skip
def test_a_pointer_is_called_that(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UnusableAudio, match=says) as caught:
        decode(tmp_path / "a.wav", 16000)
    assert caught.value.reason == "pointer"


def test_a_folder_of_audio_is_sent_to_prep_folder(tmp_path: Path) -> None:
    messy = tmp_path / "messy sounds"
    (messy / "deep").mkdir(parents=True)
    assert what_to_do_with(messy) == what_to_do_with(messy / "none") == ""
    (messy / "deep" / "A.WAV").touch()
    told = f"is a folder of audio: use `chorus prep folder '{messy}'"
    for app, arguments in (
        (prep_app, ["shards", str(messy), "--out", str(tmp_path / "o")]),
        (prep_app, ["download", str(messy), "--out", str(tmp_path / "o"), "--contact", "a@b.c"]),
        (data_app, ["verify", str(messy)]),
        (data_app, ["describe", str(messy)]),
        (data_app, ["report", str(messy), "--out", str(tmp_path / "r.html")]),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and told in " ".join(result.output.split()), result.output
    with pytest.raises(DataError, match="is a folder of audio: use `chorus prep folder"):
        ShardIndex.open(messy)


def test_missing_files_of_a_folder_are_not_blamed_on_an_option_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("filename,label\nnowhere.wav,x\n")
    arguments = ["folder", str(tmp_path), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(prep_app, arguments).output
    assert "Is --path-column right?" in said and "--audio" not in said


def test_a_checkout_that_is_not_installed_has_a_version(tmp_path: Path) -> None:
    """In a process that sees the packages, but no metadata of an installed dawnchorus."""
    code = (
        "import importlib.metadata as m\n"
        "from dawnchorus.data_prep.download.download_recipe import load_recipe\n"
        "print(load_recipe('polite', contact='a@b.c').user_agent)\n"
    )
    hidden = (
        "import importlib.metadata, sys\n"
        "found = importlib.metadata.distribution\n"
        "def distribution(name):\n"
        "    if name == 'dawnchorus':\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "importlib.metadata.distribution = distribution\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "+source (bioacoustic" in done.stdout
    agent = load_recipe("polite", contact="a@b.c").user_agent
    assert agent.startswith(f"dawnchorus/{package_version()} (")
