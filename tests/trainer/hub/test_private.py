"""What an export tells of the machine it was made on (nothing), and exports for oneself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.model import BioEncoder

MakeRun = Callable[..., BioEncoder]
MakeSource = Callable[..., dict[str, Any]]
SECRETS = ("/home/jane", "museum-private", "scratch", "secret-project", "gpu7", "jane/datasets")


def rewrite(run: Path, **sections: Any) -> None:
    """Give the recipe of a run, in its file and in its checkpoints, other sections."""
    for path in [run / "recipe.yaml", *(run / "checkpoints").glob("*.ckpt")]:
        is_yaml = path.suffix == ".yaml"
        content = yaml.safe_load(path.read_text()) if is_yaml else torch.load(path)
        (content if is_yaml else content["dawnchorus"]["recipe"]).update(sections)
        if is_yaml:
            path.write_text(yaml.safe_dump(content))
        else:
            torch.save(content, path)


@pytest.fixture
def telling(tmp_path: Path, make_run: MakeRun, make_source: MakeSource) -> Path:
    """A run whose recipe, data and evaluation name folders, buckets, a cache and a project."""
    run = tmp_path / "jane" / "run"
    where = "s3://museum-private/jane/garden"
    evaluation = {
        "dataset": "garden", "metric": "accuracy",
        "rows": [{"name": "model", "probe": {"mean": 0.8}}],
        "warnings": ["3 of 9 clips of /home/jane/datasets/garden were in the training data"],
    }  # fmt: skip
    make_run(run, sources=[make_source("main", ("Ann", "CC0", 3, 0.5), path=where)],
             evaluation=evaluation)  # fmt: skip
    rewrite(
        run,
        runs="/home/jane/runs",
        init_from=None,
        data={
            "train": {"main": {"path": where}},
            "valid": {"main": {"path": "/home/jane/datasets/garden"}},
            "noise": {"sea": {"path": "../datasets/sea"}},
            "remote": {"cache": "/scratch/jane"}, "window_s": 5.0, "workers": 7,
        },
        log={"wandb": "online", "wandb_project": "secret-project"},
        card={"author": "Us", "repo_id": "us/tiny", "limitations": "See /home/jane/no/limits.md."},
    )  # fmt: skip
    return run


def test_no_file_of_an_export_names_a_place(telling: Path, tmp_path: Path) -> None:
    folder = export(telling, tmp_path / "out")
    for path in folder.iterdir():
        content = path.read_bytes()
        for secret in (*SECRETS, str(tmp_path), "wandb"):
            assert secret.encode() not in content, (path.name, secret)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["data"] == {
        "train": {"main": {"path": "garden"}}, "valid": {"main": {"path": "garden"}},
        "noise": {"sea": {"path": "sea"}}, "window_s": 5.0,
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    assert "3 of 9 clips of garden were in the training data" in card
    assert "See limits.md." in card
    assert load_model(folder).recipe == recipe


def test_a_place_that_would_get_out_all_the_same_stops_the_export(
    telling: Path, tmp_path: Path
) -> None:
    rewrite(telling, name="s3://museum-private/jane/garden")
    with pytest.raises(CheckpointError, match=r"would name s3://museum-private/jane/garden"):
        export(telling, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------- for oneself


def test_private_use_needs_nothing(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    model = make_run(
        tmp_path / "run", card={}, evaluation={"dataset": "garden", "rows": []},
        sources=[make_source("garden", ("Ann", "", 3, 0.5))],
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"empty parts(.|\n)*give --private"):
        export(tmp_path / "run", tmp_path / "out")
    folder = export(tmp_path / "run", tmp_path / "out", private=True)
    assert torch.equal(
        load_model(folder).model.state_dict()["head.weight"], model.state_dict()["head.weight"]
    )
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in header
    for part in (
        "**Not for publication.**", "card.author: set card.author", "card.licence: none follows",
        "3 clips \\(0.50 h\\) have no licence".replace("\\", ""), "chorus evaluate",
        "`chorus prep folder RECORDINGS --out DATASET`".replace("`", "\\`"),
        "None: the model was not evaluated.", "no licence: they are not for publication",
    ):  # fmt: skip
        assert part in card, part
    assert "Published by" not in card and "None |" not in card
    assert len(json.loads((folder / "config.json").read_text())["not_for_publication"]) == 4


def test_a_relative_place_of_the_run_stays_here(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "jane-home/runs/warbler", card={}, evaluation={})
    monkeypatch.chdir(tmp_path)
    folder = export(Path("jane-home/runs/warbler"), tmp_path / "out", private=True)
    assert "chorus evaluate warbler data" in (folder / "config.json").read_text()
    for path in folder.iterdir():
        assert b"jane-home" not in path.read_bytes(), path.name


def test_private_without_data_json(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run/data.json").unlink()
    folder = export(tmp_path / "run", tmp_path / "out", private=True)
    assert "there is no data.json" in (folder / "README.md").read_text()


def test_a_private_card_tells_of_a_licence_that_contradicts(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "out", card={"licence": "mit"}, private=True)
    missing = json.loads((folder / "config.json").read_text())["not_for_publication"]
    assert any("CC BY-NC 4.0" in line for line in missing)


def test_a_name_that_will_not_do_stays_an_error(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"card\.repo_id") as caught:
        export(tmp_path / "run", tmp_path / "out", card={"repo_id": "a b"}, private=True)
    assert "--private" not in str(caught.value)


def test_push_stays_closed(tmp_path: Path, make_run: MakeRun) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (extra: export)"
    )
    make_run(tmp_path / "run", card={})
    folder = export(tmp_path / "run", tmp_path / "out", private=True)
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"private use(.|\n)*card\.author"):
        model.push_to_hub("us/tiny")
    with pytest.raises(ValueError, match="private use"):
        model.save_pretrained(tmp_path / "again", push_to_hub=True)
    # Saved again it stays so.
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with pytest.raises(ValueError, match="private use"):
        again.push_to_hub("us/tiny")
