"""Our measures and avex 1.4.0's own functions on the same features."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dawnchorus.trainer.evaluation.clustering import evaluate_clustering
from dawnchorus.trainer.evaluation.config import ClusteringConfig, RetrievalConfig
from dawnchorus.trainer.evaluation.probes import fitting
from dawnchorus.trainer.evaluation.probes.attentive import LayerAttention
from dawnchorus.trainer.evaluation.probes.attentive_config import AttentiveLayersConfig
from dawnchorus.trainer.evaluation.probes.base import ProbeResult
from dawnchorus.trainer.evaluation.probes.linear import Linear
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.retrieval import evaluate_across, evaluate_retrieval
from dawnchorus.trainer.evaluation.scores import multi_label_measures
from dawnchorus.trainer.evaluation.splits import Fold
from dawnchorus.trainer.evaluation.tokens import TokenShape

pytestmark = pytest.mark.avex
USER = Path(__file__).with_name("avex_measures.py")
CLIPS, DIM, CLASSES, EPOCHS = 240, 24, 6, 40
CONFIG = LinearConfig(standardise=False, epochs=EPOCHS)


def features() -> dict[str, Tensor]:
    """Clips of six classes; with several labels some have two or none, and the last is rare."""
    draw = torch.Generator().manual_seed(7)
    truth = torch.arange(CLIPS) % CLASSES
    one = torch.eye(CLASSES)[truth]
    many = (one + torch.eye(CLASSES)[truth.roll(1)] * (torch.arange(CLIPS)[:, None] % 3 == 0)) > 0
    many[::7] = False
    centre = torch.randn(CLASSES, DIM, generator=draw)
    x = torch.randn(CLIPS, DIM, generator=draw) + 0.7 * centre[truth] + 1
    order = torch.randperm(CLIPS, generator=draw)
    test = order[:80]
    many[test, CLASSES - 1] = False  # without a positive in the test part: BEANS counts 0
    fold = fold_of(order)
    job = fitting.Job(0, 0, fold.train, fold.valid)
    own = torch.Generator().manual_seed(fitting.job_seed(job))
    weight = (torch.rand(CLASSES, DIM, generator=own) * 2 - 1) / DIM**0.5
    bias = (torch.rand(CLASSES, 1, generator=own) * 2 - 1)[:, 0] / DIM**0.5
    orders = [torch.from_numpy(fold.train)[torch.randperm(len(fold.train), generator=own)]
              for _ in range(EPOCHS)]  # fmt: skip
    return {
        "x": x.double(), "one": one.long(), "many": many.long(), "order": order, "test": test,
        "train": order[110:], "valid": order[80:110], "weight": weight, "bias": bias,
        "orders": torch.stack(orders), "score": torch.randn(80, CLASSES, generator=draw),
        "tokens": torch.randn(5, 3, 11, 16, generator=draw),
        "pooled": torch.randn(5, 3, 16, generator=draw),
    }  # fmt: skip


def fold_of(order: Tensor) -> Fold:
    o = order.numpy()
    return Fold("a", o[110:], o[80:110], o[:80])


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return features()


@pytest.fixture(scope="module")
def theirs(
    given: dict[str, Tensor], avex_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("avex")
    save_file({name: tensor.clone() for name, tensor in given.items()}, root / "in.safetensors")
    done = subprocess.run(
        [str(avex_python), "-I", str(USER), "in.safetensors", "out.json"],
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = json.loads((root / "out.json").read_text())
    return answers


def arrays(given: dict[str, Tensor], labels: str) -> tuple[Any, Any, Any]:
    return given["x"].numpy(), given[labels].numpy().astype(bool), np.arange(CLIPS)


@pytest.mark.parametrize(("labels", "named"), [("one", "retrieval"), ("many", "retrieval_many")])
def test_retrieval(
    given: dict[str, Tensor], theirs: dict[str, Any], labels: str, named: str
) -> None:
    x, hot, group = arrays(given, labels)
    test = given["test"].numpy()
    ours = evaluate_retrieval(x[test], hot[test], group[test], RetrievalConfig())
    assert ours["roc_auc"] == pytest.approx(theirs[named]["retrieval_roc_auc"], abs=1e-9)
    assert ours["p_at_1"] == pytest.approx(theirs[named]["retrieval_precision_at_1"], abs=1e-9)


@pytest.mark.parametrize(("labels", "named"), [("one", "across"), ("many", "across_many")])
def test_retrieval_across_goes_from_the_training_part_to_the_tested(
    given: dict[str, Tensor], theirs: dict[str, Any], labels: str, named: str
) -> None:
    x, hot, group = arrays(given, labels)
    pair = (given["train"].numpy(), given["test"].numpy())
    ours = evaluate_across(x, hot, group, [pair], RetrievalConfig())
    assert ours["roc_auc"] == pytest.approx(theirs[named]["retrieval_roc_auc"], abs=1e-9)
    assert ours["p_at_1"] == pytest.approx(theirs[named]["retrieval_precision_at_1"], abs=1e-9)


def test_clustering(given: dict[str, Tensor], theirs: dict[str, Any]) -> None:
    x, hot, _ = arrays(given, "one")
    test = given["test"].numpy()
    ours = evaluate_clustering(x[test], hot[test], ClusteringConfig(seeds=1))
    assert ours["nmi"]["mean"] == pytest.approx(theirs["clustering"]["clustering_nmi"], abs=1e-9)
    assert ours["ari"]["mean"] == pytest.approx(theirs["clustering"]["clustering_ari"], abs=1e-9)


def test_beans_mean_average_precision(given: dict[str, Tensor], theirs: dict[str, Any]) -> None:
    hot = given["many"][given["test"]].bool()
    ours = multi_label_measures(given["score"], hot)
    # avex ranks float32 sigmoids, and its mean is in float32.
    assert ours["beans_map"] == pytest.approx(theirs["beans_map"], abs=1e-6)
    assert ours["map"] == pytest.approx(theirs["beans_map"] * CLASSES / (CLASSES - 1), abs=1e-6)


def fitted(given: dict[str, Tensor], labels: str, *, valid: bool) -> ProbeResult:
    x, hot, _ = arrays(given, labels)
    fold = fold_of(given["order"])
    if not valid:
        fold = Fold("a", fold.train, fold.valid[:0], fold.test)
    return Linear(CONFIG).measure(x, hot, [fold], multi_label=labels == "many")


def test_the_linear_probe_of_several_labels(
    given: dict[str, Tensor], theirs: dict[str, Any]
) -> None:
    """After 40 epochs from the same start in the same order, scores of up to 3.7 differ by 7e-7."""
    ours = fitted(given, "many", valid=False)
    assert ours.score_SNC is not None
    logit = np.array(theirs["linear_many"]["logit"])
    np.testing.assert_allclose(ours.score_SNC[0, given["test"].numpy()], logit, atol=3e-6)
    assert ours.test_SF[0, 0] == pytest.approx(
        multi_label_measures(torch.tensor(logit), given["many"][given["test"]].bool())["map"],
        abs=1e-6,
    )
    # Their mean is over all classes; the rare one has positives in the validation part.
    best = fitted(given, "many", valid=True).valid_SF[0, 0]
    assert best == pytest.approx(max(theirs["linear_many"]["valid"]), abs=1e-6)


def test_the_linear_probe_of_one_label(given: dict[str, Tensor], theirs: dict[str, Any]) -> None:
    ours = fitted(given, "one", valid=False)
    logit, test = np.array(theirs["linear"]["logit"]), given["test"].numpy()
    right = logit.argmax(1) == given["one"].numpy()[test].argmax(1)
    assert ours.hit_SN is not None
    np.testing.assert_array_equal(ours.hit_SN[0, test], right)
    best = fitted(given, "one", valid=True).valid_SF[0, 0]
    assert best == pytest.approx(max(theirs["linear"]["valid"]), abs=1e-6)


def state_of(theirs: dict[str, Any], name: str) -> dict[str, Tensor]:
    return {key: torch.tensor(value) for key, value in theirs["probes"][name]["state"].items()}


def test_attention_on_a_layer_mix(given: dict[str, Tensor], theirs: dict[str, Any]) -> None:
    """Clips without padding: with it, avex takes the mean over the padding too."""
    state = state_of(theirs, "attention")
    shape = TokenShape(5, 3, 11, 16, (16,) * 3, 0)
    ours = LayerAttention(shape, 5, AttentiveLayersConfig()).eval()
    names = {
        "mix_L": "layer_weights", "qkv.weight": "attention_layers.0.in_proj_weight",
        "qkv.bias": "attention_layers.0.in_proj_bias",
        "out.weight": "attention_layers.0.out_proj.weight",
        "out.bias": "attention_layers.0.out_proj.bias", "norm.weight": "layer_norms.0.weight",
        "norm.bias": "layer_norms.0.bias", "classifier.weight": "classifier.weight",
        "classifier.bias": "classifier.bias",
    }  # fmt: skip
    assert set(names.values()) == set(state)
    ours.load_state_dict({mine: state[their] for mine, their in names.items()})
    with torch.no_grad():
        logit = ours(given["tokens"], torch.ones(5, 11, dtype=torch.bool))
    expected = torch.tensor(theirs["probes"]["attention"]["logit"])
    torch.testing.assert_close(logit, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["mix", "mlp"])
def test_the_layer_mix_and_the_mlp(
    name: str, given: dict[str, Tensor], theirs: dict[str, Any]
) -> None:
    from dawnchorus.trainer.evaluation.probes.linear_config import LayerMixConfig
    from dawnchorus.trainer.evaluation.probes.mlp import Mlp
    from dawnchorus.trainer.evaluation.probes.mlp_config import MlpConfig

    state, none = state_of(theirs, name), np.empty(0, np.int64)
    job = fitting.Job(0, 0, none, none)
    if name == "mix":
        config: Any = LayerMixConfig(standardise=False)
        batch = Linear.batch([job], given["pooled"], 5, config)
        order = ["classifier.weight", "classifier.bias", "layer_weights"]
    else:
        config = MlpConfig(standardise=False)
        batch = Mlp.batch([job], given["pooled"][:, -1].contiguous(), 5, config)
        order = [f"mlp.{i}.{what}" for i in (0, 3, 6) for what in ("weight", "bias")]
    assert set(order) == set(state)
    with torch.no_grad():
        for ours, key in zip(batch.parameters, order, strict=True):
            ours.copy_(state[key].view_as(ours[0]))
    (logit,) = batch.scores([np.arange(5)])
    expected = torch.tensor(theirs["probes"][name]["logit"])
    torch.testing.assert_close(logit, expected, atol=1e-6, rtol=1e-5)
