"""EAT's files as others publish them: fairseq's, Hugging Face's, and avex's in both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from foreign_models import DIM, HIDDEN, HUB, SPEC, cfg, fairseq, hub
from safetensors.torch import save_file
from torch import Tensor

from dawnchorus.trainer.encoders.vit import sincos
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import initialise_from, load_model
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.registry import build_encoder

ENCODER = {"name": "vit", "layers": 2, "dim": DIM, "ffn_dim": HIDDEN, "heads": 2}
LABELS = ("Parus major", "Strix aluco", "Turdus merula")


def write_hub(folder: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HUB | changes))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_avex(folder: Path, state: dict[str, Tensor], labels: Any = None, **spec: Any) -> Path:
    folder.mkdir()
    (folder / "train_config.yaml").write_text(yaml.safe_dump({"model_spec": SPEC | spec}))
    save_file(state, folder / "esp_aves2_eat.safetensors")
    if labels:
        (folder / "label_map.json").write_text(json.dumps({n: i for i, n in enumerate(labels)}))
    return folder


def outputs(model: BioEncoder) -> Tensor:
    wav_BT = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        tokens: Tensor = model(wav_BT, torch.tensor([16000, 9000])).tokens_BND
    return tokens


def test_one_model_in_every_layout(tmp_path: Path) -> None:
    """Same tensors, same tokens; ESP's mean and deviation where avex's file says them."""
    teacher = {"_ema": {"blocks.0.norm1.weight": torch.zeros(DIM)}, "center": torch.randn(1, 1, 4)}
    torch.save({"cfg": cfg(), "model": fairseq() | teacher}, tmp_path / "checkpoint30.pt")
    tuned = {"model": {"_name": "mae_image_classification", "pretrained_model_args": cfg()}}
    head = {"head.weight": torch.randn(5, DIM), "fc_norm.weight": torch.randn(DIM)}
    torch.save({"cfg": tuned, "model": fairseq("model.") | head}, tmp_path / "tuned.pt")
    places = {
        "fairseq": tmp_path / "checkpoint30.pt",
        "tuned": tmp_path / "tuned.pt",
        "hub": write_hub(tmp_path / "hub", hub()),
        "ssl": write_avex(tmp_path / "ssl", fairseq()),
        "sl": write_avex(tmp_path / "sl", hub("backbone.model.")),
    }
    loaded = {name: load_model(path) for name, path in places.items()}
    assert [x.kind for x in loaded.values()] == ["fairseq", "fairseq", "eat", "avex", "avex"]
    theirs = fairseq()
    for layout, found in loaded.items():
        encoder = found.model.encoder
        state = encoder.state_dict()
        assert torch.equal(
            state["trunk.layers.1.attn.qkv.weight"], theirs["blocks.1.attn.qkv.weight"]
        )
        assert torch.equal(
            state["norm_pre.bias"], theirs["modality_encoders.IMAGE.context_encoder.norm.bias"]
        )
        esp = layout in ("ssl", "sl")
        assert encoder.config.mel_mean == (-5.553 if esp else -4.268)
        assert encoder.config.mel_std == (4.606 if esp else 4.569)
        same = outputs(loaded["ssl" if esp else "fairseq"].model)
        assert torch.equal(outputs(found.model), same)
    assert not torch.allclose(outputs(loaded["ssl"].model), outputs(loaded["hub"].model), atol=1e-3)
    assert loaded["tuned"].labels is None and "normalises" in loaded["tuned"].weights.notes[0]
    start = build_encoder(ENCODER)
    initialise_from(start, tmp_path / "checkpoint30.pt")
    assert torch.equal(start.cls_token, theirs["modality_encoders.IMAGE.extra_tokens"])
    with pytest.raises(CheckpointError, match=r"another front end[\s\S]*mel_mean: -5.553"):
        initialise_from(start, places["ssl"])


def test_a_head_on_the_clips_token(tmp_path: Path) -> None:
    """Post-trained models of avex classify from CLS; exported from here they still do."""
    head = {"classifier.weight": torch.randn(3, DIM), "classifier.bias": torch.randn(3)}
    folder = write_avex(tmp_path / "sl", hub("backbone.model.") | head, LABELS)
    loaded = load_model(folder)
    assert loaded.labels == LABELS and loaded.model.pooling == "cls"
    wav_BT = 0.1 * torch.randn(1, 16000)
    with torch.no_grad():
        token_D = loaded.model(wav_BT).tokens_BND[0, 0]
        expected = head["classifier.weight"] @ token_D + head["classifier.bias"]
        torch.testing.assert_close(loaded.model.logits(wav_BT)[0], expected, atol=1e-5, rtol=0)


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(path: Path, said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            load_model(path)

    def pt(name: str, content: dict[str, Any]) -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    state = fairseq()
    refused(pt("bare.pt", {"model": state}), "describes its architecture in cfg.model")
    refused(pt("alibi.pt", {"cfg": cfg(use_alibi_encoder=True), "model": state}), "use_alibi")
    deep = cfg()
    deep["model"]["depth"] = 3
    refused(pt("deep.pt", {"cfg": deep, "model": state}), r"missing: encoder.trunk.layers.2")
    more = state | {"blocks.0.attn.gate.weight": torch.zeros(2)}
    refused(pt("more.pt", {"cfg": cfg(), "model": more}), "not part of the model.*attn.gate")
    table = sincos(512, 64, DIM).view(8, 64, DIM).transpose(0, 1).reshape(1, 512, DIM)
    scrambled = state | {"modality_encoders.IMAGE.fixed_positional_encoder.positions": table}
    refused(pt("scrambled.pt", {"cfg": cfg(), "model": scrambled}), "differs from EAT's positions")
    refused(write_hub(tmp_path / "pre", hub(), layer_norm_first=True), "layer_norm_first is True")
    refused(write_hub(tmp_path / "stride", hub(), stride=10), "stride is 10")
    refused(write_hub(tmp_path / "odd", hub(), depth="2"), "depth is '2'")
    refused(write_hub(tmp_path / "other", hub(), model_type="ast"), "'ast' model")
    refused(write_avex(tmp_path / "empty", {"x": torch.zeros(1)}), "were empty")
    rate = {"sample_rate": 32000}
    refused(write_avex(tmp_path / "rate", fairseq(), audio_config=rate), "sample_rate is 32000")
    refused(write_avex(tmp_path / "text", fairseq(), eat_norm_mean="x"), "eat_norm_mean is 'x'")
