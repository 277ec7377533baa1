"""Pooling: the numbers of numpy, whatever the padding holds, and gradients that are numbers."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.pooling import STATISTICS, Pooling, pool, pooling_of

COUNTS = (7, 1, 4)
OVER_TOKENS = {name: times for name, times in STATISTICS.items() if name != "cls"}


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    """Three clips of 7, 1 and 4 tokens; the padding holds NaN and large numbers."""
    tok_BND = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    valid_BN = torch.arange(7) < torch.tensor(COUNTS)[:, None]
    tok_BND[1, 1:], tok_BND[2, 4:] = torch.nan, 1e30
    return tok_BND, valid_BN


@pytest.mark.parametrize("pooling", OVER_TOKENS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_statistics_are_those_of_numpy_on_the_valid_tokens(
    pooling: Pooling, dtype: torch.dtype
) -> None:
    tok_BND, valid_BN = ragged()
    tok_BND = tok_BND.to(dtype)
    found = pool(tok_BND, valid_BN, pooling)
    assert found.shape == (3, 5 * STATISTICS[pooling])
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for b, count in enumerate(COUNTS):
        tokens = tok_BND[b, :count].double().numpy()
        right = [tokens.mean(0), tokens.std(0), tokens.max(0)][: STATISTICS[pooling]]
        np.testing.assert_allclose(found[b].double(), np.concatenate(right), rtol=2e-6, atol=2e-5)


def test_each_pooling_begins_with_the_one_of_fewer_numbers() -> None:
    tok_BND, valid_BN = ragged()
    widest = pool(tok_BND, valid_BN, "mean_std_max")
    for pooling, times in OVER_TOKENS.items():
        torch.testing.assert_close(pool(tok_BND, valid_BN, pooling), widest[:, : 5 * times])


def test_gradients_are_finite_where_nothing_varies_and_where_nothing_is_valid() -> None:
    tok_BND = torch.ones(3, 4, 2, requires_grad=True)
    valid_BN = torch.tensor([[True] * 4, [True, False, False, False], [False] * 4])
    pooled = pool(tok_BND, valid_BN, "mean_std_max")
    assert pooled[:2, 2:4].eq(0).all() and pooled[2].eq(0).all()
    pooled.sum().backward()
    assert tok_BND.grad is not None and tok_BND.grad.isfinite().all()


def test_the_clips_own_token_is_the_first() -> None:
    tok_BND, valid_BN = ragged()
    assert torch.equal(pool(tok_BND, valid_BN, "cls"), tok_BND[:, 0])
    assert set(get_args(Pooling)) == set(STATISTICS) == {*OVER_TOKENS, "cls"}


def test_an_evaluation_can_ask_for_every_pooling_that_all_rows_have() -> None:
    assert get_args(get_type_hints(EvaluateConfig)["pooling"]) == tuple(OVER_TOKENS)
    with pytest.raises(ValueError, match="'median'; it can be mean, mean_std"):
        pool(*ragged(), "median")  # type: ignore[arg-type]


def test_a_heads_width_says_its_pooling() -> None:
    for pooling, times in OVER_TOKENS.items():
        assert pooling_of(48 * times, 48) == pooling
    with pytest.raises(ValueError, match="48 channels gives 100"):
        pooling_of(100, 48)
