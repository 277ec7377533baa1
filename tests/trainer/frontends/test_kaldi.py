from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from dawnchorus.trainer import pooling
from dawnchorus.trainer.encoders import (
    base,
    base_config,
    beats,
    beats_config,
    efficientnet,
    efficientnet_config,
    hubert,
    hubert_config,
    ranges,
)
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.frontends import centred, frontend, mel_db, minmax_mel, waveform
from dawnchorus.trainer.frontends import kaldi as kaldi_module
from dawnchorus.trainer.frontends.kaldi import FLOOR, BeatsLogMel, EatLogMel, LogMel, mel_filters
from dawnchorus.trainer.registry import build_frontend

Kind = Literal["beats", "eat"]
SHIPPED = [
    frontend,
    kaldi_module,
    waveform,
    beats,
    beats_config,
    efficientnet,
    efficientnet_config,
    hubert,
    hubert_config,
    minmax_mel,
    centred,
    mel_db,
    base,
    base_config,
    ranges,
    pooling,
]
KINDS: dict[str, type[LogMel]] = {"beats": BeatsLogMel, "eat": EatLogMel}
RATE_HZ = 16000


def kaldi_log_mel(wav_T: Tensor, kind: Kind) -> Tensor:
    """What `torchaudio` makes of one clip, as the encoders' authors call it."""
    if kind == "beats":
        return kaldi.fbank(
            wav_T[None] * 2**15,
            num_mel_bins=128,
            sample_frequency=RATE_HZ,
            frame_length=25,
            frame_shift=10,
        )
    return kaldi.fbank(
        (wav_T - wav_T.mean())[None],
        htk_compat=True,
        window_type="hanning",
        num_mel_bins=128,
        use_energy=False,
        dither=0.0,
        frame_shift=10,
        sample_frequency=RATE_HZ,
    )


def log_mel(module: LogMel, wav_BT: Tensor, length_B: Tensor | None = None) -> Tensor:
    """The module's answer before normalisation."""
    mel_BTF, _ = module(wav_BT, length_B)
    return mel_BTF * (2 * module.std) + module.mean


def signals() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(3 * RATE_HZ) / RATE_HZ
    noise = torch.randn(len(time_s), generator=generator)
    clicks = torch.zeros(len(time_s))
    clicks[::1777] = 0.9
    return {
        "noise": 0.1 * noise,
        "one bit of noise": (noise.sign() + 1) / 2**16,
        "tone": 0.5 * torch.sin(2 * math.pi * 3000 * time_s),
        "chirp": 0.8 * torch.sin(2 * math.pi * (500 + 1200 * time_s) * time_s),
        "noise on an offset": 0.5 + 0.001 * noise,
        "clicks": clicks,
        "beyond full scale": 5.0 * noise,
        "silence": torch.zeros(len(time_s)),
    }


@pytest.mark.parametrize("kind", ["beats", "eat"])
@pytest.mark.parametrize("name", list(signals()))
def test_equals_kaldi(kind: Kind, name: str) -> None:
    wav_T = signals()[name]
    ours_TF = log_mel(KINDS[kind](), wav_T[None])[0]
    torch.testing.assert_close(ours_TF, kaldi_log_mel(wav_T, kind), atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["beats", "eat"])
def test_equals_kaldi_on_real_sound(kind: Kind, real_sound: Path) -> None:
    import soundfile

    files = sorted((real_sound / "esc10").rglob("*.ogg"))[::40]
    assert len(files) >= 5
    for file in files:
        # The rate is of no matter here, only that samples are of the world.
        wav_T = torch.from_numpy(soundfile.read(file, dtype="float32", stop=80000)[0])
        ours_TF = log_mel(KINDS[kind](), wav_T[None])[0]
        torch.testing.assert_close(ours_TF, kaldi_log_mel(wav_T, kind), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("bins", "rate_hz"), [(64, 16000), (128, 16000), (128, 32000)])
def test_filters_are_kaldis_to_the_bit(bins: int, rate_hz: int) -> None:
    n_fft = BeatsLogMel(sample_rate_hz=rate_hz).n_fft
    theirs_FS, _ = kaldi.get_mel_banks(bins, n_fft, float(rate_hz), 20.0, 0.0, 100.0, -500.0, 1.0)
    ours_SF = mel_filters(bins, n_fft, rate_hz)
    assert torch.equal(ours_SF[:-1], theirs_FS.t())
    assert not ours_SF[-1].any()


@pytest.mark.parametrize("kind", ["beats", "eat"])
def test_a_padded_clip_has_the_frames_it_has_alone(kind: Kind) -> None:
    module = KINDS[kind]()
    length_B = torch.tensor([40000, 399, 20011, 2800, 0])
    wav_BT = 0.1 * torch.randn(5, 40000, generator=torch.Generator().manual_seed(1)) + 0.01
    mel_BTF, frames_B = module(wav_BT, length_B)
    assert frames_B.tolist() == [248, 16, 123, 16, 16]
    for mel_TF, frames, wav_T, length in zip(mel_BTF, frames_B, wav_BT, length_B, strict=True):
        alone_BTF, alone_B = module(wav_T[None, :length])
        assert alone_B.item() == frames
        # The rest of a clip's own frames is silence (beats), 0 before normalising (eat).
        torch.testing.assert_close(mel_TF[:frames], alone_BTF[0, :frames], atol=1e-6, rtol=0)


def test_padding_is_silence_for_beats_and_zero_for_eat() -> None:
    wav_BT = torch.rand(1, 16000) - 0.5
    length_B = torch.tensor([8000])
    beats_TF = log_mel(BeatsLogMel(), wav_BT, length_B)[0]
    own = 1 + (8000 - 400) // 160
    torch.testing.assert_close(
        beats_TF[own + 3 :], torch.full_like(beats_TF[own + 3 :], math.log(FLOOR))
    )
    eat_TF = log_mel(EatLogMel(), wav_BT, length_B)[0]
    torch.testing.assert_close(eat_TF[own:], torch.zeros_like(eat_TF[own:]), atol=1e-5, rtol=0)
    assert eat_TF[own - 1].abs().min() > 0


@pytest.mark.parametrize("kind", ["beats", "eat"])
def test_pieces_equal_one_pass(kind: Kind) -> None:
    module = KINDS[kind]()
    for clips, samples in ((2, 20 * RATE_HZ), (30, RATE_HZ)):
        wav_BT = 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(2))
        length_B = torch.full((clips,), samples)
        whole_BTF = module._log_mel(module._frames(wav_BT, length_B))
        torch.testing.assert_close(module(wav_BT)[0], whole_BTF, atol=1e-6, rtol=0)


def test_float32_under_autocast() -> None:
    module, wav_BT = BeatsLogMel(), 0.1 * torch.randn(2, 16000)
    with torch.autocast("cpu", torch.bfloat16):
        mel_BTF, _ = module(wav_BT)
    assert mel_BTF.dtype == torch.float32
    assert torch.equal(mel_BTF, module(wav_BT)[0])


def test_the_input_is_left_as_it_was() -> None:
    for kind in ("beats", "eat"):
        wav_BT = torch.rand(2, 16000)
        before_BT = wav_BT.clone()
        KINDS[kind]()(wav_BT, torch.tensor([16000, 5000]))
        assert torch.equal(wav_BT, before_BT)


def test_numbers_come_from_the_encoders_config() -> None:
    config = BeatsConfig(frontend="eat", mel_mean=-4.268, mel_std=4.569)
    module = build_frontend(config)
    mel_BTF, _ = module(torch.rand(1, 16000) - 0.5)
    assert isinstance(module, EatLogMel)
    expected_BTF = (log_mel(EatLogMel(), torch.zeros(1, 16000)) + 4.268) / (2 * 4.569)
    silent_BTF, _ = module(torch.zeros(1, 16000))
    torch.testing.assert_close(silent_BTF, expected_BTF)
    assert mel_BTF.shape == (1, 98, 128)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_reach_it(dtype: torch.dtype) -> None:
    wav_BT = 0.1 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    expected_BTF, _ = BeatsLogMel()(wav_BT)
    model = torch.nn.Sequential(BeatsLogMel(), torch.nn.Linear(2, 2)).to(dtype)
    assert model[1].weight.dtype == dtype
    assert torch.equal(model[0](wav_BT)[0], expected_BTF)
    assert BeatsLogMel().to("meta", dtype).window_W.device.type == "meta"


def test_what_a_checkpoint_holds() -> None:
    assert set(BeatsLogMel().state_dict()) == {"window_W", "mel_SF"}


@pytest.mark.parametrize("wav", [torch.zeros(100), torch.zeros(1, 100, dtype=torch.int16)])
def test_other_input_is_refused(wav: Tensor) -> None:
    with pytest.raises(ValueError, match="floating point"):
        BeatsLogMel()(wav)


@pytest.mark.parametrize("module", SHIPPED)
def test_shipped_files_import_torch_torchaudio_and_each_other(module: object) -> None:
    import sys

    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {str(node.module).split(".")[0] for node in imports if not node.level}
    assert names <= {"torch", "torchaudio"} | set(sys.stdlib_module_names)
    shipped = {Path(str(module.__file__)).stem for module in SHIPPED}  # type: ignore[attr-defined]
    assert {node.module for node in imports if node.level} <= shipped
