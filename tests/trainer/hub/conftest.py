"""A finished run, written by hand to the letter of the formats (no trainer involved)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.pooling import Pooling

TINY: dict[str, Any] = {
    "name": "beats", "layers": 2, "dim": 48, "ffn_dim": 96, "heads": 4, "patch_dim": 32,
    "conv_pos": 16, "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 100,
}  # fmt: skip
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
BY_NC = "https://creativecommons.org/licenses/by-nc/4.0/"
BY_SA = "//creativecommons.org/licenses/by-sa/3.0/"
LABELS = ("Parus major", "Strix aluco", "Turdus merula | song")


def source(name: str, *people: tuple[str, str, int, float], path: str = "") -> dict[str, Any]:
    """A source of data.json from (recordist, licence, clips, hours)."""
    by_licence: dict[str, list[float]] = {}
    for _, licence, clips, hours in people:
        total = by_licence.setdefault(licence, [0, 0.0])
        total[0] += clips
        total[1] += hours
    return {
        "name": name,
        "path": path or f"/home/somebody/datasets/{name}",
        "clips": sum(p[2] for p in people),
        "hours": sum(p[3] for p in people),
        "weight": None,
        "licences": [
            {"licence_url": url, "clips": int(c), "hours": h} for url, (c, h) in by_licence.items()
        ],
        "recordists": [
            {"recordist": who, "licence_url": url, "clips": clips, "hours": hours}
            for who, url, clips, hours in people
        ],
    }


EVALUATION = {
    "dataset": "garden",
    "metric": "accuracy",
    "protocol": {"pooling": "mean_std"},
    "rows": [
        {"name": "log-mel", "probe": {"mean": 0.5, "std": 0.01}, "retrieval": {"roc_auc": 0.6}},
        {"name": "random-init", "probe": {"mean": 0.4, "std": 0.02}},
        {
            "name": "model",
            "probe": {"mean": 0.8125, "std": 0.015},
            "retrieval": {"roc_auc": 0.9, "same_group_excluded": {"roc_auc": 0.85}},
            "clustering": {"nmi": {"mean": 0.7, "std": 0.03}},
        },
    ],
    "warnings": ["12 of 100 tested recordings were in the training data"],
}
CARD = {"author": "The Testers", "repo_id": "dawn/tiny-beats"}


def random_model(
    encoder: dict[str, Any], labels: tuple[str, ...] | None, seed: int, pooling: Pooling = "mean"
) -> BioEncoder:
    """A model of which every parameter, norms and biases included, is its own random number."""
    torch.manual_seed(seed)
    model = BioEncoder.from_config(encoder, labels, pooling).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def write_run(
    folder: Path,
    *,
    encoder: dict[str, Any] | None = None,
    labels: tuple[str, ...] | None = LABELS,
    seed: int = 0,
    ema: bool = False,
    sources: list[dict[str, Any]] | None = None,
    evaluation: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
    init_from: str | None = None,
    pooling: Pooling = "mean",
    names: tuple[str, ...] = ("step_000000100.ckpt", "last.ckpt"),
) -> BioEncoder:
    """Write a run folder; returns the model whose weights `load_model` should give."""
    encoder = encoder if encoder and "name" in encoder else TINY | (encoder or {})
    model = random_model(encoder, labels, seed, pooling)
    other = random_model(encoder, labels, seed + 1, pooling)
    # What training leaves in the state dict, and what it averages: parameters, not buffers.
    averaged = {k: v.clone() for k, v in _as_trained(model).items() if "frontend" not in k}
    recipe = {
        "name": folder.name, "seed": 3, "init_from": init_from,
        "encoder": encoder,
        "objective": {"name": "multilabel", "pooling": pooling} if labels
        else {"name": "masked_tokens"},
        "data": {"train": {}, "window_s": 5.0}, "optim": {"lr": 1e-4},
        "train": {"global_batch": 16}, "card": CARD if card is None else card,
    }  # fmt: skip
    state = _as_trained(other if ema else model)
    state["objective.tokenizer.codebook"] = torch.randn(7, 3)
    content = {
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(9)}}}],
        "dawnchorus": {
            "format": 1, "recipe": recipe, "labels": list(labels) if labels else None,
            "samples_seen": 1600, "step": 100, "ema": averaged if ema else None,
        },
    }  # fmt: skip
    (folder / "checkpoints").mkdir(parents=True)
    for name in names:
        torch.save(content, folder / "checkpoints" / name)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if sources is None:
        sources = [source("garden", ("Ann", CC0, 300, 2.5), ("Bo <b>|", BY_NC, 100, 1.25))]
    (folder / "data.json").write_text(json.dumps({"sources": sources}))
    evaluation = EVALUATION if evaluation is None else evaluation
    if evaluation:
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "garden.json").write_text(json.dumps(evaluation))
    return model


def _as_trained(model: BioEncoder) -> dict[str, torch.Tensor]:
    """Names as in a checkpoint: while it is trained, the head is the objective's."""
    return {
        f"objective.{name}" if name.startswith("head.") else f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
    }


@pytest.fixture(scope="session")
def make_run() -> Callable[..., BioEncoder]:
    """`write_run`, as a fixture."""
    return write_run


@pytest.fixture
def make_source() -> Callable[..., dict[str, Any]]:
    """`source`, as a fixture."""
    return source


@pytest.fixture(scope="session")
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Four clips of sound and their lengths, padded on the right with zeros."""
    generator = torch.Generator().manual_seed(5)
    length_B = torch.tensor([40000, 23456, 9000, 700])
    wav_BT = torch.randn(4, 40000, generator=generator).mul(0.1).clamp(-1, 1)
    wav_BT[torch.arange(40000) >= length_B[:, None]] = 0.0
    return wav_BT, length_B
