"""What the tests of the encoder and of its parts share.

Shape legend: R rows, N tokens, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dawnchorus.trainer.encoders import beats_cpu
from dawnchorus.trainer.encoders.beats import Attention, BeatsTransformer


def keep_some(rows: int, tokens: int, kept: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    order_RN = torch.rand(rows, tokens, generator=generator).argsort(1)
    return order_RN[:, :kept].sort(1).values


@pytest.fixture(scope="session")
def random_keep() -> Callable[..., Tensor]:
    """Random places to keep, ascending: random_keep(rows, tokens, kept, seed) -> [R, K]."""
    return keep_some


@pytest.fixture(params=["cpu kernel", "sdpa"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute attention and position convolution on a CPU, for every BEATs."""
    if request.param == "cpu kernel":
        kernel, convolution = beats_cpu.attend_in_pieces, beats_cpu.convolve_by_fft
        monkeypatch.setattr(Attention, "cpu_kernel", staticmethod(kernel))
        monkeypatch.setattr(BeatsTransformer, "cpu_convolution", staticmethod(convolution))
    return str(request.param)
