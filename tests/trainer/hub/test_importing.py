from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import initialise_from, load_model
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.registry import build_encoder

LAYERS = 2


def same(a: BioEncoder, b: BioEncoder) -> bool:
    theirs = b.state_dict()
    ours = a.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def fields(model: BioEncoder) -> dict[str, Any]:
    return {"name": "beats", **vars(model.encoder.config)}


# --------------------------------------------------------------------------- our own files


def test_run_folder(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    model = make_run(tmp_path / "r")
    loaded = load_model(tmp_path / "r")
    assert same(loaded.model, model)
    assert not loaded.model.training
    assert loaded.labels == model.labels
    assert loaded.kind == "run"
    assert loaded.recipe is not None
    assert loaded.recipe["name"] == "r"
    assert "last.ckpt" in loaded.source
    assert "step 100" in loaded.source


def test_best_checkpoint_goes_first_and_can_be_chosen_against(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    last = make_run(tmp_path / "r", seed=1)
    best = make_run(tmp_path / "other", seed=2, names=("best.ckpt",))
    (tmp_path / "other/checkpoints/best.ckpt").rename(tmp_path / "r/checkpoints/best.ckpt")
    assert same(load_model(tmp_path / "r").model, best)
    assert same(load_model(tmp_path / "r", which="last").model, last)
    assert same(load_model(tmp_path / "r/checkpoints/last.ckpt").model, last)


def test_moving_average(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    average = make_run(tmp_path / "r", ema=True)
    assert same(load_model(tmp_path / "r").model, average)
    assert "moving average" in load_model(tmp_path / "r").source
    assert not same(load_model(tmp_path / "r", ema=False).model, average)


def test_run_without_labels_has_no_head(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    make_run(tmp_path / "r", labels=None)
    loaded = load_model(tmp_path / "r")
    assert loaded.labels is None
    assert loaded.model.head is None


# --------------------------------------------------------------------------- others' files


def test_initialise_from_run(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    model = make_run(tmp_path / "r", ema=True)
    fresh = build_encoder(model.encoder.config)
    read = initialise_from(fresh, tmp_path / "r")
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)
    assert read.averaged
    assert read.step == 100


def test_initialise_ignores_dropout_but_nothing_else(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r")
    config = {**vars(model.encoder.config), "dropout": 0.3, "layer_drop": 0.0}
    initialise_from(build_encoder(config), tmp_path / "r")
    other = build_encoder({**config, "layers": 3, "ffn_dim": 64, "mel_std": 5.90532})
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        initialise_from(other, tmp_path / "r")
    message = str(caught.value)
    assert "another architecture and another front end" in message
    assert "encoder.layers: 2 in the file, 3 here" in message
    assert "encoder.ffn_dim: 96 in the file, 64 here" in message
    assert "encoder.mel_std: 6.55582 in the file, 5.90532 here" in message
    assert "encoder.layers=2 encoder.ffn_dim=96 encoder.mel_std=6.55582" in message
    assert "dropout" not in message
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


def test_initialise_from_front_end_only(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r")
    other = build_encoder({**vars(model.encoder.config), "frontend": "eat"})
    with pytest.raises(CheckpointError, match="made with another front end:"):
        initialise_from(other, tmp_path / "r")


# --------------------------------------------------------------------------- bad files


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"

    def spoil(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        del state["model.encoder.encoder.layers.1.fc1.bias"]
        state["model.encoder.cls_token"] = torch.zeros(1)
        state["model.encoder.layer_norm.weight"] = torch.zeros(31)

    edit(path, spoil)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "missing: encoder.encoder.layers.1.fc1.bias" in message
    assert "not part of the model: encoder.cls_token" in message
    assert "encoder.layer_norm.weight (31,) instead of (32,)" in message
    fresh = build_encoder(model.encoder.config)
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.1\.fc1\.bias"):
        initialise_from(fresh, path)


def test_weights_that_are_no_numbers_are_named(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    make_run(tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"
    name = "model.encoder.encoder.layers.0.fc1.weight"
    edit(path, lambda content: content["state_dict"][name].view(-1)[7].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"NaN or infinity: encoder.*layers\.0\.fc1\.weight"):
        load_model(path)


@pytest.mark.parametrize("keep", [0, 1, 1000, 0.5, 0.999])
def test_truncated_checkpoint(
    tmp_path: Path, make_run: Callable[..., BioEncoder], keep: float
) -> None:
    make_run(tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read"):
        load_model(tmp_path / "r")


def test_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"dawnchorus": Path("x"), "state_dict": {}}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="holds objects other than tensors"):
        load_model(tmp_path / "evil.ckpt")


def test_strange_things_are_refused(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    with pytest.raises(CheckpointError, match="nothing at"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(tmp_path)
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "lightning.ckpt")
    with pytest.raises(CheckpointError, match=r"no format we know.*state_dict, epoch"):
        load_model(tmp_path / "lightning.ckpt")
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no best\.ckpt or last\.ckpt"):
        load_model(tmp_path / "empty")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert' model"):
        load_model(tmp_path / "bert")
    make_run(tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"
    edit(path, lambda content: content["dawnchorus"].update(format=2))
    with pytest.raises(CheckpointError, match="checkpoint format 2"):
        load_model(path)


def test_impossible_numbers_are_an_error_not_a_trace(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    make_run(tmp_path / "r")
    path = tmp_path / "r/checkpoints/last.ckpt"
    edit(path, lambda content: content["dawnchorus"]["recipe"]["encoder"].update(heads=5))
    with pytest.raises(CheckpointError, match="multiple of heads"):
        load_model(path)
    edit(path, lambda content: content["dawnchorus"]["recipe"]["encoder"].update(colour=5))
    with pytest.raises(CheckpointError, match="colour"):
        load_model(path)
