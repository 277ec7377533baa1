"""The ridge probe equals scikit-learn's, and chooses its penalty as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeClassifier, RidgeCV
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.evaluation.config import load_config
from dawnchorus.trainer.evaluation.probes.ridge import Ridge
from dawnchorus.trainer.evaluation.probes.ridge_config import RidgeConfig
from dawnchorus.trainer.evaluation.splits import Fold

Floats = npt.NDArray[np.float32]
GRID = (0.3, 3.0, 30.0, 300.0)


def clips(count: int = 90, dim: int = 40, classes: int = 4) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """More features than some folds have clips, of very different scales, one of them constant."""
    rng = np.random.default_rng(0)
    truth = np.arange(count) % classes
    x = rng.standard_normal((count, dim)) + 0.4 * rng.standard_normal((classes, dim))[truth]
    x *= 10.0 ** rng.uniform(-2, 2, dim)
    x[:, 7] = 5.0
    return x.astype(np.float32), np.eye(classes, dtype=bool)[truth]


def fold(valid: int = 20) -> Fold:
    order = np.random.default_rng(1).permutation(90)
    return Fold("a", order[30 + valid :], order[30 : 30 + valid], order[:30])


def test_it_equals_scikit_learn_and_the_validation_part_chooses() -> None:
    x, hot = clips()
    part, truth = fold(), hot.argmax(1)
    result = Ridge(RidgeConfig(penalties=GRID)).measure(x, hot, [part], multi_label=False)
    fits = {a: make_pipeline(StandardScaler(), RidgeClassifier(alpha=a)) for a in GRID}
    for fit in fits.values():
        fit.fit(x[part.train].astype(np.float64), truth[part.train])
    on_valid = {a: fit.score(x[part.valid], truth[part.valid]) for a, fit in fits.items()}
    assert len(set(on_valid.values())) > 1
    best = max(GRID, key=lambda a: (on_valid[a], a))
    assert result.penalty_F == [best]
    assert result.valid_SF[0, 0] == pytest.approx(on_valid[best])
    assert result.test_SF[0, 0] == pytest.approx(fits[best].score(x[part.test], truth[part.test]))
    said = fits[best].predict(x[part.test]) == truth[part.test]
    assert result.hit_SN is not None and np.array_equal(result.hit_SN[0, part.test], said)
    summary = result.summary()
    assert summary["seeds"] == [0] and summary["std"] == 0.0 and "best_epoch_median" not in summary
    assert summary["penalty_per_fold"] == {"a": best}


def test_without_a_validation_part_the_left_out_clips_choose() -> None:
    x, hot = clips()
    part = replace(fold(), valid=np.empty(0, np.int64))
    config = RidgeConfig(penalties=GRID, standardise=False)
    result = Ridge(config).measure(x, hot, [part], multi_label=False)
    target = 2.0 * hot[part.train] - 1
    chosen = RidgeCV(GRID).fit(x[part.train].astype(np.float64), target)
    assert result.penalty_F == [chosen.alpha_] and np.isnan(result.valid_SF).all()
    right = chosen.predict(x[part.test]).argmax(1) == hot[part.test].argmax(1)
    assert result.test_SF[0, 0] == pytest.approx(right.mean())


def test_several_labels_are_scored_by_average_precision() -> None:
    x, hot = clips()
    hot |= np.roll(hot, 1, axis=1) & (np.arange(90) % 3 == 0)[:, None]
    part = fold()
    result = Ridge(RidgeConfig(penalties=(30.0,))).measure(x, hot, [part], multi_label=True)
    fit = make_pipeline(StandardScaler(), SklearnRidge(30.0))
    fit.fit(x[part.train].astype(np.float64), 2.0 * hot[part.train] - 1)
    expected = average_precision_score(hot[part.test], fit.predict(x[part.test]), average="macro")
    assert result.metric == "map" and result.hit_SN is None
    assert result.test_SF[0, 0] == pytest.approx(expected, abs=1e-6)


def test_what_it_cannot_take_is_refused() -> None:
    x, hot = clips()
    with pytest.raises(ValueError, match="features of one layer"):
        Ridge(RidgeConfig()).measure(np.stack([x, x], 1), hot, [fold()], multi_label=False)
    for wrong, said in (
        (
            "probe.name=rigde",
            r"probe: there is no probe of that name; there are: attentive, .*ridge",
        ),
        ("probe.penalties=[]", "penalties is empty"),
        ("probe.penalties=[0]", "penalties"),
        ("probe.epochs=4", r"probe\.epochs: there is no such key"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_config(["data=x", "probe.name=ridge", wrong])
    config = load_config(["data=x", "probe.name=ridge", "probe.penalties=[2,3]"])
    assert config.probe == RidgeConfig(penalties=(2.0, 3.0))
