from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dawnchorus.trainer.data.order import (
    FINEST_SHARE,
    Mixture,
    PositionOrder,
    Shuffle,
    integer_shares,
    uniforms,
)

NOISY = {"noise_sizes": [50, 7], "noise_weights": [1.0, 3.0], "noise_prob": 0.3}


def order_of(
    sizes: Sequence[int] = (48, 20, 9001), seed: int = 5, **noise: object
) -> PositionOrder:
    return PositionOrder(sizes, [float(n) for n in sizes], seed=seed, **noise)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the mixture


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=12))
def test_every_prefix_holds_each_share_to_within_one(weights: list[float]) -> None:
    check_prefixes(weights)


@settings(max_examples=4, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6))
def test_every_prefix_of_awkward_weights_too(weights: list[float]) -> None:
    check_prefixes(weights)


def check_prefixes(weights: list[float]) -> None:
    mixture = Mixture(weights)
    round_ = mixture.round
    sources = np.array([mixture[k][0] for k in range(round_)])
    k = np.arange(1, round_ + 1)
    for i, quota in enumerate(mixture.quotas):
        counts = np.cumsum(sources == i)
        # Whole numbers: |count - k quota / round| < 1, without rounding.
        assert np.abs(counts * round_ - k * quota).max() < round_
        assert counts[-1] == quota  # so the next round begins like the first


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_shares_are_exact_where_they_can_be_and_else_the_nearest(weights: list[int]) -> None:
    quotas = integer_shares(weights)
    total, size = sum(weights), sum(quotas)
    common = np.lcm.reduce([Fraction(w, total).denominator for w in weights])
    for weight, quota in zip(weights, quotas, strict=True):
        error = abs(Fraction(quota, size) - Fraction(weight, total))
        assert quota >= 1
        if common <= FINEST_SHARE:
            assert error == 0
        else:
            assert error < Fraction(len(weights), FINEST_SHARE)


def test_decimal_weights_mean_what_was_written() -> None:
    assert integer_shares([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert integer_shares([70, 20, 10]) == (7, 2, 1)
    assert integer_shares([3.5]) == (1,)
    with pytest.raises(ValueError, match="positive"):
        integer_shares([1.0, 0.0])


def test_ranks_count_up_over_rounds_and_drawn_agrees() -> None:
    mixture = Mixture([5, 3, 1])
    seen = [0, 0, 0]
    for position in range(100):
        assert [mixture.drawn(position, i) for i in range(3)] == seen
        source, rank = mixture[position]
        assert rank == seen[source]
        seen[source] += 1


# ------------------------------------------------------------------ clips


@pytest.mark.parametrize("size", [1, 2, 7, 400, 8191, 8192, 10007])
def test_an_epoch_has_every_clip_once_and_epochs_differ(size: int) -> None:
    shuffle = Shuffle(size, seed=11)
    first, second = ([shuffle[e * size + i] for i in range(size)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(size))
    if size > 2:
        assert first != second
        assert first != list(range(size))


def test_every_source_goes_through_its_clips_evenly() -> None:
    order = order_of((48, 20, 9001))
    draws = order.draws(0, 3 * sum(order.sizes))
    for source, size in enumerate(order.sizes):
        clips = [d.clip for d in draws if d.source == source]
        for epoch in range(len(clips) // size):
            assert sorted(clips[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert order.epochs(3 * sum(order.sizes)) == (3.0, 3.0, 3.0)


def test_sources_of_one_size_and_other_seeds_have_other_orders() -> None:
    order = order_of((100, 100))
    draws = order.draws(0, 200)
    a, b = ([d.clip for d in draws if d.source == s] for s in (0, 1))
    other = [d.clip for d in order_of((100, 100), seed=6).draws(0, 200) if d.source == 0]
    assert a != b
    assert a != other


# ------------------------------------------------------------------ purity


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20), st.integers(0, 2**64))
def test_a_draw_depends_on_nothing_but_seed_and_position(positions: list[int], seed: int) -> None:
    one, other = order_of(seed=seed, **NOISY), order_of(seed=seed, **NOISY)
    expected = {p: one[p] for p in positions}
    for position in reversed(positions):
        other.draws(position // 2, 3)  # asking for something else first changes nothing
        assert other[position] == expected[position]
        assert other.draws(max(0, position - 2), 5)[min(2, position)] == expected[position]


def test_another_process_draws_the_same() -> None:
    code = (
        "import pickle, sys; order = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(pickle.dumps(order.draws(123, 40)))"
    )
    order = order_of(**NOISY)
    answer = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(order), capture_output=True, check=True
    )
    assert answer.stderr == b""
    assert pickle.loads(answer.stdout) == order.draws(123, 40)


def test_the_sequence_is_the_one_that_old_runs_were_trained_on() -> None:
    """A change here means that no run can be continued across it: say so in the decision log."""
    order = PositionOrder((48, 20, 9001), [1.0, 2.0, 3.0], seed=5, **NOISY)  # type: ignore[arg-type]
    draws = order.draws(1000, 6)
    found = [(d.source, d.clip, round(d.window_u, 6), d.noisy, d.noise_clip) for d in draws]
    assert found == GOLDEN


GOLDEN = [
    (1, 14, 0.453295, True, 0),
    (2, 6304, 0.008557, True, 3),
    (2, 8385, 0.705254, False, 4),
    (1, 2, 0.699769, False, 3),
    (2, 4837, 0.40756, False, 3),
    (0, 26, 0.584802, False, 0),
]


# ------------------------------------------------------------------ randomness


def test_uniform_numbers_are_uniform_and_lanes_independent() -> None:
    u_BL = uniforms(3, 0, 40_000)
    assert 0 <= u_BL.min() < u_BL.max() < 1
    assert np.abs(u_BL.mean(0) - 0.5).max() < 0.008
    assert np.abs(u_BL.var(0) - 1 / 12).max() < 0.002
    correlation = np.corrcoef(np.vstack([u_BL.T, np.roll(u_BL, 1, axis=0).T]))
    assert np.abs(correlation - np.eye(16)).max() < 0.025


def test_noise_comes_as_often_and_as_loud_as_asked() -> None:
    draws = order_of(seed=1, **NOISY, snr_db=(-10.0, 20.0)).draws(0, 20_000)
    noisy = [d for d in draws if d.noisy]
    snr = np.array([d.snr_db for d in noisy])
    assert abs(len(noisy) / len(draws) - 0.3) < 0.015
    assert -10 <= snr.min() < -9.9
    assert 19.9 < snr.max() <= 20
    assert abs(snr.mean() - 5) < 0.5
    assert all(np.isinf(d.snr_db) for d in draws if not d.noisy)
    from_second = np.array([d.noise_source for d in noisy])
    assert abs(from_second.mean() - 0.75) < 0.03
    for source, size in enumerate(NOISY["noise_sizes"]):  # type: ignore[arg-type, var-annotated]
        assert {d.noise_clip for d in noisy if d.noise_source == source} == set(range(size))


def test_noise_changes_neither_clips_nor_windows() -> None:
    quiet, noisy = order_of().draws(0, 200), order_of(**NOISY).draws(0, 200)
    assert [d[:4] for d in quiet] == [d[:4] for d in noisy]
    assert not any(d.noisy for d in quiet)


def test_without_noise_sources_there_is_no_noise() -> None:
    assert not any(d.noisy for d in order_of(noise_prob=1.0).draws(0, 50))


# ------------------------------------------------------------------ manners


def test_the_shuffle_library_leaves_no_trace_in_the_log() -> None:
    code = (
        "import logging; from dawnchorus.trainer.data.order import Shuffle; Shuffle(10000, 1)[5];"
        "assert logging.getLogger().handlers == [], logging.getLogger().handlers;"
        "import absl.logging; assert absl.logging.get_verbosity() == absl.logging.WARNING,"
        " absl.logging.get_verbosity()"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        order_of(seed=-1)


def test_clips_that_are_drawn_several_times_an_epoch() -> None:
    clips = np.array([0, 1, 1, 1, 2], dtype=np.int32)
    order = PositionOrder([3, 2], [5.0, 2.0], seed=5, drawn_clips=[clips, None])
    draws = order.draws(0, 3 * 7)
    assert Counter(d.clip for d in draws if d.source == 0) == {0: 3, 1: 9, 2: 3}
    assert Counter(d.clip for d in draws if d.source == 1) == {0: 3, 1: 3}
    assert order.epochs(3 * 7) == (3.0, 3.0)
    assert len({d.window_u for d in draws}) == len(draws)
    assert [order[d.position] for d in draws] == draws
