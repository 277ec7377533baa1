"""The exported folder on a machine that has transformers and not us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.model import BioEncoder

pytest.importorskip("transformers", reason="transformers is not installed (extra: export)")

STRANGER = Path(__file__).with_name("stranger.py")
KINDS = ("with labels", "without labels")


@dataclass
class Visit:
    """What the other machine answered."""

    model: BioEncoder
    wav_BT: torch.Tensor
    length_B: torch.Tensor
    answers: dict[str, torch.Tensor]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def visits(
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[..., BioEncoder],
    clips: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, Visit]:
    """Export both kinds, hand them over to `stranger.py`, collect the answers."""
    root = tmp_path_factory.mktemp("visit")
    wav_BT, length_B = clips
    save_file({"wav_BT": wav_BT, "length_B": length_B}, root / "sound.safetensors")
    models, jobs = {}, []
    for kind in KINDS:
        labelled = kind == "with labels"
        models[kind] = make_run(root / kind / "run", **({} if labelled else {"labels": None}))
        jobs.append(
            {
                "folder": str(export(root / kind / "run", root / kind / "tiny.v1")),
                "sound": str(root / "sound.safetensors"), "labels": labelled,
                "resaved": str(root / kind / "resaved"), "answers": str(root / kind / "answers"),
                "report": str(root / kind / "report"),
            }
        )  # fmt: skip
    (root / "jobs.json").write_text(json.dumps({"home": str(root / "home"), "jobs": jobs}))
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", str(STRANGER), str(root / "jobs.json")],
        cwd=elsewhere, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        kind: Visit(
            models[kind],
            wav_BT,
            length_B,
            load_file(root / kind / "answers"),
            json.loads((root / kind / "report").read_text()),
        )
        for kind in KINDS
    }


@pytest.fixture(params=KINDS)
def visit(request: pytest.FixtureRequest, visits: dict[str, Visit]) -> Visit:
    """One kind."""
    return visits[request.param]


def test_nothing_of_ours_was_needed(visit: Visit) -> None:
    assert visit.report["blocked"] == []
    assert visit.report["modules"] == []


def test_every_tensor_is_loaded_as_it_is(visit: Visit) -> None:
    ours = visit.model.state_dict()
    theirs = {k[6:]: v for k, v in visit.answers.items() if k.startswith("state.")}
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert visit.report["training"] is False


def test_outputs_equal_the_trainers(visit: Visit) -> None:
    with torch.no_grad():
        out = visit.model(visit.wav_BT, visit.length_B, layers=True)
        embedding = visit.model.embed(visit.wav_BT, visit.length_B)
    assert torch.equal(visit.answers["token_mask"].bool(), out.valid_BN)
    valid = out.valid_BN
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(visit.answers["pooler_output"], embedding, **close)
    torch.testing.assert_close(
        visit.answers["last_hidden_state"][valid], out.tokens_BND[valid], **close
    )
    for i, layer in enumerate(out.layers or []):
        torch.testing.assert_close(visit.answers[f"layer.{i}"][valid], layer[valid], **close)
    assert "layer.2" in visit.answers
    assert embedding.std() > 0.1  # or equality would say little


def test_logits(visit: Visit) -> None:
    if visit.model.head is None:
        assert "logits" not in visit.answers
        return
    with torch.no_grad():
        logits = visit.model.logits(visit.wav_BT, visit.length_B)
    torch.testing.assert_close(visit.answers["logits"], logits, rtol=0, atol=1e-5)
    first = visit.report["pipeline"][0]
    assert visit.model.labels is not None
    assert first["label"] == visit.model.labels[int(logits[0].argmax())]
    assert first["score"] == pytest.approx(float(logits[0].max().sigmoid()), abs=1e-5)
    shape, std = visit.report["new_head"]
    assert shape == [5, 48]
    assert 0.01 < std < 0.04


def test_padded_clips_give_what_they_give_alone(visit: Visit) -> None:
    for b in range(len(visit.length_B)):
        torch.testing.assert_close(
            visit.answers["pooler_output"][b], visit.answers[f"alone.{b}"][0], rtol=0, atol=1e-5
        )


def test_feature_extractor_makes_the_same_batch(visit: Visit) -> None:
    torch.testing.assert_close(
        visit.answers["extracted"], visit.answers["pooler_output"], rtol=0, atol=1e-5
    )


def test_half_precision_keeps_the_front_end(visit: Visit) -> None:
    assert visit.report["half"] == ["torch.float32", "torch.bfloat16"]
    assert "half_error" not in visit.report, visit.report["half_error"]
    difference = (visit.answers["half"] - visit.answers["pooler_output"]).abs().max()
    assert difference < 0.1


def test_wrong_input_is_refused(visit: Visit) -> None:
    assert "pad on the right" in visit.report["left_padding"]
    assert "[clips, samples]" in visit.report["one_clip"]
    assert visit.report["without_states"] is True
    assert visit.report["tuple"] is True


def test_saved_again_it_is_the_same(visit: Visit) -> None:
    torch.testing.assert_close(
        visit.answers["resaved"], visit.answers["pooler_output"], rtol=0, atol=1e-6
    )


def test_a_partly_random_encoder_is_an_error(visit: Visit) -> None:
    assert "missing encoder.encoder.layers.1.fc1.weight" in visit.report["partly_random"]


def test_safetensors_only(tmp_path: Path, make_run: Callable[..., BioEncoder]) -> None:
    make_run(tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "out")
    suffixes = {path.suffix for path in folder.rglob("*")}
    assert suffixes == {".safetensors", ".json", ".yaml", ".md", ".py", ""}  # "": LICENSE
