"""The whole path in minutes: from sound to shards, two trainings, an evaluation and an export.

Every stage is the `chorus` command that a person would type; it is printed before it runs.
When the demo runs again, it skips the finished stages and continues.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from scripts.demo_plan import (
    TABLE,
    CannotDemonstrate,
    Division,
    divide,
    plan_source,
    run_folder,
)

REPO = Path(__file__).resolve().parents[1]
RUNS = Path("runs")
CHORUS = str(Path(sys.executable).with_name("chorus"))
# For --quick: enough steps to see that every stage works, too few to learn anything.
QUICK = ["train.global_batch=4", "train.micro_batch=4", "train.max_steps=6", "train.log_every=2",
         "train.validate_every=3", "train.checkpoint_every=3", "optim.warmup_steps=2",
         "data.workers=0"]  # fmt: skip
SMALL_CLIPS = 100
"""A folder with fewer clips has too little sound for the recipe's codebook."""


@dataclass(frozen=True)
class Demo:
    """The folders of one demo."""

    folder: Path
    quick: bool = False

    @property
    def dataset(self) -> Path:
        """Shards of the sounds."""
        return self.folder / "dataset"

    @property
    def noise(self) -> Path:
        """Shards of background noise, where the source has some."""
        return self.folder / "noise"

    @property
    def pretrain(self) -> Path:
        """The run of the first stage."""
        return self.folder / "pretrain"

    @property
    def posttrain(self) -> Path:
        """The run of the second stage."""
        return self.folder / "posttrain"

    @property
    def export(self) -> Path:
        """The Hugging Face repo."""
        return self.folder / "export"


def say(text: str) -> None:
    """A heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def refuse(message: str) -> NoReturn:
    """End the demo with a message, because the request cannot be fulfilled."""
    print(f"demo: {message}", file=sys.stderr)
    sys.exit(2)


def call(command: list[str], shown: str, *, may_fail: bool = False) -> bool:
    """Run a command and show it; return whether it succeeded. A failure ends the demo with the
    same exit code, unless it may fail.
    """
    print(f"$ {shown}", flush=True)
    code = subprocess.run(command).returncode
    if code and not (may_fail and code in (1, 2)):
        sys.exit(code)
    return code == 0


def chorus(*arguments: str, may_fail: bool = False) -> bool:
    """Run a `chorus` command."""
    return call([CHORUS, *arguments], f"chorus {shlex.join(arguments)}", may_fail=may_fail)


def prepare(demo: Demo, data: Path | None) -> None:
    """Shards of the person's sounds, or of the synthesised archive and its background noise."""
    source = data or demo.folder / "archive"
    if data is None and not (source / TABLE).is_file():
        say("1. A small archive, synthesised from a fixed seed")
        module = ["-m", "scripts.make_archive", str(source)]
        call([sys.executable, *module], f"python {shlex.join(module)}")
    say("2. Shards: 16 kHz FLAC in WebDataset tars, with an index, labels and licences")
    options = ["--make-folds", "5"]
    if data is not None:
        try:
            plan = plan_source(data, demo.folder)
        except CannotDemonstrate as err:
            refuse(f"{err}.".replace("..", "."))
        for note in plan.notes:
            print(f"Note: {note}.")
        options = [*plan.options, "--allow-broken"]
    chorus("prep", "folder", str(source), "--out", str(demo.dataset), *options)
    if (source / "noise" / TABLE).is_file():
        chorus("prep", "folder", str(source / "noise"), "--out", str(demo.noise))
    tell_what_is_missing(demo.dataset)


def tell_what_is_missing(dataset: Path) -> None:
    """Say how many sounds were left out and why, and how many have no licence."""
    stats = json.loads((dataset / "stats.json").read_text())
    if stats["rejected"]:
        reasons = ", ".join(f"{name} {n}" for name, n in stats["rejected_reasons"].items())
        total = stats["rejected"] + stats["recordings"]
        print(f"\nNote: {stats['rejected']} of {total} sounds are left out ({reasons}).")
    unknown = without_licence(dataset)
    if unknown:
        print(
            f"\nNote: {unknown} clips have no licence. The demo continues, but it will not export "
            "the model. To mend this, add a column `licence` to metadata.csv."
        )


def without_licence(dataset: Path) -> int:
    """How many clips of a dataset have no licence."""
    import pyarrow.parquet as pq

    rows = pq.read_table(dataset / "licences.parquet", columns=["licence_url", "clips"]).to_pylist()
    return sum(row["clips"] for row in rows if not row["licence_url"])


def train(demo: Demo, division: Division) -> None:
    """Pre-train without labels on all but the test part, then post-train from those weights."""
    common = [f"data.train.main.path={demo.dataset}", f"data.valid.main.path={demo.dataset}",
              *division.choose.overrides("data.valid.main"), f"runs={demo.folder}",
              *(QUICK if demo.quick else [])]  # fmt: skip
    noise = []
    if (demo.noise / "index.parquet").is_file():
        noise = ["augment.noise_prob=0.5", f"data.noise.noise.path={demo.noise}"]
    small = []
    if json.loads((demo.dataset / "stats.json").read_text())["clips"] < SMALL_CLIPS:
        small = ["objective.tokenizer.codebook_size=32", "objective.tokenizer.whiten=0.75"]
    say("3. Masked-token pre-training of a small BEATs; no labels are used")
    chorus("train", "ssl_beats_tiny", "name=pretrain", *common, *small,
           *division.hear.overrides("data.train.main"), *noise)  # fmt: skip
    if division.no_labels_because:
        print(f"\nNo post-training and no evaluation: {division.no_labels_because}.")
        return
    say("4. Supervised post-training from it")
    quick = ["optim.head_only_steps=1"] if demo.quick else []
    chorus("train", "sl_beats_tiny", "name=posttrain", f"init_from={demo.pretrain}", *common,
           *division.learn.overrides("data.train.main"), *noise, *quick)  # fmt: skip


def evaluate(demo: Demo, division: Division) -> bool:
    """Probe, retrieval and clustering on the part that no model has learned labels from; return
    whether that was possible.
    """
    say("5. Evaluation on the held-out part: log-mel statistics, random weights, and both models")
    for run in (demo.pretrain, demo.posttrain):
        # Both models have the same parts, so the baselines are measured only with the first.
        alone = ["baselines.logmel=false", "baselines.random_init=false"]
        done = chorus(
            "evaluate", str(run), f"data={demo.dataset}", *division.test_options,
            "rare_classes=drop", "window_s=3", "long_clips=mean",
            *(alone if run == demo.posttrain else []), "--preset", "fast", may_fail=True,
        )  # fmt: skip
        if not done:
            print("\nNo evaluation: the line above says why; the report goes on without.")
            return False
    return True


def licence_options(run: Path) -> list[str] | None:
    """Options for an export whose licence does not follow from the sounds; None: no export.

    A person who tries the demo may have sounds without a licence, or with an unusual one.
    """
    from dawnchorus.trainer.hub.licences import strictest
    from dawnchorus.trainer.hub.provenance import ledger, stages_of

    found = [share.licence for share in ledger(stages_of(run)).licences]
    if not found or not all(licence.text for licence in found):
        return None
    if strictest(found) is not None:
        return []
    return ["--licence", "other", "--card", "licence_name=not decided",
            "--card", "licence_link=README.md"]  # fmt: skip


def publish(demo: Demo, author: str, *, evaluated: bool) -> bool:
    """Export and report; returns whether there is an export."""
    say("6. Export as a Hugging Face repo, and a report of it all")
    runs = [run for run in (demo.pretrain, demo.posttrain) if run.is_dir()]
    exported = False
    options = licence_options(runs[-1]) if evaluated else None
    if options is not None:
        exported = chorus(
            "export", str(runs[-1]), "--out", str(demo.export), "--author", author,
            "--repo-id", "dawnchorus/demo", *options, "--overwrite", may_fail=True,
        )  # fmt: skip
    elif evaluated:
        print(
            "Not exported: some of the sounds have no licence. Add a column `licence` to "
            f"metadata.csv and run this again; the model is in {runs[-1]}."
        )
    else:
        print(f"Not exported: a model card needs an evaluation. The model is in {runs[-1]}.")
    chorus("report", *map(str, runs), "--out", str(demo.folder / "report.html"))
    return exported


def summary(demo: Demo, seconds: float, *, evaluated: bool, exported: bool) -> None:
    """Print the table of results, the paths, and how to load the model."""
    from rich.console import Console

    from dawnchorus.trainer.cli import loading_lines
    from dawnchorus.trainer.evaluation.tables import compared, comparison_table, facts

    model = demo.posttrain if demo.posttrain.is_dir() else demo.pretrain
    if evaluated:
        results = {
            name: json.loads((run / "evaluation" / f"{demo.dataset.name}.json").read_text())
            for name, run in (("pre-trained", demo.pretrain), ("post-trained", demo.posttrain))
        }
        console = Console(width=None if sys.stdout.isatty() else 110)
        console.print()
        console.print(comparison_table(results))
        console.print(facts(results["post-trained"]), highlight=False)
        if wins := compared(results).wins:
            console.print(wins, highlight=False)
    report = demo.folder / "report.html"
    shown = demo.export if exported else model
    print(f"\n{seconds:.0f} s in all.   Report: {report}   Model: {shown}")
    if exported:
        lines = loading_lines(demo.export)
        print(f"\nLoad it anywhere (`pip install transformers torch`):\n\n{lines}\n")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with audio and metadata.csv, or with one folder of audio per label; "
        "default: a synthesised one",
    )
    parser.add_argument("--author", default="dawnchorus demo", help="for the model card")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="train only a few steps, to see whether every stage works; also DEMO_QUICK=1",
    )
    arguments = parser.parse_args()
    quick = arguments.quick or os.environ.get("DEMO_QUICK", "") not in ("", "0")
    data = arguments.data
    if data is not None and not data.is_dir():
        refuse(f"{data} is not a folder")
    start = time.monotonic()
    folder = run_folder(data, RUNS) if data is not None else RUNS / "demo"
    demo = Demo(folder.with_name(f"{folder.name}-quick") if quick else folder, quick)
    demo.folder.mkdir(parents=True, exist_ok=True)
    prepare(demo, data)
    try:
        division = divide(demo.dataset)
    except CannotDemonstrate as err:
        refuse(f"{err}.")
    train(demo, division)
    evaluated = not division.no_labels_because and evaluate(demo, division)
    exported = publish(demo, arguments.author, evaluated=evaluated)
    summary(demo, time.monotonic() - start, evaluated=evaluated, exported=exported)


if __name__ == "__main__":
    main()
