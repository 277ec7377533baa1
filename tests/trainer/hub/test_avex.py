"""avex, the package of the published models, reads our exports and answers the same."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.model import BioEncoder

REPO = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.avex
USER = Path(__file__).with_name("avex_user.py")
# avex builds its classifier for width 768 whatever the encoder is. The position convolution has its
# published size: torch sums the norm of its weight in float32, and over 4 groups instead of 16 that
# sum is off by 1.6e-5 on CPUs without AVX-512 (against float64), with which all that follows moves.
WIDE: dict[str, Any] = {
    "dim": 768, "heads": 12, "ffn_dim": 128, "patch_dim": 64, "conv_pos": 128,
    "conv_pos_groups": 16,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "classifier": WIDE,
    "embeddings": {"mel_mean": 15.2913, "mel_std": 5.90532, "max_distance": 60},
}


@dataclass
class Answers:
    """Ours and theirs for the same sound."""

    kind: str
    model: BioEncoder
    sound: dict[str, torch.Tensor]
    theirs: dict[str, torch.Tensor]
    report: dict[str, Any]
    folder: Path
    random: Path
    """avex's own weights, saved by avex."""


@pytest.fixture(scope="module")
def all_answers(
    avex_python: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[..., BioEncoder],
) -> dict[str, Answers]:
    """Export both shapes, let avex load them and answer (in one process: it is slow to import)."""
    root = tmp_path_factory.mktemp("avex")
    generator = torch.Generator().manual_seed(11)
    sound = {
        "ten_s": torch.randn(2, 160000, generator=generator).mul(0.1),
        "five_s": torch.randn(3, 80000, generator=generator).mul(0.02),
    }
    save_file(sound, root / "sound.safetensors")
    jobs: list[dict[str, str]] = []
    models = {}
    for kind, encoder in SHAPES.items():
        models[kind] = make_run(root / kind, encoder=encoder)
        folder = export(root / kind, root / f"{kind}_repo")
        files = {
            "config": "train_config.yaml", "weights": "tiny-beats.safetensors",
            "label_map": "label_map.json",
        }  # fmt: skip
        jobs.append(
            {name: str(folder / file) for name, file in files.items()}
            | {name: str(root / f"{kind}.{name}") for name in ("answers", "report", "random")}
        )
    job = {"home": str(root / "home"), "sound": str(root / "sound.safetensors"), "jobs": jobs}
    (root / "jobs.json").write_text(json.dumps(job))
    done = subprocess.run(
        [str(avex_python), "-I", str(USER), str(root / "jobs.json")],
        cwd=root, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        kind: Answers(
            kind,
            models[kind],
            sound,
            load_file(root / f"{kind}.answers"),
            json.loads((root / f"{kind}.report").read_text()),
            root / f"{kind}_repo",
            root / f"{kind}.random",
        )
        for kind in SHAPES
    }


@pytest.fixture(params=list(SHAPES))
def answers(request: pytest.FixtureRequest, all_answers: dict[str, Answers]) -> Answers:
    """One shape."""
    return all_answers[request.param]


def test_tokens_and_embeddings_are_equal(answers: Answers) -> None:
    for name, wav_BT in answers.sound.items():
        with torch.no_grad():
            out = answers.model(wav_BT)
            embedding = answers.model.embed(wav_BT)
        theirs = answers.theirs[f"features.{name}"]
        # Single tokens differ by the rounding of two ways to compute the log-mel.
        torch.testing.assert_close(theirs, out.tokens_BND, rtol=0, atol=5e-5)
        torch.testing.assert_close(theirs.mean(1), embedding, rtol=0, atol=1e-5)
        assert embedding.std() > 0.1


def test_logits_are_equal_where_avex_has_a_classifier(answers: Answers) -> None:
    for name, wav_BT in answers.sound.items():
        theirs = answers.theirs[f"plain.{name}"]
        if answers.kind == "classifier":
            with torch.no_grad():
                ours = answers.model.logits(wav_BT)
            assert answers.report["classes"] == 3
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
        else:
            assert answers.report["classes"] is None
            assert torch.equal(theirs, answers.theirs[f"features.{name}"])


def test_nothing_was_left_random(answers: Answers) -> None:
    """avex says how much it matched, at a level that nobody sees; its two mel buffers follow from
    the config."""
    counts = [m for m in answers.report["messages"] if m.startswith("Checkpoint loaded")]
    assert len(counts) == 2
    for message in counts:
        matched, total = message.split()[2].split("/")
        assert int(total) - int(matched) == 2, message
        assert message.endswith("0 unexpected")


def test_label_map(answers: Answers) -> None:
    names = answers.model.labels or ()
    assert answers.report["mapping"] == {name: i for i, name in enumerate(names)}


def test_we_read_our_own_avex_files(answers: Answers, tmp_path: Path) -> None:
    for name in ("train_config.yaml", "tiny-beats.safetensors", "label_map.json"):
        (tmp_path / name).write_bytes((answers.folder / name).read_bytes())
    loaded = load_model(tmp_path)
    assert loaded.kind == "avex"
    ours = answers.model.state_dict()
    theirs = loaded.model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert (loaded.labels == answers.model.labels) == (answers.kind == "classifier")
    config = loaded.model.encoder.config
    assert config == answers.model.encoder.config


def test_we_read_what_avex_writes(answers: Answers, tmp_path: Path) -> None:
    """Its state dict, with its mel buffers and the bias table under every layer."""
    for name in ("train_config.yaml", "label_map.json"):
        (tmp_path / name).write_bytes((answers.folder / name).read_bytes())
    (tmp_path / "esp.safetensors").write_bytes(answers.random.read_bytes())
    loaded = load_model(tmp_path)
    assert (loaded.labels is not None) == (answers.kind == "classifier")
    for name, wav_BT in answers.sound.items():
        theirs = answers.theirs[f"random.{name}"]
        with torch.no_grad():
            if answers.kind == "classifier":
                ours = loaded.model.logits(wav_BT)
            else:
                ours = loaded.model(wav_BT).tokens_BND
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
