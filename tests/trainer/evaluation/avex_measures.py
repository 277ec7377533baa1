"""Run as `.venv-avex/bin/python -I avex_measures.py IN.safetensors OUT.json`: what avex's own
functions make of the same features.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Nothing(types.ModuleType):
    """Stands for the parts of a package that is not published; nothing of it is called here."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return type(name, (), {})


def linear(given: dict[str, Any], *, multi_label: bool) -> dict[str, Any]:
    """avex's trainer on avex's linear probe, from a given start and in a given order."""
    import torch
    from avex.evaluation.finetune import FineTuneTrainer
    from avex.models.probes.linear_probe import LinearProbe

    x, hot = given["x"].float(), given["many" if multi_label else "one"]
    classes = hot.shape[1]
    probe = LinearProbe(None, ["last"], classes, "cpu", feature_mode=True, input_dim=x.shape[1])
    with torch.no_grad():
        probe.classifier.weight.copy_(given["weight"])
        probe.classifier.bias.copy_(given["bias"])

    def batch(rows: Any) -> dict[str, Any]:
        return {"embed": x[rows], "label": hot[rows]}

    class Epochs:
        """A loader whose every pass has the next order."""

        passes = 0

        def __len__(self) -> int:
            return -(-given["orders"].shape[1] // 32)

        def __iter__(self) -> Any:
            order = given["orders"][self.passes]
            self.passes += 1
            return iter([batch(rows) for rows in order.split(32)])

    seen: list[float] = []

    class Log:
        def log_params(self, params: Any) -> None:
            del params

        def log_metrics(self, metrics: Any, step: int, split: str) -> None:
            if split == "val":
                seen.append(next(v for k, v in metrics.items() if k in ("map", "accuracy")))

    numbers = SimpleNamespace(
        lr=1e-3, train_epochs=len(given["orders"]), batch_size=32, gradient_clip_val=None
    )
    trainer = FineTuneTrainer(
        probe,
        torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.01),
        Epochs(),
        [batch(given["valid"])],
        torch.device("cpu"),
        SimpleNamespace(training_params=numbers, disable_tqdm=True),
        Log(),
        classes,
        multi_label=multi_label,
        dataset_metrics=["map" if multi_label else "accuracy"],
        scheduler_type="none",
    )
    # The last epoch is compared: which one is kept where several tie is another question.
    trainer._save_checkpoint = lambda name: None
    trainer._load_best_checkpoint = lambda: None
    trainer.train(len(given["orders"]))
    with torch.no_grad():
        logit = probe(x[given["test"]])
    return {"valid": seen, "logit": logit.tolist()}


def probes(given: dict[str, Any]) -> dict[str, Any]:
    """The answers of avex's probes on layers, with their weights."""
    import torch
    from avex.models.probes.attention_probe import AttentionProbe
    from avex.models.probes.linear_probe import LinearProbe
    from avex.models.probes.mlp_probe import MLPProbe

    torch.manual_seed(0)
    tokens, pooled = given["tokens"], given["pooled"]
    shape = tuple(tokens.shape[2:])
    names = [f"layer{i}" for i in range(tokens.shape[1])]
    common = {"device": "cpu", "feature_mode": True, "aggregation": "none"}
    attention = AttentionProbe(
        None, names, 5, **common, input_dim=[shape] * len(names), num_layers=1, num_heads=8,
        dropout_rate=0.3,
    )  # fmt: skip
    mix = LinearProbe(
        None, names, 5, device="cpu", feature_mode=True, input_dim=[(shape[1],)] * len(names)
    )
    mlp = MLPProbe(None, ["last"], 5, device="cpu", feature_mode=True, input_dim=shape[1])
    found = {}
    for name, probe, x in (
        ("attention", attention, dict(zip(names, tokens.unbind(1), strict=True))),
        ("mix", mix, dict(zip(names, pooled.unbind(1), strict=True))),
        ("mlp", mlp, pooled[:, -1]),
    ):
        with torch.no_grad():
            for parameter in probe.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            logit = probe.eval()(x)
        state = {key: value.tolist() for key, value in probe.state_dict().items()}
        found[name] = {"logit": logit.tolist(), "state": state}
    return found


def main() -> None:
    import torch
    from avex.evaluation.clustering import eval_clustering
    from avex.evaluation.retrieval import eval_retrieval, eval_retrieval_cross_set
    from avex.metrics.beans_metrics import MeanAveragePrecision
    from safetensors.torch import load_file

    # avex's trainer imports this package for its file paths and data sets; PyPI has none.
    for name in ("alp_data", "alp_data.io", "alp_data.transforms"):
        sys.modules[name] = Nothing(name)
    torch.set_num_threads(1)
    given = load_file(sys.argv[1])
    x, one, many, train, test = (given[k] for k in ("x", "one", "many", "train", "test"))
    beans = MeanAveragePrecision()
    beans.update(given["score"], many[test])
    answers = {
        "retrieval": eval_retrieval(x[test], one[test]),
        "retrieval_many": eval_retrieval(x[test], many[test]),
        "across": eval_retrieval_cross_set(x[train], one[train], x[test], one[test]),
        "across_many": eval_retrieval_cross_set(x[train], many[train], x[test], many[test]),
        "clustering": eval_clustering(x[test].float(), one[test].argmax(1)),
        "beans_map": beans.get_metric()["map"],
        "linear": linear(given, multi_label=False),
        "linear_many": linear(given, multi_label=True),
        "probes": probes(given),
    }
    Path(sys.argv[2]).write_text(json.dumps(answers))


main()
