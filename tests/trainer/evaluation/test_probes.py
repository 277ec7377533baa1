"""Linear probes: known answers, an independent implementation, determinism, speed."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from dawnchorus.trainer.evaluation.probes import fitting
from dawnchorus.trainer.evaluation.probes.base import ProbeResult
from dawnchorus.trainer.evaluation.probes.linear import Linear
from dawnchorus.trainer.evaluation.probes.linear_config import LayerMixConfig, LinearConfig
from dawnchorus.trainer.evaluation.probes.mlp import Mlp
from dawnchorus.trainer.evaluation.probes.mlp_config import MlpConfig
from dawnchorus.trainer.evaluation.splits import Fold

QUICK = LinearConfig(learning_rate=1e-2, epochs=30, schedule="cosine")

FAST = LinearConfig(learning_rate=1e-2, epochs=100, schedule="cosine")


def train_probes(
    x: npt.NDArray[np.float32],
    hot: npt.NDArray[np.bool_],
    folds: list[Fold],
    config: LinearConfig,
    *,
    multi_label: bool,
) -> ProbeResult:
    return Linear(config).measure(x, hot, folds, multi_label=multi_label)


def data(
    count: int = 120, classes: int = 4, dim: int = 16, *, distance: float = 1.0, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    centre = rng.standard_normal((classes, dim))
    x = rng.standard_normal((count, dim)) + distance * centre[truth]
    return x.astype(np.float32), np.eye(classes, dtype=bool)[truth]


def divide(count: int, folds: int = 3, valid: int = 16) -> list[Fold]:
    order = np.random.default_rng(9).permutation(count)
    parts = np.array_split(order, folds)
    result = []
    for i, test in enumerate(parts):
        rest = np.concatenate([p for k, p in enumerate(parts) if k != i])
        result.append(Fold(str(i), rest[valid:], rest[:valid], test))
    return result


@pytest.mark.parametrize("standardise", [True, False])
def test_separable_classes_are_separated(standardise: bool) -> None:
    x, hot = data(distance=4.0)
    result = train_probes(
        x, hot, divide(120), replace(QUICK, standardise=standardise), multi_label=False
    )
    assert result.metric == "accuracy"
    assert (result.test_SF == 1.0).all() and (result.valid_SF == 1.0).all()
    summary = result.summary()
    assert (summary["mean"], summary["std"], summary["fold_std"]) == (1.0, 0.0, 0.0)
    assert summary["n"] == 120 and summary["seeds"] == [0, 1, 2]


def test_shuffled_labels_give_chance() -> None:
    x, hot = data(count=400, distance=4.0)
    shuffled = hot[np.random.default_rng(2).permutation(400)]
    result = train_probes(x, shuffled, divide(400), QUICK, multi_label=False)
    # Standard error of an accuracy of 0.25 over 400 clips is 0.022.
    assert 0.25 - 0.08 < result.summary()["mean"] < 0.25 + 0.08


def test_equals_a_plain_linear_layer_trained_by_torch() -> None:
    """One job, spelled out with nn.Linear, F.cross_entropy and a loop; same start, same order."""
    x, hot = data(count=90, distance=0.7)
    fold = divide(90)[1]
    config = LinearConfig(epochs=12, seeds=3, learning_rate=3e-3, weight_decay=0.1)
    result = train_probes(x, hot, [fold], config, multi_label=False)

    draw = torch.Generator().manual_seed(
        fitting.job_seed(fitting.Job(0, 2, fold.train, fold.valid))
    )
    layer = nn.Linear(16, 4)
    with torch.no_grad():
        layer.weight.copy_((torch.rand(4, 16, generator=draw) * 2 - 1) / 4)
        layer.bias.copy_((torch.rand(4, 1, generator=draw) * 2 - 1).squeeze(1) / 4)
    mean, std = x[fold.train].mean(0), x[fold.train].std(0)
    z = torch.from_numpy((x - mean) / std)
    y = torch.from_numpy(hot.argmax(1))
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=0.1)
    best = (-1.0, np.inf, 0, 0.0)
    for epoch in range(1, 13):
        order = fold.train[torch.randperm(len(fold.train), generator=draw).numpy()]
        for i in range(0, len(order), 32):
            rows = torch.from_numpy(order[i : i + 32])
            optimiser.zero_grad()
            nn.functional.cross_entropy(layer(z[rows]), y[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            logit = layer(z)
        loss = nn.functional.cross_entropy(logit[fold.valid], y[fold.valid]).item()
        right = (logit.argmax(1) == y).numpy()
        score = right[fold.valid].mean()
        if score > best[0] or (score == best[0] and loss < best[1]):
            best = (score, loss, epoch, right[fold.test].mean())
    assert result.valid_SF[2, 0] == pytest.approx(best[0])
    assert result.epoch_SF[2, 0] == best[2]
    assert result.test_SF[2, 0] == pytest.approx(best[3])


def test_a_job_does_not_depend_on_its_company(monkeypatch: pytest.MonkeyPatch) -> None:
    x, hot = data(distance=0.6)
    folds = divide(120)
    # A smaller fold takes fewer steps per epoch, so it must run in a program of its own.
    folds[1] = replace(folds[1], train=folds[1].train[:30])
    together = train_probes(x, hot, folds, QUICK, multi_label=False)
    assert together.test_SF.std() > 0
    monkeypatch.setattr(fitting, "MEMORY_BYTES", 1)  # one job per program
    alone = train_probes(x, hot, folds, QUICK, multi_label=False)
    np.testing.assert_allclose(alone.test_SF, together.test_SF, atol=0.026)  # one clip of 40
    np.testing.assert_array_equal(alone.epoch_SF, together.epoch_SF)


def test_the_same_seeds_give_the_same_figures_and_others_do_not() -> None:
    x, hot = data(distance=0.6)
    first = train_probes(x, hot, divide(120), QUICK, multi_label=False)
    second = train_probes(x, hot, divide(120), QUICK, multi_label=False)
    np.testing.assert_array_equal(first.test_SF, second.test_SF)
    np.testing.assert_array_equal(first.epoch_SF, second.epoch_SF)
    assert len({tuple(row) for row in first.epoch_SF.tolist()}) > 1


def test_several_labels_are_scored_by_macro_map() -> None:
    rng = np.random.default_rng(4)
    hot = rng.random((150, 5)) < 0.25
    x = (hot @ rng.standard_normal((5, 24)) + 0.3 * rng.standard_normal((150, 24))).astype("f")
    folds = divide(150)
    result = train_probes(x, hot, folds, QUICK, multi_label=True)
    assert result.metric == "map" and result.score_SNC is not None
    assert result.summary()["mean"] > 0.95
    for s, f in itertools.product(range(3), range(3)):
        test = folds[f].test
        expected = average_precision_score(hot[test], result.score_SNC[s, test], average="macro")
        assert result.test_SF[s, f] == pytest.approx(expected)
    noise = train_probes(
        rng.standard_normal(x.shape).astype("f"), hot, divide(150), QUICK, multi_label=True
    )
    assert noise.summary()["mean"] < 0.45


def test_the_learned_mix_finds_the_layer_that_knows() -> None:
    rng = np.random.default_rng(1)
    good, hot = data(count=200, distance=1.5)
    layers = np.stack([rng.standard_normal(good.shape), good, rng.standard_normal(good.shape)], 1)
    layers = layers.astype(np.float32)
    config = LinearConfig(learning_rate=3e-2, epochs=60, schedule="cosine")
    mixed = train_probes(layers, hot, divide(200), config, multi_label=False)
    noise = train_probes(layers[:, 0], hot, divide(200), config, multi_label=False)
    assert mixed.layer_weights is not None and len(mixed.layer_weights) == 3
    assert sum(mixed.layer_weights) == pytest.approx(1.0)
    assert mixed.layer_weights[1] > 0.5
    assert mixed.summary()["mean"] > noise.summary()["mean"] + 0.4


def test_the_mix_of_equal_layers_is_the_layer() -> None:
    x, hot = data(distance=0.8)
    one = train_probes(x, hot, divide(120), QUICK, multi_label=False)
    mixed = train_probes(np.stack([x, x], 1), hot, divide(120), QUICK, multi_label=False)
    np.testing.assert_allclose(mixed.test_SF, one.test_SF, atol=0.026)


def test_no_validation_part_keeps_the_last_epoch() -> None:
    x, hot = data(distance=4.0)
    folds = [replace(f, valid=np.empty(0, dtype=np.int64)) for f in divide(120)]
    result = train_probes(x, hot, folds, QUICK, multi_label=False)
    assert (result.epoch_SF == 30).all() and np.isnan(result.valid_SF).all()
    assert result.summary()["valid_mean"] is None


def test_the_best_epoch_is_kept_not_the_last() -> None:
    x, hot = data(distance=4.0)
    # A rate this high ruins the weights in the end; an early epoch was good.
    config = LinearConfig(learning_rate=30.0, epochs=40, weight_decay=0.033)
    result = train_probes(x, hot, divide(120), config, multi_label=False)
    assert (result.epoch_SF < 40).any()
    assert result.summary()["mean"] > 0.9


def test_a_constant_feature_does_no_harm() -> None:
    x, hot = data(distance=4.0)
    x[:, 3] = 7.0
    result = train_probes(x, hot, divide(120), QUICK, multi_label=False)
    assert result.summary()["mean"] == 1.0


def test_rates_rise_and_fall_as_configured() -> None:
    rate = fitting.rates(LinearConfig(epochs=10, warmup_epochs=2, schedule="cosine"), 4)
    values = [rate(step) for step in range(40)]
    assert values[0] == pytest.approx(1e-3 / 8) and values[7] == pytest.approx(1e-3)
    assert values[8] == pytest.approx(1e-3)
    assert all(a > b for a, b in itertools.pairwise(values[8:]))
    assert values[-1] == pytest.approx(1e-5, rel=0.3)
    flat = fitting.rates(LinearConfig(epochs=10), 4)
    assert {flat(step) for step in range(40)} == {1e-3}


@pytest.mark.slow
def test_four_hundred_clips_take_seconds() -> None:
    x, hot = data(count=400, classes=10, dim=768)
    started = time.process_time()
    result = train_probes(x, hot, divide(400, 5, 64), FAST, multi_label=False)
    # About 2 s on one core of the machine this was written on; one clip at a time takes minutes.
    assert time.process_time() - started < 40
    assert result.test_SF.shape == (3, 5)


def test_hits_of_each_clip_are_what_the_accuracy_is_a_mean_of() -> None:
    x, hot = data(distance=0.7)
    folds = divide(120)
    result = train_probes(x, hot, folds[:2], QUICK, multi_label=False)
    assert result.hit_SN is not None
    for f, fold in enumerate(folds[:2]):
        assert result.hit_SN[:, fold.test].mean(1) == pytest.approx(result.test_SF[:, f])
    assert np.isnan(result.hit_SN[:, folds[2].test]).all()
    assert train_probes(x, hot, folds[:1], QUICK, multi_label=True).hit_SN is None


def test_the_mlp_equals_torchs_own_layers() -> None:
    x, hot = data(count=90, distance=0.7)
    fold = divide(90)[1]
    config = MlpConfig(hidden=(12, 6), dropout=0.0, epochs=6, warmup_epochs=2, clip=0.5)
    result = Mlp(config).measure(x, hot, [fold], multi_label=True)
    draw = torch.Generator().manual_seed(
        fitting.job_seed(fitting.Job(0, 1, fold.train, fold.valid))
    )
    net = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            for drawn in (layer.weight, layer.bias):
                shape = drawn.shape if drawn.dim() == 2 else (len(drawn), 1)
                values = (torch.rand(shape, generator=draw) * 2 - 1) / layer.in_features**0.5
                drawn.copy_(values.view_as(drawn))
    z = torch.from_numpy((x - x[fold.train].mean(0)) / x[fold.train].std(0))
    y = torch.from_numpy(hot).float()
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    rate, step, kept = fitting.rates(config, 2), 0, []
    for _ in range(6):
        order = fold.train[torch.randperm(len(fold.train), generator=draw).numpy()]
        for rows in (order[:32], order[32:]):
            optimiser.param_groups[0]["lr"] = rate(step)
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(net(z[rows]), y[rows]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimiser.step()
            step += 1
        kept.append(net(z[fold.test]).detach().numpy())
    assert result.score_SNC is not None and result.epoch_SF is not None
    expected = kept[result.epoch_SF[1, 0] - 1]
    np.testing.assert_allclose(result.score_SNC[1, fold.test], expected, atol=1e-5)


def test_dropout_follows_the_job_and_hidden_layers_learn_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8)).astype(np.float32)
    hot = np.eye(2, dtype=bool)[((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)]
    config = MlpConfig(hidden=(32,), epochs=60, learning_rate=1e-2, dropout=0.2)
    first = Mlp(config).measure(x, hot, divide(300), multi_label=False)
    assert first.summary()["mean"] > 0.85
    assert train_probes(x, hot, divide(300), QUICK, multi_label=False).summary()["mean"] < 0.7
    again = Mlp(config).measure(x, hot, divide(300), multi_label=False)
    np.testing.assert_array_equal(first.test_SF, again.test_SF)


def test_the_layer_mix_is_the_linear_probe_on_all_layers() -> None:
    x, hot = data(distance=0.8)
    layers = np.stack([x, x[:, ::-1], np.zeros_like(x)], 1)
    mixed = Linear(LayerMixConfig(epochs=8)).measure(layers, hot, divide(120), multi_label=False)
    same = LinearConfig(epochs=8, warmup_epochs=5, schedule="cosine", clip=1.0)
    by_linear = train_probes(layers, hot, divide(120), same, multi_label=False)
    np.testing.assert_array_equal(mixed.test_SF, by_linear.test_SF)
    assert mixed.layer_weights == by_linear.layer_weights


def test_the_noise_floor_is_how_far_two_seeds_are_apart() -> None:
    x, hot = data(distance=0.6)
    result = train_probes(x, hot, divide(120), QUICK, multi_label=False)
    a, b, c = result.test_SF.mean(1)
    expected = (abs(a - b) + abs(a - c) + abs(b - c)) / 3
    assert result.summary()["noise_floor"] == pytest.approx(expected)


def test_the_interval_of_map_draws_whole_groups() -> None:
    rng = np.random.default_rng(4)
    hot = rng.random((150, 5)) < 0.25
    x = (hot @ rng.standard_normal((5, 24)) + rng.standard_normal((150, 24))).astype("f")
    folds, group = divide(150), np.arange(150) // 3
    result = train_probes(x, hot, folds, QUICK, multi_label=True)
    found = result.interval(hot, group, folds, 100)
    assert found is not None and found[0] < result.summary()["mean"] < found[1] < found[0] + 0.25
    # Where a clip stands four times in its group, it tells no more than once.
    times = np.repeat(np.arange(150), 4)
    many = [replace(f, test=np.flatnonzero(np.isin(times, f.test))) for f in folds]
    assert result.score_SNC is not None
    repeated = replace(result, score_SNC=result.score_SNC[:, times])
    assert repeated.interval(hot[times], group[times], many, 100) == pytest.approx(found)
    assert result.interval(hot, np.zeros(150, np.int64), folds, 100) is None
