"""The second trainer of MAE and EAT still runs; docs/results.md compares its losses with ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.plain_trainer import log_mel, sounds, train


@pytest.mark.parametrize(("kind", "first"), [("mae", 1.5), ("eat", 27.0)])
def test_it_learns(kind: str, first: float) -> None:
    wavs = [0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    losses = train(kind, wavs, steps=6, batch=2, window=8000, seed=0)
    assert losses[0] == pytest.approx(first, rel=0.25)
    assert losses[-1] < losses[0]


def test_it_reads_the_shards(tone_dataset: Path) -> None:
    wavs = sounds(tone_dataset, set())
    assert wavs and all(wav.dim() == 1 for wav in wavs)
    assert log_mel(wavs[0]).shape[1] == 128
