"""EfficientNets as others publish them: torchvision's, timm's, avex's; first weights by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import yaml
from foreign_models import AUDIO
from safetensors.torch import load_file, save_file
from torch import Tensor

from dawnchorus.trainer.encoders.efficientnet import EfficientNet
from dawnchorus.trainer.encoders.efficientnet_config import EfficientNetConfig
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters.efficientnet import TIMM, state_to_avex
from dawnchorus.trainer.hub.importing import initialise_pretrained, load_model

NAMES = {"Parus major": 0, "Strix aluco": 1, "Wind": 2}


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """avex's model has torchvision's, with a head of its own."""
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision.models.efficientnet_b0(weights=None, num_classes=3)
    return model.eval()


def avex_folder(folder: Path, state: dict[str, Tensor], *, audio: Any = AUDIO, **spec: Any) -> Path:
    """A folder as ESP publishes it."""
    folder.mkdir()
    save_file({k: t.contiguous() for k, t in state.items()}, folder / "esp-aves2-x.safetensors")
    given = {"name": "efficientnet", "pretrained": False, "audio_config": audio, **spec}
    (folder / "train_config.yaml").write_text(yaml.safe_dump({"model_spec": given}))
    (folder / "label_map.json").write_text(json.dumps(NAMES))
    return folder


def in_avex(theirs: torch.nn.Module) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}


def test_avex(tmp_path: Path, theirs: torch.nn.Module) -> None:
    folder = avex_folder(tmp_path / "esp", in_avex(theirs), efficientnet_variant="b0")
    loaded = load_model(folder)
    assert (loaded.kind, loaded.labels) == ("avex", tuple(NAMES))
    wav_BT = 0.1 * torch.randn(2, 16000)
    with torch.no_grad():
        x_BTF, _ = loaded.model.frontend(wav_BT)
        answer = theirs(x_BTF.mT[:, None].repeat(1, 3, 1, 1))
        torch.testing.assert_close(loaded.model.logits(wav_BT), answer, atol=1e-5, rtol=0)
    back = state_to_avex(loaded.model.state_dict(), head=True)
    assert back.keys() == in_avex(theirs).keys()
    again = torchvision.models.efficientnet_b0(weights=None, num_classes=3).eval()
    again.load_state_dict({k.removeprefix("model."): t for k, t in back.items()})
    with torch.no_grad():
        theirs_again = again(x_BTF.mT[:, None].repeat(1, 3, 1, 1))
    torch.testing.assert_close(theirs_again, answer, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("audio", "spec", "said"),
    [
        ({"normalize": False}, {}, "normalize is False"),
        ({"window": "hamming"}, {}, "window is 'hamming'"),
        ({"win_length": 400}, {}, "win_length is 400"),
        ({}, {"efficientnet_variant": "b1"}, "not those of the variant"),
        ({}, {"efficientnet_variant": "b7"}, "b0 or b1"),
    ],
)
def test_other_variants_of_avex_are_refused(
    tmp_path: Path, theirs: torch.nn.Module, audio: Any, spec: Any, said: str
) -> None:
    folder = avex_folder(tmp_path / "esp", in_avex(theirs), audio=AUDIO | audio, **spec)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)


def test_a_missing_or_strange_tensor_is_refused(tmp_path: Path, theirs: torch.nn.Module) -> None:
    state = in_avex(theirs)
    del state["model.features.4.0.block.2.fc1.bias"]
    state["model.features.4.0.block.2.fc9.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        load_model(avex_folder(tmp_path / "esp", state))
    for name in ("encoder.stages.3.0.se.conv_reduce.bias", "features.4.0.block.2.fc9.bias"):
        assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_weights_of_pictures(tmp_path: Path, theirs: torch.nn.Module, kind: str) -> None:
    model = theirs if kind == "torchvision" else timm.create_model("efficientnet_b0").eval()
    torch.save(model.state_dict(), tmp_path / "b0.pth")
    loaded = load_model(tmp_path / "b0.pth")
    assert (loaded.kind, loaded.labels) == (kind, None)  # a head without names is left out
    image = torch.rand(1, 1, 128, 64)
    with torch.no_grad():
        features = model.features if kind == "torchvision" else model.forward_features
        map_BCFT = features(image.expand(-1, 3, -1, -1))
        tokens_BND = loaded.model.encoder(image[:, 0].mT).tokens_BND
    theirs_BND = map_BCFT.permute(0, 3, 2, 1).flatten(1, 2)
    torch.testing.assert_close(tokens_BND, theirs_BND, atol=1e-5, rtol=0)


def test_imagenet_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's own cache, without a network; where they are not there, what to do."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    encoder = EfficientNet(EfficientNetConfig())
    with pytest.raises(CheckpointError, match=r"cannot fetch.*where there is a network.*HF_HOME"):
        initialise_pretrained(encoder, "imagenet")
    tiny = EfficientNet(EfficientNetConfig(width=0.25, dim=64))
    with pytest.raises(CheckpointError, match="B0 and B1 only"):
        initialise_pretrained(tiny, "imagenet")
    cached = tmp_path / f"models--timm--{TIMM['b0']}"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    pictures = timm.create_model("efficientnet_b0").eval()
    save_file(pictures.state_dict(), cached / "snapshots" / "abc" / "model.safetensors")
    initialise_pretrained(encoder, "imagenet")
    image = torch.rand(1, 1, 128, 64)
    with torch.no_grad():
        map_BCFT = pictures.forward_features(image.expand(-1, 3, -1, -1))
        tokens_BND = encoder.eval()(image[:, 0].mT).tokens_BND
    theirs_BND = map_BCFT.permute(0, 3, 2, 1).flatten(1, 2)
    torch.testing.assert_close(tokens_BND, theirs_BND, atol=1e-5, rtol=0)
    assert (
        load_file(cached / "snapshots" / "abc" / "model.safetensors")["conv_stem.weight"].shape[1]
        == 3
    )
