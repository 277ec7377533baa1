"""BEATs files as others publish them: Microsoft's, with and without a head, and avex's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from foreign_models import microsoft_cfg, microsoft_names
from safetensors.torch import save_file

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters.beats import cfg_from_encoder, state_to_avex
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.model import BioEncoder


def same(a: BioEncoder, b: BioEncoder) -> bool:
    theirs = b.state_dict()
    ours = a.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_microsoft_file(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    model = make_run(tmp_path / "r", labels=None)
    torch.save({"cfg": microsoft_cfg(), "model": microsoft_names(model)}, tmp_path / "BEATs.pt")
    loaded = load_model(tmp_path / "BEATs.pt")
    assert loaded.kind == "microsoft"
    assert same(loaded.model, model)
    assert loaded.model.encoder.config.mel_mean == 15.41663


def test_microsoft_file_of_an_old_torch(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r", labels=None)
    content = {"cfg": microsoft_cfg(), "model": microsoft_names(model)}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(load_model(tmp_path / "old.pt").model, model)


def test_microsoft_fine_tuned_head(
    tmp_path: Path,
    make_run: Callable[..., BioEncoder],
    clips: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Its predictor works on every token and then takes the mean of the logits."""
    model = make_run(tmp_path / "r")
    assert model.head is not None
    state = microsoft_names(model)
    state |= {f"predictor.{k}": v for k, v in model.head.state_dict().items()}
    names = dict(enumerate(["/m/09x0r", "/m/05zppz", "/m/02zsn"]))
    cfg = microsoft_cfg(finetuned_model=True, predictor_class=3)
    torch.save({"cfg": cfg, "model": state, "label_dict": names}, tmp_path / "cpt2.pt")
    loaded = load_model(tmp_path / "cpt2.pt")
    assert loaded.labels == ("/m/09x0r", "/m/05zppz", "/m/02zsn")
    wav_BT, length_B = clips
    with torch.no_grad():
        out = model(wav_BT, length_B)
        per_token = model.head(out.tokens_BND)
        expected = torch.stack(
            [per_token[b, out.valid_BN[b]].mean(0) for b in range(len(length_B))]
        )
        torch.testing.assert_close(
            loaded.model.logits(wav_BT, length_B), expected, rtol=0, atol=1e-5
        )


NAMES = ("/m/09x0r", "/m/05zppz", "/m/02zsn")


@pytest.mark.parametrize(
    "names",
    [
        {str(i): name for i, name in enumerate(NAMES)},
        {name: i for i, name in reversed(list(enumerate(NAMES)))},
        {name: str(i) for i, name in enumerate(NAMES)},
        list(NAMES),
    ],
)
def test_names_of_a_head_in_any_form(
    names: object, tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r")
    assert model.head is not None
    state = microsoft_names(model)
    state |= {f"predictor.{k}": v for k, v in model.head.state_dict().items()}
    torch.save({"cfg": microsoft_cfg(), "model": state, "label_dict": names}, tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").labels == NAMES


@pytest.mark.parametrize("names", [{0: "a", 2: "b"}, {"a": 0, "b": 0}, {"a": 0.5}, "abc", {1: "a"}])
def test_names_that_do_not_count_are_refused(
    names: object, tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    state = microsoft_names(make_run(tmp_path / "r"))
    torch.save({"cfg": microsoft_cfg(), "model": state, "label_dict": names}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"label_dict of .*x\.pt: the indices do not count"):
        load_model(tmp_path / "x.pt")


def test_microsoft_file_without_deep_norm_is_refused(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r", labels=None)
    content = {"cfg": microsoft_cfg(deep_norm=False), "model": microsoft_names(model)}
    torch.save(content, tmp_path / "BEATs.pt")
    with pytest.raises(CheckpointError, match="deep_norm is False"):
        load_model(tmp_path / "BEATs.pt")
    del content["cfg"]["deep_norm"]
    torch.save(content, tmp_path / "BEATs.pt")
    with pytest.raises(CheckpointError, match="deep_norm is missing"):
        load_model(tmp_path / "BEATs.pt")


def test_avex_file(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    model = make_run(tmp_path / "r", encoder={"mel_mean": 15.0})
    assert model.head is not None
    state = {}
    for name, tensor in microsoft_names(model).items():
        name = name.replace("weight_g", "parametrizations.weight.original0")
        name = name.replace("weight_v", "parametrizations.weight.original1")
        state[f"backbone.{name}"] = tensor
    state["backbone.fbank.window"] = torch.ones(400)
    state["backbone.predictor.weight"] = torch.ones(527, 48)
    state["backbone.predictor.bias"] = torch.ones(527)
    state |= {f"classifier.{k}": v.clone() for k, v in model.head.state_dict().items()}
    save_file(state, tmp_path / "esp.safetensors")
    cfg = microsoft_cfg(fbank_mean=15.0, sample_frequency=16000.0)
    spec = {"model_spec": {"name": "beats", "init_config": cfg}}
    with pytest.raises(CheckpointError, match=r"train_config\.yaml"):
        load_model(tmp_path / "esp.safetensors")
    (tmp_path / "train_config.yaml").write_text(yaml.safe_dump(spec))
    headless = load_model(tmp_path / "esp.safetensors")
    assert headless.labels is None
    assert "3 outputs and no names" in headless.weights.notes[0]
    index = {name: i for i, name in enumerate(model.labels or ())}
    (tmp_path / "label_map.json").write_text(json.dumps(index))
    assert same(load_model(tmp_path / "esp.safetensors").model, model)
    assert same(load_model(tmp_path).model, model)
    spec["model_spec"]["name"] = "efficientnet"
    (tmp_path / "train_config.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(CheckpointError, match="neither B0 nor B1"):
        load_model(tmp_path)


# --------------------------------------------------------------------------- init_from


def avex_folder(folder: Path, model: BioEncoder, **spec: Any) -> Path:
    """A model of ours as avex has it, with another `model_spec`."""
    folder.mkdir()
    save_file(state_to_avex(model.state_dict(), 2, head=False), folder / "x.safetensors")
    own = {"name": "beats", "init_config": cfg_from_encoder(vars(model.encoder.config))}
    text = yaml.safe_dump({"model_spec": own | spec})
    (folder / "train_config.yaml").write_text(text)
    return folder


def test_avex_at_32_khz_and_256_bands(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    """Both in init_config: built. Two rates that contradict each other: refused, and why."""
    model = make_run(
        tmp_path / "r", encoder={"sample_rate_hz": 32000, "mel_bins": 256}, labels=None
    )
    audio = {"sample_rate": 32000, "representation": "raw"}
    loaded = load_model(avex_folder(tmp_path / "right", model, audio_config=audio)).model
    assert same(loaded, model)
    assert loaded.embed(torch.randn(1, 32000)).shape == (1, 48)
    model = make_run(tmp_path / "r2", labels=None)
    with pytest.raises(CheckpointError, match=r"sample_rate is 32000.*sample_frequency 16000"):
        load_model(avex_folder(tmp_path / "rate", model, audio_config=audio))
    audio = {"n_mels": 256, "representation": "mel_spectrogram"}
    with pytest.raises(CheckpointError, match=r"n_mels is 256.*num_mel_bins 128"):
        load_model(avex_folder(tmp_path / "mels", model, audio_config=audio))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"init_config": "32khz"}, "are mappings"),
        ({"init_config": [1]}, "are mappings"),
        ({"audio_config": 32000}, "are mappings"),
        ({"init_config": {"num_mel_bins": "256"}}, "num_mel_bins is '256'; it has to be a number"),
        ({"init_config": {"sample_frequency": None}}, "sample_frequency is None"),
        ({"init_config": {"input_patch_size": [16, 16]}}, "input_patch_size is"),
        ({"init_config": {"num_mel_bins": 250}}, "multiple of patch"),
    ],
)
def test_a_strange_avex_configuration_is_refused(
    spec: dict[str, Any], message: str, tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    model = make_run(tmp_path / "r", labels=None)
    with pytest.raises(CheckpointError, match=message):
        load_model(avex_folder(tmp_path / "avex", model, **spec))
