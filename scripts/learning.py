"""Does pre-training learn? Small models on real sound, probed as they hear more clips.

    python -m scripts.learning corpus SOUND OUT     shards of five public collections
    python -m scripts.learning run OUT beats        pre-train; the same command continues
    python -m scripts.learning measure OUT          probe checkpoints, random weights, log-mel
    python -m scripts.learning table OUT            a Markdown table, and a figure with --figure

SOUND holds the folders of `COLLECTIONS`, each with audio and metadata.csv. What is tested is kept
out of pre-training: fold 5 of ESC-10, folds 4 and 5 of the insects (whole specimens or sites), the
later sessions of each cat. Xeno-canto's birds and the finches are only heard.

Every model is measured in the same way on windows of 3 s: a logistic regression on frozen, pooled
tokens (`chorus evaluate --preset fast`, without a validation part: the last epoch counts), and
retrieval. The rate is constant and what is measured is the moving average of the weights, so a run
can be made longer without changing its earlier points.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CHORUS = str(Path(sys.executable).with_name("chorus"))
COLLECTIONS = ("esc10", "insects32", "cat_meows", "bengalese_finch", "xc_birds")
BATCH, KEPT_EVERY = 32, 94
"""94 steps of 32 clips are 3,008 clips."""
POINTS = (94, 282, 940, 3102)
"""Steps that are measured: 3,008, 9,024, 30,080 and 99,264 clips."""
HEARD = (
    "data.train.esc10.exclude_folds=[5]",
    "data.train.insects32.splits=[train,validation,test]",
    "data.train.insects32.exclude_folds=[4,5]",
    "data.train.cat_meows.splits=[train,single_session]",
)
TRAINING = (
    "data.window_s=3.0", f"train.global_batch={BATCH}", f"train.micro_batch={BATCH}",
    "optim.lr=1e-3", "optim.schedule=constant", "optim.warmup_steps=60", "optim.ema_decay=0.998",
    "train.validate_every=null", "train.max_steps=null", f"train.checkpoint_every={KEPT_EVERY}",
    f"train.keep_every={KEPT_EVERY}", "data.workers=0",
)  # fmt: skip
FAMILIES: dict[str, tuple[str, ...]] = {
    "beats": ("ssl_beats_tiny",),
    "eat": ("ssl_eat_tiny",),
    "mae": ("ssl_mae_tiny", "encoder=eat_tiny", "encoder.norm=pre"),  # AudioMAE's form, 16 kHz
    "units": ("ssl_hubert_tiny",),
}
"""Family -> recipe and overrides."""
TITLES = {"beats": "BEATs, iteration 1", "eat": "EAT", "mae": "MAE", "units": "HuBERT, MFCC units"}
TASKS: dict[str, tuple[str, ...]] = {
    "esc10": ("test_folds=[5]",),
    "insects32": ("protocol=folds", "splits=[train,validation,test]", "test_folds=[4,5]"),
    "cat_meows": ("protocol=splits", "splits=[train,test]"),
}
"""Dataset -> how `chorus evaluate` divides it."""
TASK_TITLES = {
    "esc10": "ESC-10, fold 5",
    "insects32": "Insects, two folds of groups",
    "cat_meows": "Cats, later sessions",
}
POOLINGS = ("mean", "mean_std")
MEASURED = ("window_s=3", "long_clips=mean", "rare_classes=drop", "valid_fraction=0",
            "clustering.enabled=false", "retrieval.bootstrap=0", "cache=false")  # fmt: skip
RANDOM_DRAWS = 3


def corpus(sound: Path, out: Path) -> None:
    """Prepare the collections."""
    for name in COLLECTIONS:
        command = [CHORUS, "prep", "folder", str(sound / name), "--out", str(out / "data" / name)]
        subprocess.run(command, check=True)


def recipe_of(out: Path, family: str, clips: int, seed: int) -> list[str]:
    """The recipe of a family's small model, and its overrides."""
    recipe, *own = FAMILIES[family]
    sources = [f"data.train.{name}.path={out / 'data' / name}" for name in COLLECTIONS]
    names = [f"name={family}_s{seed}", f"runs={out / 'runs'}", f"seed={seed}"]
    return [recipe, *names, f"train.max_clips={clips}", *sources, *HEARD, *TRAINING, *own]


def run(out: Path, family: str, clips: int, seed: int, extra: list[str]) -> None:
    """Pre-train a family's small model, or continue."""
    subprocess.run([CHORUS, "train", *recipe_of(out, family, clips, seed), *extra], check=True)


# --------------------------------------------------------------------------- measuring


def measure(out: Path, only: str) -> None:
    """Measure each kept checkpoint at `POINTS`, each family's random weights, and log-mel."""
    from dawnchorus.trainer.evaluation.benchmark import random_encoder
    from dawnchorus.trainer.evaluation.embed import LogMelStatistics
    from dawnchorus.trainer.hub.importing import load_model

    one(out, "log-mel@0", lambda: LogMelStatistics().eval())
    for step in POINTS:
        for folder in sorted((out / "runs").glob(f"{only}_s*")):
            file = folder / "checkpoints" / f"step_{step:09d}.ckpt"
            if not file.is_file():
                continue
            family, _, seed = folder.name.partition("_s")
            if step == POINTS[0] and seed == "0":
                encoder = load_model(file).weights.encoder
                for draw in range(RANDOM_DRAWS):
                    one(out, f"{family}_s{draw}@0", partial(random_encoder, encoder, draw))
            one(out, f"{folder.name}@{step * BATCH}", partial(encoder_of, file))


def encoder_of(file: Path) -> Any:
    """The model of a checkpoint."""
    from dawnchorus.trainer.hub.importing import load_model

    return load_model(file).model


def unseen(steps: int = 1) -> None:
    """Show no progress: a probe takes seconds."""
    del steps


def one(out: Path, name: str, model: Callable[[], Any]) -> None:
    """Measure an encoder on all tasks, pooled in both ways: the first half of mean and standard
    deviation is the mean.
    """
    import torch

    from dawnchorus.trainer.evaluation.config import load_config
    from dawnchorus.trainer.evaluation.embed import embed_clips
    from dawnchorus.trainer.evaluation.retrieval import evaluate_retrieval
    from dawnchorus.trainer.evaluation.task import prepare_task
    from dawnchorus.trainer.registry import PROBES

    file = out / "measured" / f"{name}.json"
    if file.is_file():
        return
    found: dict[str, dict[str, list[float]]] = {}
    cpu = torch.device("cpu")
    for task_name, division in TASKS.items():
        config = load_config([f"data={out / 'data' / task_name}", *division, *MEASURED], "fast")
        task = prepare_task(config)
        clips, tested = task.clips, task.protocol.tested
        both_ND = embed_clips(
            model(), clips, window=round(config.window_s * clips.sample_rate_hz), layer="last",
            pooling="mean_std", long_clips=config.long_clips, batch_size=16, device=cpu, who=name,
        )  # fmt: skip
        found[task_name] = {}
        for pooling in POOLINGS:
            emb_ND = both_ND[:, : both_ND.shape[1] // 2] if pooling == "mean" else both_ND
            probe = PROBES.thing(config.probe.name)(config.probe).measure(
                emb_ND, clips.label_NC, task.protocol.folds, multi_label=False, device=cpu,
                advance=unseen,
            )  # fmt: skip
            near = evaluate_retrieval(
                emb_ND[tested], clips.label_NC[tested], clips.group_N[tested], config.retrieval, cpu
            )
            found[task_name][pooling] = [probe.summary()["mean"], near["roc_auc"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    print(name, json.dumps(found), flush=True)


def scores(out: Path) -> dict[tuple[str, str, str], dict[int, list[tuple[float, float]]]]:
    """(task, pooling, family or "log-mel") -> clips heard -> (probe, retrieval) of each seed."""
    found: dict[tuple[str, str, str], dict[int, list[tuple[float, float]]]] = {}
    for file in sorted((out / "measured").glob("*@*.json")):
        name, _, clips = file.stem.partition("@")
        for task, poolings in json.loads(file.read_text()).items():
            for pooling, (probe, retrieval) in poolings.items():
                place = found.setdefault((task, pooling, name.split("_s")[0]), {})
                place.setdefault(int(clips), []).append((probe, retrieval))
    return found


# --------------------------------------------------------------------------- telling


def cell(values: list[tuple[float, float]]) -> str:
    """Probe and retrieval; with their standard deviation where there are several."""
    texts = []
    for column in zip(*values, strict=True):
        spread = f" ± {statistics.stdev(column):.3f}" if len(column) > 1 else ""
        texts.append(f"{statistics.mean(column):.3f}{spread}")
    return " / ".join(texts)


def table(out: Path) -> str:
    """Markdown: a table for each pooling, a row for each model and number of clips."""
    found, lines = scores(out), []
    for pooling in POOLINGS:
        lines += [f"| `{pooling}`, clips heard | " + " | ".join(TASK_TITLES.values()) + " |",
                  "|---" * (len(TASKS) + 1) + "|"]  # fmt: skip
        for family in ("log-mel", *FAMILIES):
            counts = sorted({n for task in TASKS for n in found.get((task, pooling, family), {})})
            for clips in counts:
                there = [found.get((task, pooling, family), {}).get(clips) for task in TASKS]
                cells = [cell(values) if values else "–" for values in there]
                heard = f"{clips:,}" if clips else "random weights"
                title = f"{TITLES[family]}, {heard}" if family in TITLES else family
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


STYLE = """
text { font: 11px sans-serif; fill: #555 } .title { font-size: 13px; fill: #222 }
.line { fill: none; stroke-width: 1.8 } .area { stroke: none; opacity: .15 }
.grid-line, path.grid { stroke: #ddd; fill: none } path.base { stroke: #333; stroke-dasharray: 5 4 }
"""
COLOURS = {"s1": "#1b6ca8", "s2": "#c8553d", "s3": "#3a7d44", "s4": "#8a5fa8"}


def figure(out: Path, pooling: str) -> str:
    """One SVG with a panel for each task: probe accuracy over clips heard (logarithmic)."""
    import numpy as np

    from dawnchorus.trainer.page.charts import HEIGHT, WIDTH, Axis, Curve, curves

    found, panels, names = scores(out), [], list(TITLES)
    least = 1000.0
    most = float(max(n for by_clips in found.values() for n in by_clips))
    for number, task in enumerate(TASKS):
        lines, reach = [], []
        for family in names:
            points = sorted(found.get((task, pooling, family), {}).items())
            # Random weights have heard nothing; a logarithmic axis shows them at its left end.
            x = np.array([max(clips, least) for clips, _ in points], np.float64)
            y = np.array([statistics.mean(p for p, _ in values) for _, values in points])
            lines.append(Curve(TITLES[family], x, y))
            reach += y.tolist()
        if (task, pooling, "log-mel") in found:
            level = found[task, pooling, "log-mel"][0][0][0]
            ends = np.array([least, most])
            lines.append(Curve("log-mel", ends, np.full(2, level), dashed=True))
            reach.append(level)
        y_axis = Axis(max(0.0, min(reach) - 0.04), min(1.0, max(reach) + 0.04))
        chart = curves(TASK_TITLES[task], "probe accuracy", lines, x=Axis(least, most, log=True),
                       y=y_axis, x_name="clips heard")  # fmt: skip
        inner = str(chart.svg).replace("<svg", f'<svg x="{number * WIDTH:g}" y="22" '
                                       f'width="{WIDTH:g}" height="{HEIGHT:g}"', 1)  # fmt: skip
        panels.append(f'<text class="title" x="{number * WIDTH + 40:g}" y="16">'
                      f"{TASK_TITLES[task]}: probe accuracy</text>{inner}")  # fmt: skip
    keys = "".join(
        f'<text x="{40 + 190 * i}" y="{HEIGHT + 40:g}" style="fill:{colour}">{TITLES[name]}</text>'
        for i, (name, colour) in enumerate(zip(names, COLOURS.values(), strict=False))
    )
    keys += (f'<text x="{40 + 190 * len(names)}" y="{HEIGHT + 40:g}">- - log-mel; left end: '
             "random weights</text>")  # fmt: skip
    rules = STYLE + "".join(
        f".line.{k} {{ stroke: {c} }} .area.{k}, circle.{k} {{ fill: {c} }}\n"
        for k, c in COLOURS.items()
    )
    size = f'viewBox="0 0 {3 * WIDTH:g} {HEIGHT + 52:g}" width="100%"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{rules}</style>'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"{start}{ground}{''.join(panels)}{keys}</svg>\n"


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    told = {"corpus": "prepare the sound", "run": "pre-train a model",
            "measure": "measure all checkpoints", "table": "table and figure"}  # fmt: skip
    for name, words in told.items():
        step = steps.add_parser(name, help=words)
        if name == "corpus":
            step.add_argument("sound", type=Path)
        step.add_argument("out", type=Path)
        if name == "run":
            step.add_argument("family", choices=FAMILIES)
            step.add_argument("--clips", type=int, default=POINTS[-2] * BATCH)
            step.add_argument("--seed", type=int, default=0)
            step.add_argument("override", nargs="*", help="key=value, as of `chorus train`")
        if name == "measure":
            step.add_argument("--only", default="*", help="pattern of families")
        if name == "table":
            step.add_argument("--figure", type=Path, help="SVG to write")
            step.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the figure")
    given = parser.parse_args()
    if given.step == "corpus":
        corpus(given.sound, given.out)
    elif given.step == "run":
        run(given.out, given.family, given.clips, given.seed, given.override)
    elif given.step == "measure":
        measure(given.out, given.only)
    else:
        print(table(given.out))
        if given.figure:
            given.figure.write_text(figure(given.out, given.pooling), encoding="utf-8")


if __name__ == "__main__":
    main()
