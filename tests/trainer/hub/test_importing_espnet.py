"""BEATs files of ESPnet (OpenBEATs), in the forms that its scripts write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from foreign_models import ESPNET as GIVEN
from foreign_models import espnet_file as written
from foreign_models import espnet_names

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.model import BioEncoder


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
