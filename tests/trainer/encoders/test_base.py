"""Attention with a mask.

Shape legend: B clips, H heads, L queries, S keys, C channels per head.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dawnchorus.trainer.encoders.base import attend

ROOT = Path(__file__).parents[3]


def qkv(length: int = 7, keys: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q_BHLC = torch.randn(2, 3, length, 8, generator=generator)
    k_BHSC, v_BHSC = torch.randn(2, 2, 3, keys, 8, generator=generator)
    return q_BHLC, k_BHSC, v_BHSC


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    score = q.double() @ k.double().mT / 8**0.5
    if mask is not None:
        score = score.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score + mask
    return (score.softmax(-1) @ v.double()).to(q.dtype)


def masks() -> dict[str, Tensor | None]:
    keys_BS = torch.arange(9) < torch.tensor([[4], [9]])
    padding = torch.zeros(2, 1, 1, 9).masked_fill(~keys_BS[:, None, None], -torch.inf)
    bias = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    return {"none": None, "bool": keys_BS[:, None, None], "padding": padding, "bias": bias}


@pytest.mark.parametrize("name", masks())
def test_it_is_attention(name: str) -> None:
    q, k, v = qkv()
    mask = masks()[name]
    torch.testing.assert_close(attend(q, k, v, mask), by_hand(q, k, v, mask), atol=1e-6, rtol=0)

    class Attend(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return attend(q, k, v, mask)

    graph = torch.export.export(Attend(), (q, k, v, mask)).module()
    torch.testing.assert_close(graph(q, k, v, mask), attend(q, k, v, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_mask_is_cast_to_the_queries(dtype: torch.dtype) -> None:
    q, k, v = (z.to(dtype) for z in qkv())
    out = attend(q, k, v, masks()["bias"])
    assert out.dtype == dtype
    expected = by_hand(q, k, v, masks()["bias"])
    torch.testing.assert_close(out, expected, atol=0.03, rtol=0)


class Kernels(TorchFunctionMode):
    """Which kernels may be taken at every call of torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, bool]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            cuda = torch.backends.cuda
            self.seen.append(
                {
                    "cudnn": cuda.cudnn_sdp_enabled(),
                    "flash": cuda.flash_sdp_enabled(),
                    "efficient": cuda.mem_efficient_sdp_enabled(),
                    "math": cuda.math_sdp_enabled(),
                }
            )
        return function(*args, **(kwargs or {}))


def test_with_a_mask_cudnn_is_out_and_comes_back() -> None:
    q, k, v = qkv()
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with Kernels() as kernels:
        attend(q, k, v, masks()["bias"])
    assert kernels.seen == [{"cudnn": False, "flash": True, "efficient": True, "math": True}]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("length", [192, 448])
def test_gradients_are_finite_where_cudnn_gives_nan(length: int) -> None:
    """L % 128 == 64 and rows whose logsumexp is below -88.7 (pytorch#196678)."""
    inputs = [
        torch.randn(2, 4, length, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    mask = torch.full((1, 4, length, length), -200.0, device="cuda")
    attend(*inputs, mask).sum().backward()
    assert all(z.grad is not None and bool(z.grad.isfinite().all()) for z in inputs)


def test_dropout_drops_and_keeps_the_mean() -> None:
    q, k, _ = qkv(400, 400)
    ones = torch.ones(2, 3, 400, 8)
    torch.manual_seed(0)
    out = attend(q, k, ones, torch.zeros(1, 1, 1, 400), 0.5)
    assert out.std() > 0.01
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


def test_it_is_one_graph_when_compiled() -> None:
    q, k, v = qkv()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    mask = masks()["bias"]
    torch.testing.assert_close(compiled(q, k, v, mask), attend(q, k, v, mask), atol=1e-6, rtol=0)


def test_nobody_calls_torchs_attention_past_it() -> None:
    call = re.compile(r"scaled_dot_product_attention\(|MultiheadAttention\(|flex_attention\(")
    files = [p for folder in ("trainer", "scripts") for p in (ROOT / folder).rglob("*.py")]
    found = {str(p.relative_to(ROOT)) for p in files if call.search(p.read_text("utf-8"))}
    assert found == {"trainer/encoders/base.py"}
