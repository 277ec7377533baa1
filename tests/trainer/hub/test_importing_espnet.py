"""BEATs files of ESPnet (OpenBEATs), in the forms that its scripts write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.model import BioEncoder

# What ESPnet's recipes write down; the rest are the defaults of its class.
GIVEN = {
    "encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4, "embed_dim": 32, "conv_pos": 16, "conv_pos_groups": 4,
    "deep_norm": True, "relative_position_embedding": True, "gru_rel_pos": True,
    "num_buckets": 32, "max_distance": 100, "encoder_layerdrop": 0.05, "codebook_vocab_size": 1024,
}  # fmt: skip


def espnet_names(model: BioEncoder) -> dict[str, torch.Tensor]:
    table = "self_attn.relative_attention_bias.weight"
    found = {}
    for name, tensor in model.encoder.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        found[name] = tensor.clone()
    found[f"encoder.layers.1.{table}"] = found[f"encoder.layers.0.{table}"].clone()
    found["patch_embedding_pad.weight"] = torch.ones(1, 1, 16, 16) / 256
    found["raw2fbank_pad.weight"] = torch.ones(1, 1, 400) / 400
    return found


def written(folder: Path, form: str, state: dict[str, Any], given: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "valid.acc.best.pth"
    if form == "encoder":
        torch.save({"cfg": given, "model": state}, path)
        return path
    whole = {f"encoder.{name}": tensor for name, tensor in state.items()}
    whole["decoder.mask_token"] = torch.zeros(1, 1, 8)
    torch.save(
        {"module": {"module": whole}, "state_dict": {"state_dict": whole}}.get(form, whole), path
    )
    config = {"encoder": "beats", "encoder_conf": {"beats_config": given, "is_pretraining": True}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("form", ["encoder", "whole", "module", "state_dict"])
def test_every_form_gives_the_same_model(
    tmp_path: Path, make_run: Callable[..., BioEncoder], form: str
) -> None:
    model = make_run(tmp_path / "r", labels=None)
    loaded = load_model(written(tmp_path / "e", form, espnet_names(model), GIVEN))
    assert loaded.kind == "espnet"
    ours, theirs = loaded.model.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    config = loaded.model.encoder.config
    assert (config.mel_mean, config.mel_std) == (15.29130, 5.90532)
    assert (config.dropout, config.input_dropout, config.layer_drop) == (0.1, 0.0, 0.05)


def test_the_mean_is_taken_from_where_espnet_takes_it(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    state = espnet_names(make_run(tmp_path / "r", labels=None))
    # Among the encoder's numbers ESPnet does not look at them (its AudioSet recipe has them there).
    given = GIVEN | {"fbank_mean": 15.66439, "fbank_std": 6.38312}
    for form in ("encoder", "whole"):
        loaded = load_model(written(tmp_path / form, form, state, given))
        assert loaded.model.encoder.config.mel_mean == 15.29130
    path = written(tmp_path / "whole", "whole", state, GIVEN)
    config = {"encoder_conf": {"beats_config": GIVEN, "fbank_mean": 15.0, "fbank_std": 6.0}}
    (path.parent / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_model(path).model.encoder.config.mel_mean == 15.0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, r"sizes are in the config\.yaml .*: put that file beside it"),
        ("encoder_conf: 3", "has no encoder_conf with a beats_config"),
        ("encoder_conf: {beats_config: [1]}", "has no encoder_conf with a beats_config"),
        ("a: [", "cannot be read"),
        ("encoder_conf: {}", "deep_norm is False"),
        (
            "encoder_conf: {beats_config: {encoder_layers: many, deep_norm: true, "
            "gru_rel_pos: true, relative_position_embedding: true}}",
            "encoder_layers is 'many'",
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path, make_run: Callable[..., BioEncoder], config: str | None, said: str
) -> None:
    state = espnet_names(make_run(tmp_path / "r", labels=None))
    path = written(tmp_path / "e", "whole", state, GIVEN)
    (path.parent / "config.yaml").unlink()
    if config is not None:
        (path.parent / "config.yaml").write_text(config)
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


def test_another_size_than_the_tensors_have_is_refused(
    tmp_path: Path, make_run: Callable[..., BioEncoder]
) -> None:
    state = espnet_names(make_run(tmp_path / "r", labels=None))
    with pytest.raises(CheckpointError, match=r"layers\.2"):
        load_model(written(tmp_path / "e", "whole", state, GIVEN | {"encoder_layers": 3}))
