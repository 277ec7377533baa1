"""What every front end keeps, with the numbers of each encoder that may ask for it.

Shape legend: B clips, T samples.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dawnchorus.trainer.encoders.base_config import EncoderConfig
from dawnchorus.trainer.frontends import centred, frontend, kaldi, minmax_mel
from dawnchorus.trainer.frontends.frontend import Frontend
from dawnchorus.trainer.hub import shipping
from dawnchorus.trainer.registry import ENCODERS, FRONTENDS, build_frontend

ALONE = """
import sys, torch
from importlib import import_module
from pathlib import Path
from safetensors.torch import load_file, save_file
wav_BT = load_file("sound.safetensors")["wav_BT"]
answers = {}
sys.path.insert(0, ".")
for folder in sorted(p.name for p in Path().iterdir() if p.is_dir()):
    numbers, front = [line.split() for line in Path(folder, "names").read_text().splitlines()]
    config = getattr(import_module(f"{folder}.{numbers[0]}"), numbers[1])(frontend=folder)
    made = getattr(import_module(f"{folder}.{front[0]}"), front[1]).from_config(config)
    answers[folder] = made(wav_BT)[0].contiguous()
assert not any(name.startswith("dawnchorus") for name in sys.modules)
save_file(answers, "answers.safetensors")
"""


def askers() -> list[tuple[str, str]]:
    """(front end, encoder whose config allows it)."""
    found = []
    for encoder in ENCODERS.names():
        allowed = get_args(get_type_hints(ENCODERS.config(encoder))["frontend"])
        found += [(name, encoder) for name in allowed]
    return sorted(found)


def config_of(name: str, encoder: str) -> EncoderConfig:
    config: EncoderConfig = ENCODERS.config(encoder)(frontend=name)
    return config


@pytest.fixture(params=askers(), ids="-".join)
def asked(request: pytest.FixtureRequest) -> tuple[EncoderConfig, Frontend]:
    config = config_of(*request.param)
    return config, build_frontend(config)


@pytest.fixture(params=["clip by clip", "whole batch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU may take clips one by one; other devices never do."""
    if request.param == "whole batch":
        for module in (frontend, kaldi, centred, minmax_mel):
            monkeypatch.setattr(module, "eager_cpu", lambda x: False, raising=False)


def sound() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    length_B = torch.tensor([40000, 23456, 7000, 300, 1])
    return 0.1 * torch.randn(5, 40000, generator=generator), length_B


def test_every_front_end_is_asked_for() -> None:
    assert {name for name, _ in askers()} == set(FRONTENDS)


def test_a_padded_clip_gives_what_it_gives_alone(
    asked: tuple[EncoderConfig, Frontend], way: None
) -> None:
    """Whatever lies behind its end; in float32; and nothing is written into the waveform."""
    _, made = asked
    wav_BT, length_B = sound()
    kept = wav_BT.clone()
    with torch.autocast("cpu", torch.bfloat16):
        x, steps_B = made(wav_BT, length_B)
    assert torch.equal(wav_BT, kept) and x.dtype == torch.float32 and x.isfinite().all()
    assert steps_B.dtype == torch.int64 and int(steps_B.max()) <= x.shape[1]
    assert torch.equal(steps_B, made.steps_for(length_B))
    for row, length in enumerate(length_B.tolist()):
        alone, steps_1 = made(wav_BT[row : row + 1, :length])
        assert int(steps_1) == int(steps_B[row])
        own = slice(0, int(steps_1))
        torch.testing.assert_close(x[row, own], alone[0, own], atol=1e-4, rtol=0)


def test_steps_and_bands_are_what_it_says(asked: tuple[EncoderConfig, Frontend]) -> None:
    config, made = asked
    x, steps_B = made(sound()[0][:1])
    assert made.hop_s == pytest.approx(config.hop_s)
    assert int(steps_B[0]) == pytest.approx(40000 / made.sample_rate_hz / made.hop_s, rel=0.02)
    assert made.sample_rate_hz == config.sample_rate_hz
    if made.band_hz is not None:
        assert list(made.band_hz) == sorted(set(made.band_hz)) and len(made.band_hz) == x.shape[2]
        assert made.band_hz[0] > 0 and made.band_hz[-1] < made.sample_rate_hz / 2
    # A model of bfloat16 hears in float32.
    assert torch.equal(made.to(torch.bfloat16)(sound()[0][:1])[0], x)


def test_it_hears_where_this_project_is_not(tmp_path: Path) -> None:
    """From the files that are shipped with it, in a process of its own."""
    expected = {}
    wav_BT = sound()[0]
    save_file({"wav_BT": wav_BT}, tmp_path / "sound.safetensors")
    for name, encoder in dict(askers()).items():
        config: Any = config_of(name, encoder)
        made = ENCODERS.thing(encoder)
        nothing: Any = made.__new__(made)  # only its class and its config are asked for
        nothing.__dict__["config"] = config
        model: Any = SimpleNamespace(encoder=nothing, frontend=build_frontend(config))
        (tmp_path / name).mkdir()
        for file in shipping.shipped_files(model):
            shipping.ship(file, tmp_path / name)
        lines = [" ".join((type(x).__module__.split(".")[-1], type(x).__name__))
                 for x in (config, model.frontend)]  # fmt: skip
        (tmp_path / name / "names").write_text("\n".join(lines))
        expected[name] = model.frontend(wav_BT)[0]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = load_file(tmp_path / "answers.safetensors")
    for name, theirs in answers.items():
        assert torch.equal(theirs, expected[name]), name
    assert set(answers) == set(FRONTENDS)
