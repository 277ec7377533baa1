"""Training of every encoder with every objective: `python -m scripts.bench training`.

For each pair of encoder and objective among the recipes, with the numbers of the first recipe that
has it: a training step of the trainer's own module with the clips in the device's memory, eager and
compiled, and `chorus train` from shards in a process of its own (reading, decoding, handing over).

On a CUDA device the full-size recipes in bf16: clips/s, TFLOP/s, the share of a bf16 matrix product
measured in the same run, the share of attention in the step, and the memory it takes. All of it has
to end within ten minutes: what does not fit any more is named. Elsewhere the tiny recipes, to show
what a step costs and that the script runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dawnchorus.trainer.compose import shipped_recipes
from dawnchorus.trainer.kinds import TRAIN
from dawnchorus.trainer.metrics_log import standing_lines
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import Context
from dawnchorus.trainer.recipe import Recipe, load_recipe
from dawnchorus.trainer.registry import OBJECTIVES, build_encoder
from dawnchorus.trainer.training.layout import Topology
from dawnchorus.trainer.training.module import TrainingModule
from scripts.bench import Report, figure, print_table
from scripts.bench.beats import matrix_rate, report_speed
from scripts.bench.data import bird_sound, write_dataset

REPO = Path(__file__).resolve().parents[2]
CLASSES = 1000
DIFFERENT = 64  # clips that are synthesised; the dataset has each of them several times
BUDGET_S = 540.0
# Aims on an H200 as shares of the matrix product, by encoder and objective.
TARGETS = {
    ("beats", "multilabel"): ">= 0.55",
    ("beats", "masked_tokens"): ">= 0.45",
    ("vit", "utterance_frame"): ">= 0.45",
    ("vit", "reconstruction"): ">= 0.45",
}
ATTENTION = ("scaled_dot_product", "flash_attention", "efficient_attention", "_flash_attn")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained."""

    tiny: bool
    """The tiny recipes instead of the full-size ones."""
    window_s: float | None
    """Length of the clips; None: the recipe's."""
    clips: int | None
    """Clips of a step; None: the micro-batch of the recipe."""
    steps: int
    """Steps of a round."""
    rounds: int
    workers: int
    lines: int
    """Lines of the log of a run from shards; the first is left out."""


def scale() -> Scale:
    """What the machine at hand can do in minutes."""
    if torch.cuda.is_available():
        workers = max(2, len(os.sched_getaffinity(0)) - 2)
        return Scale(tiny=False, window_s=None, clips=None, steps=5, rounds=3, workers=workers,
                     lines=4)  # fmt: skip
    return Scale(tiny=True, window_s=2.0, clips=8, steps=1, rounds=3, workers=1, lines=3)


def pairs(*, tiny: bool) -> dict[tuple[str, str], str]:
    """Encoder and objective -> the first shipped recipe with both."""
    found: dict[tuple[str, str], str] = {}
    for name in shipped_recipes(TRAIN):
        if name.endswith("_tiny") == tiny and name != "finetune":
            recipe = load_recipe(name, _data("here"))
            found.setdefault((recipe.encoder.name, recipe.objective.name), name)
    return found


def _data(folder: str | Path) -> list[str]:
    return ["data=folder", f"data.train.bench.path={folder}", f"data.noise.bench.path={folder}"]


def overrides(folder: str | Path, size: Scale) -> list[str]:
    """A recipe on one dataset, without phases and schedules."""
    changes = [
        *_data(folder), "init_from=null", "optim.head_only_steps=0", "optim.head_lr=null",
        "optim.head_warmup_steps=0", "optim.warmup_steps=0", "log.wandb=disabled",
        "train.validate_every=null", "train.checkpoint_every=1000000",
    ]  # fmt: skip
    if size.window_s is not None:
        changes.append(f"data.window_s={size.window_s}")
    if size.clips is not None:
        changes += [f"train.micro_batch={size.clips}", f"train.global_batch={size.clips}"]
    return changes


# --------------------------------------------------------------------------- from memory


def module_of(recipe: Recipe, device: str) -> TrainingModule:
    """The trainer's module of a recipe; where an earlier run is wanted, one with random weights."""
    torch.manual_seed(0)
    section = asdict(recipe.encoder)
    needs_labels = recipe.objective.needs_labels
    labels = tuple(f"class {i}" for i in range(CLASSES)) if needs_labels else None
    model = BioEncoder.from_config(section, labels, recipe.objective.head_pooling)
    context = Context(labels=labels, load_encoder=lambda _: build_encoder(section))
    part = OBJECTIVES.thing(recipe.objective.name).build(recipe.objective, model, context)
    layout = Topology(rank=0, ranks=1, accumulate=1, micro=recipe.train.micro_batch)
    return TrainingModule(recipe, model, part, layout).to(device)


def sound(recipe: Recipe, device: str) -> dict[str, torch.Tensor]:
    """A micro-batch of seeded noise, as the loader gives it."""
    clips = recipe.train.micro_batch
    samples = round(recipe.data.window_s * recipe.encoder.sample_rate_hz)
    generator = torch.Generator().manual_seed(0)
    number_B = torch.arange(clips)
    batch = {
        "wav_BT": torch.randint(-3000, 3000, (clips, samples), generator=generator).short(),
        "length_B": torch.full((clips,), samples),
        "position_B": number_B,
        "source_B": torch.zeros(clips, dtype=torch.int64),
        "labels_P2": torch.stack([number_B, number_B % CLASSES], 1),
    }
    return {name: value.to(device) for name, value in batch.items()}


def step_of(module: TrainingModule, device: str) -> Callable[[], None]:
    """Front end, mixup, forward, backward, optimiser, teacher."""
    recipe, batch = module.recipe, sound(module.recipe, device)
    optimiser = module.configure_optimizers()
    number = 0

    def step() -> None:
        nonlocal number
        module.model.encoder.begin_step(number)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            features = module.features(batch, augment=True)
            loss_sum, count = module.run_objective(features)[:2]
        (loss_sum / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        module.objective.after_step(module.model, number, 1_000_000)
        number += 1

    first = [module.features(batch, augment=False)] * recipe.train.prepare_batches
    module.objective.prepare(module.model, first)
    return step


def seconds_of(step: Callable[[], None], size: Scale) -> list[float]:
    """Seconds of a step, one number a round."""
    on_gpu = torch.cuda.is_available()
    for _ in range(3 if on_gpu else 1):
        step()
    found = []
    for _ in range(size.rounds):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(size.steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / size.steps)
    return found


def attention_share(step: Callable[[], None]) -> float:
    """Share of the device's time that the attention kernels take, forward and backward."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiler:
        step()
    # Kernels have rows of their own beside those of the operations that launched them.
    rows = [row for row in profiler.key_averages() if row.device_type.name == "CPU"]
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    total = sum(getattr(row, field) for row in rows)
    mine = sum(getattr(row, field) for row in rows if any(word in row.key for word in ATTENTION))
    return float(mine / total) if total else 0.0


def from_memory(
    report: Report, how: str, recipe: Recipe, size: Scale, rate: float | None, target: str
) -> None:
    """Report the step of a recipe, eager and, on a GPU, compiled."""
    device = "cuda" if rate else "cpu"
    module = module_of(recipe, device)
    flops = module.objective.flops(module.model, module.grid) * recipe.train.micro_batch
    step = step_of(module, device)
    for compiled in (False, True) if rate else (False,):
        if compiled:
            for block in module.model.encoder.blocks():
                block.compile(dynamic=False)
        if rate:
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(step, size)
        kind = f"{how}, {'compiled' if compiled else 'eager'}"
        speeds = [recipe.train.micro_batch / s for s in seconds]
        report_speed(report, kind, speeds, [flops / s for s in seconds], of=rate, target=target)
        report(figure(f"{kind}: share of attention", [attention_share(step)], ""))
        if rate:
            report(figure(f"{kind}: memory", [torch.cuda.max_memory_allocated() / 1e9], "GB"))


# --------------------------------------------------------------------------- from shards


def train(folder: Path, dataset: Path, name: str, size: Scale, *changes: str) -> list[Any]:
    """Train a recipe from shards; return the lines of the log that count."""
    last = size.steps * size.lines
    command = [
        sys.executable, "-m", "dawnchorus.trainer.cli", "train", name, f"runs={folder}",
        *overrides(dataset, size), "train.max_clips=null", f"train.max_steps={last}",
        f"train.log_every={size.steps}", f"data.workers={size.workers}", *changes,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = standing_lines(folder / name / "metrics.jsonl")
    return [line for line in lines if line["kind"] == "train"][1:]


def report_run(
    report: Report, how: str, lines: list[Any], *, rate: float | None, target: str
) -> None:
    """Report the figures of a run; `rate` is the matrix product's, in FLOP/s."""
    speeds = [line["clips_per_s"] for line in lines]
    rates = [1e12 * line["tflops_per_device"] for line in lines]
    report_speed(report, how, speeds, rates, of=rate, target=target)
    waits = [line["data_wait"] for line in lines]
    report(figure(f"{how}: waiting for data", waits, "", "<= 0.03" if rate else ""))


def datasets(folder: Path, size: Scale) -> Callable[[Recipe], Path]:
    """Gives the dataset of a recipe's rate and length; each is written once."""
    there: dict[tuple[int, float], Path] = {}

    def dataset(recipe: Recipe) -> Path:
        key = (int(recipe.encoder.sample_rate_hz), float(recipe.data.window_s))
        if key not in there:
            rng = np.random.default_rng(0)
            wavs = [bird_sound(rng, key[1], key[0]) for _ in range(DIFFERENT)]
            wavs *= 1 if size.tiny else 32
            there[key] = write_dataset(
                folder / f"{key[0]}_{key[1]}", wavs, "flac", CLASSES, rate_hz=key[0]
            )
        return there[key]

    return dataset


# --------------------------------------------------------------------------- all of it


def _parts(
    size: Scale, chosen: dict[tuple[str, str], str]
) -> Iterator[tuple[str, tuple[str, str], Recipe]]:
    """Memory before shards, so that every pair has its first figures early."""
    for part in ("memory", "shards"):
        for pair, name in chosen.items():
            yield part, pair, load_recipe(name, overrides("here", size))


def run(
    report: Report,
    size: Scale | None = None,
    chosen: dict[tuple[str, str], str] | None = None,
    shards: Collection[tuple[str, str]] | None = None,
) -> None:
    """Train every pair from memory and from shards.

    Args:
        report: takes the figures.
        size: how much; None: what the machine can do in minutes.
        chosen: the pairs and their recipes; None: all.
        shards: the pairs that are trained from shards too; None: all.
    """
    size = size or scale()
    chosen = pairs(tiny=size.tiny) if chosen is None else chosen
    torch.set_float32_matmul_precision("high")
    rate = matrix_rate(report) if torch.cuda.is_available() else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        dataset = datasets(Path(folder), size)
        for part, pair, recipe in _parts(size, chosen):
            if part == "shards" and shards is not None and pair not in shards:
                continue
            target = TARGETS.get(pair, "")
            how = f"{' '.join(pair)}, {recipe.train.micro_batch} clips, {part}"
            if rate and time.monotonic() - began > BUDGET_S:
                print(f"{how}: not measured, the {BUDGET_S:.0f} s are over")
            elif part == "memory":
                from_memory(report, how, recipe, size, rate, target)
            elif recipe.objective.reads:
                print(f"{how}: not measured, it needs an earlier run")
            else:
                lines = train(Path(folder), dataset(recipe), recipe.name, size)
                report_run(report, how, lines, rate=rate, target=target)
            if rate:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(0 if print_table(run) else 1)
