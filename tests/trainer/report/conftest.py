"""Run folders made by hand, as training, evaluation and export leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dawnchorus.trainer.panels import (
    Example,
    Panel,
    ScoresPanel,
    TokenPanel,
    save_examples,
    spectrogram,
)

SPECIES = [
    "Parus major", "Turdus merula", "Erithacus rubecula", "Strix aluco", "Luscinia megarhynchos",
    "Sylvia atricapilla", "Phylloscopus collybita", "Troglodytes troglodytes", "Cuculus canorus",
    "Apus apus", "Corvus corax", "Hyla arborea",
]  # fmt: skip
ENVIRONMENT = {
    "versions": {"dawnchorus": "0.1.0", "python": "3.11.9", "torch": "2.11.0"},
    "source_revision": "0878a41c0ffee+changes",
    "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
    "processor": "x86_64",
    "cpu_threads": 2,
    "gpus": ["NVIDIA H200"] * 8,
    "command": ["chorus", "train", "ssl_beats_base"],
}


def recipe(name: str, objective: str, steps: int, init_from: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "seed": 0,
        "init_from": init_from,
        "encoder": {
            "name": "beats",
            "layers": 12,
            "dim": 768,
            "patch": 16,
            "sample_rate_hz": 16000,
        },
        "objective": {"name": objective},
        "optim": {"lr": 5e-4, "clip_norm": 1.0},
        "train": {"max_steps": steps, "global_batch": 128, "precision": "bf16"},
    }


def train_lines(
    rng: np.random.Generator, steps: int, every: int, stage: str, total: int
) -> list[dict[str, Any]]:
    lines = []
    for step in range(every, steps + 1, every):
        t = step / total
        warm = min(1.0, t / 0.05)
        line: dict[str, Any] = {
            "kind": "train",
            "step": step,
            "samples_seen": step * 128,
            "wall_s": round(step * 0.31, 3),
            "lr": 5e-4 * warm * 0.5 * (1 + np.cos(np.pi * t)),
            "grad_norm": float(0.6 + 8 * np.exp(-30 * t) + 0.3 * rng.gamma(1.5)),
            "clips_per_s": float(2600 + 120 * rng.standard_normal() - 900 * (rng.random() < 0.01)),
            "tokens_per_s": float(2600 * 496),
            "tflops_per_device": 300.0,
            "data_wait": float(0.012 + 0.01 * rng.random()),
            "mfu": float(0.41 + 0.01 * rng.standard_normal()),
        }
        if stage == "pre":
            line["loss"] = float(
                4.1 + 2.6 * np.exp(-9 * t) - 0.5 * t + 0.09 * rng.standard_normal()
            )
            line["masked_accuracy"] = float(
                0.30 - 0.26 * np.exp(-7 * t) + 0.01 * rng.standard_normal()
            )
            line["unigram_accuracy"] = 0.043
            line["unigram_loss"] = 6.31
            line["target_codes"] = float(880 + 10 * rng.standard_normal())
        else:
            line["loss"] = float(0.05 + 0.6 * np.exp(-14 * t) + 0.006 * rng.standard_normal())
        lines.append(line)
    return lines


def valid_lines(
    rng: np.random.Generator, steps: int, stage: str, total: int
) -> list[dict[str, Any]]:
    lines = []
    for step in range(total // 10, steps + 1, total // 10):
        t = step / total
        line: dict[str, Any] = {
            "kind": "valid", "step": step, "samples_seen": step * 128, "wall_s": step * 0.31 + 0.1,
        }  # fmt: skip
        if stage == "pre":
            line |= {"loss": 4.2 + 2.5 * np.exp(-9 * t) - 0.5 * t, "unigram_accuracy": 0.042,
                     "masked_accuracy": 0.29 - 0.26 * np.exp(-7 * t)}  # fmt: skip
        else:
            rise = 1 - np.exp(-4 * t)
            line |= {"loss": 0.07 + 0.5 * np.exp(-12 * t), "map": 0.78 * rise + 0.01 * rng.random(),
                     "auroc": 0.5 + 0.46 * rise, "top1": 0.81 * rise}  # fmt: skip
        lines.append(line)
    return lines


def birdsong(rng: np.random.Generator, seconds: float) -> np.ndarray[Any, Any]:
    """A waveform of 16 kHz with a few whistles and trills over noise."""
    wav = 0.003 * rng.standard_normal(int(16_000 * seconds))
    start = 0
    while start < len(wav) - 8000:
        t = np.arange(int(rng.integers(4000, 16_000)))
        sweep = rng.uniform(1500, 5500) + rng.uniform(100, 900) * np.sin(
            2 * np.pi * t / rng.uniform(1000, 9000)
        )
        call = 0.2 * np.hanning(len(t)) * np.sin(2 * np.pi * np.cumsum(sweep) / 16_000)
        part = wav[start : start + len(t)]
        part += call[: len(part)]
        start += len(t) + int(rng.integers(1000, 16_000))
    return (32_767 * wav).astype(np.int16)


def write_examples(folder: Path, rng: np.random.Generator, stage: str, count: int) -> None:
    examples = []
    for k in range(count):
        sound = spectrogram(birdsong(rng, 10.0 if k % 4 < 3 else 6.2), 16_000)
        true = SPECIES[k % len(SPECIES)]
        if stage == "pre":
            n = len(sound.level_XF) // 16 * 8
            patches = sound.level_XF[: 2 * n].astype(float).reshape(-1, 16, 8, 16).mean((1, 3))
            code = (np.digitize(patches.ravel(), np.linspace(-90, -30, 40)) * 23 + 7) % 1024
            guess = np.where(rng.random(n) < 0.31, code, rng.integers(0, 1024, n))
            panel: Panel = TokenPanel(0.16, 8, rng.random(n) < 0.75, code, guess)
        else:
            names = [true, *[s for s in SPECIES if s != true]][:5]
            if k % 3 == 2:
                names[0], names[1] = names[1], names[0]
            scores = np.sort(rng.random(5) * 0.7)[::-1].tolist()
            panel = ScoresPanel(tuple(zip(names, scores, strict=True)))
        key = f"xc-{254462 + k}-p0{k}"
        examples.append(Example("xc_birds", key, (true,), sound, (panel,)))
    save_examples(folder, examples)


def write_evaluation(folder: Path, model: float, dataset: str = "esc10") -> None:
    def row(name: str, probe: float, auc: float, nmi: float) -> dict[str, Any]:
        return {
            "name": name,
            "probe": {"metric": "accuracy", "mean": probe, "std": 0.013, "seeds": [0, 1, 2]},
            "retrieval": {
                "roc_auc": auc,
                "p_at_1": 0.5,
                "roc_auc_ci95": [auc - 0.02, auc + 0.02],
                "same_group_excluded": {"roc_auc": auc - 0.05},
            },
            "clustering": {"nmi": {"mean": nmi, "std": 0.02}, "ari": {"mean": nmi, "std": 0.02}},
        }

    (folder / "evaluation").mkdir(exist_ok=True)
    rows = [row("log-mel", 0.642, 0.701, 0.412), row("random-init", 0.588, 0.655, 0.377),
            row("model", model, model - 0.01, model - 0.2)]  # fmt: skip
    (folder / "evaluation" / f"{dataset}.json").write_text(
        json.dumps(
            {
                "dataset": dataset,
                "clips": 400,
                "classes": 10,
                "groups": 80,
                "folds": list("01234"),
                "seeds": [0, 1, 2],
                "rows": rows,
                "layers": [],
                "layer_mix": {},
                "protocol": {"kind": "folds", "tested_clips": 400},
                "data": {"digest": "abc"},
                "warnings": [
                    "the model was pre-trained, without labels, on 40 of the 80 recordings"
                ],
            }
        )
    )


def write_data(folder: Path) -> None:
    base = "creativecommons.org/licenses"
    sources = [
        {
            "name": "xc_birds", "path": "datasets/xc_birds", "clips": 2710, "hours": 6.1,
            "weight": 1.0,
            "licences": [
                {"licence_url": f"//{base}/by-nc-sa/4.0/", "clips": 2400, "hours": 5.2},
                {"licence_url": f"https://{base}/by-nc/4.0/", "clips": 200, "hours": 0.6},
                {"licence_url": f"https://{base}/by-sa/3.0/", "clips": 110, "hours": 0.3},
            ],
            "recordists": [{"recordist": f"r{i}", "clips": 30} for i in range(88)],
        },
        {
            "name": "esc10", "path": "datasets/esc10", "clips": 400, "hours": 0.55, "weight": 0.5,
            "licences": [
                {"licence_url": f"https://{base}/by-nc/3.0/", "clips": 400, "hours": 0.55}
            ],
            "recordists": [{"recordist": f"f{i}", "clips": 4} for i in range(91)],
        },
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"sources": sources}))


def write_run(
    folder: Path,
    stage: str = "pre",
    *,
    steps: int = 20_000,
    total: int = 20_000,
    every: int = 10,
    model_score: float | None = 0.811,
    examples: int = 4,
) -> Path:
    """A run folder. `stage`: "pre" or "post"."""
    rng = np.random.default_rng(3 if stage == "pre" else 4)
    folder.mkdir(parents=True)
    objective, start = ("masked_tokens", None) if stage == "pre" else ("multilabel", "runs/ssl")
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(recipe(folder.name, objective, total, start), sort_keys=False)
    )
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    write_data(folder)
    events = [
        (total * 3 // 10, "preempted", "SIGUSR1; saved step_000006000.ckpt"),
        (total * 3 // 10, "resume", "from step_000006000.ckpt on 8 devices"),
        (total * 7 // 10, "broken_clip", "train/000012.tar xc-77; replaced by the next position's"),
        (total * 8 // 10, "non_finite", "non-finite loss of rank 3, positions 12-15"),
    ]
    lines: list[dict[str, Any]] = [
        {
            "kind": "event",
            "step": s,
            "samples_seen": s * 128,
            "wall_s": s * 0.31,
            "event": e,
            "message": m,
        }
        for s, e, m in events
        if s <= steps
    ]
    lines += train_lines(rng, steps, every, stage, total) + valid_lines(rng, steps, stage, total)
    lines.sort(key=lambda line: (line["step"], line["kind"] != "train"))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "labels.json").write_text(json.dumps({"labels": sorted(SPECIES)}))
    if examples:
        write_examples(folder, rng, stage, examples)
    if model_score is not None:
        write_evaluation(folder, model_score)
    return folder


def write_stats(folder: Path, classes: int) -> Path:
    """A dataset folder with nothing but its statistics."""
    folder.mkdir(parents=True)
    names = (
        SPECIES[:classes]
        if classes <= len(SPECIES)
        else [f"Genus species{i}" for i in range(classes)]
    )
    counts = {n: int(1 + 4000 / (1 + i) ** 1.1) for i, n in enumerate(names)}
    stats = {"name": folder.name, "clips": sum(counts.values()), "recordings": 271, "hours": 6.1,
             "sample_rate_hz": 16000, "labels": classes, "clips_per_label": counts}  # fmt: skip
    (folder / "stats.json").write_text(json.dumps(stats))
    labels = [{"id": i, "name": n, "rank": "species"} for i, n in enumerate(sorted(names))]
    (folder / "labels.json").write_text(json.dumps({"version": 1, "labels": labels}))
    return folder


@pytest.fixture(scope="session")
def run_writer() -> Callable[..., Path]:
    """`write_run`."""
    return write_run


@pytest.fixture(scope="session")
def stats_writer() -> Callable[..., Path]:
    """`write_stats`."""
    return write_stats


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` into a fresh folder of the given name."""
    return lambda name="ssl", *args, **options: write_run(
        tmp_path / "runs" / name, *args, **options
    )


@pytest.fixture
def make_stats(tmp_path: Path) -> Callable[..., Path]:
    """`write_stats` into a fresh folder of the given name."""
    return lambda name, classes: write_stats(tmp_path / "datasets" / name, classes)
