from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from dawnchorus.trainer.cli import loading_lines
from dawnchorus.trainer.encoders import beats, beats_config
from dawnchorus.trainer.errors import CheckpointError, RecipeError
from dawnchorus.trainer.frontends import frontend, kaldi
from dawnchorus.trainer.hub import exporting
from dawnchorus.trainer.hub.adapters import beats as beats_adapter
from dawnchorus.trainer.hub.importing import initialise_from, load_model
from dawnchorus.trainer.model import BioEncoder

MakeRun = Callable[..., BioEncoder]


@pytest.fixture
def exported(tmp_path: Path, make_run: MakeRun) -> tuple[Path, BioEncoder]:
    """An exported run with a head, and its model."""
    model = make_run(tmp_path / "run")
    return exporting.export(tmp_path / "run", tmp_path / "out"), model


def test_the_folder_is_complete(exported: tuple[Path, BioEncoder]) -> None:
    folder, _ = exported
    assert sorted(p.name for p in folder.iterdir()) == [
        "LICENSE", "README.md", "base.py", "base_config.py", "beats.py", "beats_config.py",
        "config.json", "data.json", "frontend.py", "kaldi.py", "label_map.json",
        "model.safetensors", "modeling_dawnchorus.py", "parts.py", "pooling.py",
        "preprocessor_config.json", "ranges.py", "recipe.yaml",
        "tiny-beats.safetensors", "train_config.yaml",
    ]  # fmt: skip


def test_code_is_the_trainers_own(exported: tuple[Path, BioEncoder]) -> None:
    folder, _ = exported
    for module in (beats, beats_config, frontend, kaldi):
        source = Path(str(module.__file__))
        assert (folder / source.name).read_bytes() == source.read_bytes()


def test_round_trip(exported: tuple[Path, BioEncoder]) -> None:
    folder, model = exported
    for path in (folder, folder / "model.safetensors"):
        loaded = load_model(path)
        assert loaded.kind == "export"
        assert loaded.labels == model.labels
        assert loaded.model.encoder.config == model.encoder.config
        assert loaded.recipe is not None
        assert loaded.recipe["name"] == "run"
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_post_training_from_an_exported_folder(exported: tuple[Path, BioEncoder]) -> None:
    folder, model = exported
    fresh = BioEncoder.from_config(vars(model.encoder.config))
    initialise_from(fresh.encoder, folder)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(fresh.encoder.state_dict()[name], tensor)


def test_damaged_export_is_refused(exported: tuple[Path, BioEncoder]) -> None:
    folder, _ = exported
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "dawn')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_model(folder)


def test_json_files(exported: tuple[Path, BioEncoder]) -> None:
    folder, model = exported
    labels = model.labels or ()
    index = {name: i for i, name in enumerate(labels)}
    assert json.loads((folder / "label_map.json").read_text()) == index
    config = json.loads((folder / "config.json").read_text())
    assert config["label2id"] == index
    assert config["encoder"] == vars(model.encoder.config)
    assert config["auto_map"]["AutoModel"] == "modeling_dawnchorus.DawnchorusModel"
    extractor = json.loads((folder / "preprocessor_config.json").read_text())
    assert extractor["sampling_rate"] == 16000
    assert extractor["window_s"] == 5.0
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["seed"] == 3


def test_others_may_read_what_the_umask_lets_them(exported: tuple[Path, BioEncoder]) -> None:
    folder, _ = exported
    (folder.parent / "plain").mkdir()
    (folder.parent / "plain.txt").touch()
    assert folder.stat().st_mode == (folder.parent / "plain").stat().st_mode
    for file in folder.iterdir():
        assert file.stat().st_mode == (folder.parent / "plain.txt").stat().st_mode, file


def test_nothing_tells_where_the_data_lay(exported: tuple[Path, BioEncoder]) -> None:
    folder, _ = exported
    for name in ("data.json", "README.md", "config.json"):
        assert "/home/somebody" not in (folder / name).read_text()


def test_avex_layout(exported: tuple[Path, BioEncoder]) -> None:
    """Width 48: avex's classifier would not fit, so it gets the embeddings only."""
    folder, model = exported
    table = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
    with safe_open(folder / "tiny-beats.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
        ours = model.encoder.state_dict()
        assert names == {f"backbone.{name}" for name in [*ours, table.format(1)]}
        for layer in range(2):
            found = file.get_tensor("backbone." + table.format(layer))
            assert torch.equal(found, ours[table.format(0)])
    spec = yaml.safe_load((folder / "train_config.yaml").read_text())["model_spec"]
    assert spec["init_config"]["deep_norm"] is True
    assert spec["init_config"]["fbank_mean"] == 15.41663
    assert spec["audio_config"]["target_length_seconds"] == 5


def test_no_avex_files_for_a_front_end_that_avex_does_not_have(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run", encoder={"frontend": "eat", "mel_mean": -4.268, "mel_std": 4.569})
    folder = exporting.export(tmp_path / "run", tmp_path / "out")
    assert not (folder / "train_config.yaml").exists()
    assert not (folder / "tiny-beats.safetensors").exists()
    assert "avex" not in (folder / "README.md").read_text()


def test_without_labels(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", labels=None)
    folder = exporting.export(tmp_path / "run", tmp_path / "out")
    assert json.loads((folder / "label_map.json").read_text()) == {}
    config = json.loads((folder / "config.json").read_text())
    assert config["classification_head"] is False
    assert "id2label" not in config
    assert load_model(folder).model.head is None


def test_scores_follow_the_loss(tmp_path: Path, make_run: MakeRun) -> None:
    for loss, kind in (("bce", "multi"), ("softmax", "single")):
        run = tmp_path / loss
        make_run(run)
        for name in ("checkpoints/last.ckpt", "checkpoints/step_000000100.ckpt"):
            content = torch.load(run / name, weights_only=True)
            content["dawnchorus"]["recipe"]["objective"]["loss"] = loss
            torch.save(content, run / name)
        folder = exporting.export(run, tmp_path / f"{loss}_out")
        config = json.loads((folder / "config.json").read_text())
        assert config["problem_type"] == f"{kind}_label_classification"
        score = "softmax" if loss == "softmax" else "sigmoid"
        assert f"{score} makes them scores" in (folder / "README.md").read_text()


def test_the_average_is_what_leaves(tmp_path: Path, make_run: MakeRun) -> None:
    model = make_run(tmp_path / "run", ema=True)
    folder = exporting.export(tmp_path / "run", tmp_path / "out")
    found = load_model(folder).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor)
    assert "exponential moving average" in (folder / "README.md").read_text()


def test_a_checkpoint_of_a_run_can_be_exported(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    file = tmp_path / "run/checkpoints/step_000000100.ckpt"
    folder = exporting.export(file, tmp_path / "deep/er/out")
    assert load_model(folder).model.head is not None


# --------------------------------------------------------------------------- the place


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="not empty"):
        exporting.export(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "precious"
    with pytest.raises(CheckpointError, match="run folder"):
        exporting.export(tmp_path / "run", tmp_path / "run", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        exporting.export(tmp_path / "run", tmp_path / "file")
    assert left_behind(tmp_path) == ["file", "out", "run"]


def test_overwrite_and_empty_folder(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    exporting.export(tmp_path / "run", tmp_path / "empty")
    names = left_behind(tmp_path / "empty")
    (tmp_path / "empty/README.md").write_text("old")
    (tmp_path / "empty/CREDITS.md").write_text("of another version, which had many recordists")
    exporting.export(tmp_path / "run", tmp_path / "empty", overwrite=True)
    assert left_behind(tmp_path / "empty") == names
    assert (tmp_path / "empty/README.md").read_text() != "old"
    assert left_behind(tmp_path) == ["empty", "run"]


def test_a_failed_export_leaves_what_was_there(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    exporting.export(tmp_path / "run", tmp_path / "out")
    before = (tmp_path / "out/README.md").read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(beats_adapter, "_avex_yaml", no_space)
    with pytest.raises(CheckpointError, match="No space left"):
        exporting.export(tmp_path / "run", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/README.md").read_bytes() == before
    assert left_behind(tmp_path) == ["out", "run"]


def test_only_runs_can_be_exported(tmp_path: Path, exported: tuple[Path, BioEncoder]) -> None:
    folder, _ = exported
    with pytest.raises(CheckpointError, match="not a run of this project"):
        exporting.export(folder, tmp_path / "again")


def test_unknown_card_field(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(RecipeError, match="no licens; its fields are"):
        exporting.export(tmp_path / "run", tmp_path / "out", card={"licens": "mit"})
    assert left_behind(tmp_path) == ["run"]


def test_repo_is_called_as_the_folder_when_it_has_no_name(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run", card={"author": "Us"})
    folder = exporting.export(tmp_path / "run", tmp_path / "garden-birds")
    assert (folder / "garden-birds.safetensors").is_file()
    for name in ("model", "a b"):
        with pytest.raises(CheckpointError, match=r"card\.repo_id"):
            exporting.export(tmp_path / "run", tmp_path / name)


def test_card_of_recipe_yaml_goes_over_that_of_the_checkpoint(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run", card={"author": None})
    path = tmp_path / "run/recipe.yaml"
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    recipe["card"] = {"author": "Later", "repo_id": "later/name"}
    path.write_text(yaml.safe_dump(recipe))
    folder = exporting.export(tmp_path / "run", tmp_path / "out")
    assert "Published by Later" in (folder / "README.md").read_text()


def test_another_rate_is_said_wherever_people_look(tmp_path: Path, make_run: MakeRun) -> None:
    """Card, configs and the lines after `chorus export`, of an encoder at 32 kHz."""
    mae = {"name": "vit", "layers": 1, "dim": 32, "ffn_dim": 48, "heads": 2, "norm": "pre",
           "frontend": "mel_db", "sample_rate_hz": 32000}  # fmt: skip
    make_run(tmp_path / "run", encoder=mae)
    folder = exporting.export(tmp_path / "run", tmp_path / "out")
    assert json.loads((folder / "preprocessor_config.json").read_text())["sampling_rate"] == 32000
    card = (folder / "README.md").read_text()
    assert "32000 Hz" in card and "above 16000 Hz" in card
    lines = loading_lines(folder)
    assert "32 kHz" in lines and not any("16 kHz" in text for text in (card, lines))
    assert {"mel_db.py", "centred.py"} <= {path.name for path in folder.iterdir()}
