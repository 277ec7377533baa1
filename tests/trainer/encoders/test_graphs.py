"""EfficientNet, HuBERT and MAE as graphs for other runtimes: any number of clips, any length.

Shape legend: B clips, T samples.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dawnchorus.trainer.model import BioEncoder

TINY: dict[str, dict[str, Any]] = {
    "efficientnet": {"width": 0.25, "depth": 0.3, "dim": 32},
    "hubert": {"layers": 1, "dim": 32, "ffn_dim": 48, "heads": 2, "conv_dim": 16, "conv_pos": 16,
               "conv_pos_groups": 4},
    "mae": {"name": "vit", "layers": 1, "dim": 32, "ffn_dim": 48, "heads": 2, "norm": "pre",
            "qk_norm": True, "frontend": "mel_db"},
}  # fmt: skip


class Embedder(nn.Module):
    """Waveforms and lengths to embeddings."""

    def __init__(self, model: BioEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """The mean over the valid tokens."""
        return self.model.embed(wav_BT, length_B)


def batch(clips: int, samples: int) -> tuple[Tensor, Tensor]:
    length_B = torch.randint(samples // 2, samples + 1, (clips,))
    length_B[0] = samples
    return 0.1 * torch.randn(clips, samples), length_B


@pytest.mark.parametrize("name", TINY)
def test_a_graph_answers_as_the_model(name: str) -> None:
    model = Embedder(BioEncoder.from_config({"name": name, **TINY[name]}).eval())
    clips, samples = torch.export.Dim("clips"), torch.export.Dim("samples")
    shapes = {"wav_BT": {0: clips, 1: samples}, "length_B": {0: clips}}
    graph = torch.export.export(model, batch(3, 20000), dynamic_shapes=shapes).module()
    # Shorter than what a token hears, than two tokens; longer.
    for count, size in ((1, 300), (2, 500), (3, 5300), (1, 33000)):
        given = batch(count, size)
        with torch.no_grad():
            torch.testing.assert_close(graph(*given), model(*given), atol=1e-5, rtol=0)
