"""The exported model as a graph for other runtimes: `torch.export` and ONNX, any batch and length.

Shape legend: B clips, T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.model import BioEncoder

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (extra: export)"
)

# torch 2.8 cannot prove what a length of its own does to the grid of patches (docs/install.md).
pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.8."), reason="graphs of any length need torch 2.9"
)

# Shorter than a window of 25 ms, than 16 frames (2800 samples), than two columns (5360); longer.
SAMPLES = (300, 1000, 2799, 5000, 16000, 70001)


VIT = {"name": "vit", "layers": 2, "dim": 48, "ffn_dim": 96, "heads": 4}
KINDS: dict[str, dict[str, Any]] = {
    "beats": {},
    "eat": {"encoder": VIT, "pooling": "cls"},
}


@pytest.fixture(scope="module", params=KINDS)
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[..., BioEncoder],
) -> torch.nn.Module:
    """As somebody else loads it."""
    root = tmp_path_factory.mktemp("graphs")
    make_run(root / "run", **KINDS[request.param])
    folder = export(root / "run", root / "out")
    loaded: torch.nn.Module = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    return loaded.eval()


def batch(clips: int, samples: int) -> tuple[Tensor, Tensor]:
    """Clips padded on the right; the first one fills the batch."""
    generator = torch.Generator().manual_seed(samples)
    length_B = torch.randint(samples // 2, samples + 1, (clips,), generator=generator)
    length_B[0] = samples
    wav_BT = 0.1 * torch.randn(clips, samples, generator=generator)
    return wav_BT.masked_fill(torch.arange(samples) >= length_B[:, None], 0.0), length_B


def mask_of(length_B: Tensor, samples: int) -> Tensor:
    return (torch.arange(samples) < length_B[:, None]).long()


def test_torch_export_with_a_mask_and_a_named_length(model: torch.nn.Module) -> None:
    clips, samples = torch.export.Dim("clips"), torch.export.Dim("samples")
    wav_BT, length_B = batch(3, 20000)
    axes = {0: clips, 1: samples}
    graph: Any = torch.export.export(
        model,
        (wav_BT, mask_of(length_B, 20000)),
        dynamic_shapes={"input_values": axes, "attention_mask": axes},
    ).module()
    for count, size in zip((1, 2, 3, 1, 4, 2), SAMPLES, strict=True):
        wav_BT, length_B = batch(count, size)
        with torch.no_grad():
            theirs = graph(wav_BT, mask_of(length_B, size))
            ours = model(wav_BT, lengths=length_B)
        assert theirs.last_hidden_state.shape == ours.last_hidden_state.shape
        assert torch.equal(theirs.token_mask, ours.token_mask)
        for name in ("pooler_output", "logits"):
            torch.testing.assert_close(theirs[name], ours[name], atol=1e-5, rtol=0)


def test_onnx(model: torch.nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: onnx)")
    runtime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed (extra: onnx)"
    )
    any_size = torch.export.Dim.DYNAMIC
    wav_BT, length_B = batch(3, 20000)
    torch.onnx.export(
        model,
        (),
        tmp_path / "model.onnx",
        kwargs={"input_values": wav_BT, "lengths": length_B},
        input_names=["input_values", "lengths"],
        output_names=["tokens", "embedding", "logits", "token_mask"],
        dynamic_shapes={"input_values": {0: any_size, 1: any_size}, "lengths": {0: any_size}},
        dynamo=True,
        verbose=False,
    )
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for count, size in zip((1, 2, 3, 1, 4, 2), SAMPLES, strict=True):
        wav_BT, length_B = batch(count, size)
        feed = {"input_values": wav_BT.numpy(), "lengths": length_B.numpy()}
        tokens, embedding, logits, valid = map(torch.from_numpy, session.run(None, feed))
        with torch.no_grad():
            ours = model(wav_BT, lengths=length_B)
        assert torch.equal(valid, ours.token_mask)
        torch.testing.assert_close(embedding, ours.pooler_output, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits, ours.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(tokens[valid], ours.last_hidden_state[valid], atol=5e-5, rtol=0)
