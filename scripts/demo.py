"""The whole path in minutes: from sound to shards, two trainings, an evaluation and an export.

Every stage is the `chorus` command that a person would type; it is printed before it runs.
Run again, it continues: what is finished is passed over.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

DEMO = Path("runs/demo")
DATASET, NOISE, EXPORT = DEMO / "dataset", DEMO / "noise", DEMO / "export"
PRETRAIN, POSTTRAIN = DEMO / "pretrain", DEMO / "posttrain"
CHORUS = str(Path(sys.executable).with_name("chorus"))


def say(text: str) -> None:
    """A heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def refuse(message: str) -> NoReturn:
    """End: what was asked for cannot be done."""
    print(f"demo: {message}", file=sys.stderr)
    sys.exit(2)


def call(command: list[str], shown: str) -> None:
    """Run a command and show it; a failure ends the demo with the same exit code."""
    print(f"$ {shown}", flush=True)
    code = subprocess.run(command).returncode
    if code:
        sys.exit(code)


def chorus(*arguments: str) -> None:
    """Run a `chorus` command."""
    call([CHORUS, *arguments], f"chorus {shlex.join(arguments)}")


def listed(values: list[str]) -> str:
    """A list of strings in the override grammar."""
    return "[" + ",".join(values) + "]"


def check_same_data(source: str) -> None:
    """A second demo on other sounds must not continue the first one's runs."""
    mark = DEMO / "source.txt"
    if mark.is_file() and mark.read_text() != source:
        refuse(
            f"{DEMO} holds a demo on {mark.read_text()}; delete that folder to run one on {source}"
        )
    DEMO.mkdir(parents=True, exist_ok=True)
    mark.write_text(source)


def prepare(data: Path | None) -> None:
    """Shards of the person's sounds, or of the synthesised archive and its background noise."""
    source = data or DEMO / "archive"
    if data is None and not (source / "metadata.csv").is_file():
        say("1. A small archive, synthesised from a fixed seed")
        module = ["-m", "scripts.make_archive", str(source)]
        call([sys.executable, *module], f"python {shlex.join(module)}")
    say("2. Shards: 16 kHz FLAC in WebDataset tars, with an index, labels and licences")
    chorus("prep", "folder", str(source), "--out", str(DATASET), "--make-folds", "5")
    if (source / "noise" / "metadata.csv").is_file():
        chorus("prep", "folder", str(source / "noise"), "--out", str(NOISE))
    unknown = without_licence(DATASET)
    if unknown:
        print(
            f"\nNote: {unknown} clips have no licence. All goes on without, but the model will not "
            "be exported. A column `licence` in metadata.csv says it."
        )


def without_licence(dataset: Path) -> int:
    """How many clips of a dataset have no licence."""
    import pyarrow.parquet as pq

    rows = pq.read_table(dataset / "licences.parquet", columns=["licence_url", "clips"]).to_pylist()
    return sum(row["clips"] for row in rows if not row["licence_url"])


def folds() -> tuple[list[str], list[str], list[str]]:
    """(train, valid, test) folds: one chooses the checkpoint, one is kept from all learning."""
    names = sorted(json.loads((DATASET / "stats.json").read_text())["folds"])
    if len(names) < 3:
        refuse(f"the fold column has {len(names)} values; at least 3 are needed")
    return names[:-2], names[-2:-1], names[-1:]


def train() -> None:
    """Pre-train without labels on everything but the test folds, then post-train from that."""
    learn, choose, test = folds()
    common = [f"data.train.main.path={DATASET}", f"data.valid.main.path={DATASET}",
              f"data.valid.main.folds={listed(choose)}", f"runs={DEMO}"]  # fmt: skip
    noise = []
    if (NOISE / "index.parquet").is_file():
        noise = ["augment.noise_prob=0.5", f"data.noise.noise.path={NOISE}"]
    say("3. Masked-token pre-training of a small BEATs; no labels are used")
    chorus("train", "ssl_beats_tiny", "name=pretrain", *common,
           f"data.train.main.exclude_folds={listed([*choose, *test])}", *noise)  # fmt: skip
    say("4. Supervised post-training from it")
    chorus("train", "sl_beats_tiny", "name=posttrain", f"init_from={PRETRAIN}", *common,
           f"data.train.main.folds={listed(learn)}", *noise)  # fmt: skip


def evaluate() -> None:
    """Probe, retrieval and clustering on the folds that no model has learned labels from."""
    *_, test = folds()
    say("5. Evaluation on held-out folds: log-mel statistics, random weights, and both models")
    for run in (PRETRAIN, POSTTRAIN):
        # The baselines are those of the first: the splits are the same.
        alone = ["baselines.logmel=false", "baselines.random_init=false"] * (run == POSTTRAIN)
        chorus("evaluate", str(run), f"data={DATASET}", f"test_folds={listed(test)}",
               "rare_classes=drop", "window_s=5", "long_clips=mean", *alone,
               "--preset", "fast")  # fmt: skip


def licence_options() -> list[str] | None:
    """Options for an export whose licence does not follow from the sounds; None: it cannot be made.

    The sounds of a person who tries this out may have no licence, or an unusual one.
    """
    from dawnchorus.trainer.hub.licences import strictest
    from dawnchorus.trainer.hub.provenance import ledger, stages_of

    found = [share.licence for share in ledger(stages_of(POSTTRAIN)).licences]
    if not found or not all(licence.text for licence in found):
        return None
    if strictest(found) is not None:
        return []
    return ["--licence", "other", "--card", "licence_name=not decided",
            "--card", "licence_link=README.md"]  # fmt: skip


def publish(author: str) -> bool:
    """Export and report; returns whether there is an export."""
    say("6. Export as a Hugging Face repo, and a report of it all")
    options = licence_options()
    if options is None:
        print(
            "Not exported: some of the sounds have no licence. Add a column `licence` to "
            f"metadata.csv, delete {DEMO} and run this again; the model is in {POSTTRAIN}."
        )
    else:
        chorus("export", str(POSTTRAIN), "--out", str(EXPORT), "--author", author,
               "--repo-id", "dawnchorus/demo", *options, "--overwrite")  # fmt: skip
    chorus("report", str(PRETRAIN), str(POSTTRAIN), "--out", str(DEMO / "report.html"))
    return options is not None


def summary(seconds: float, *, exported: bool) -> None:
    """The table, where things are, and how to load the model."""
    from rich.console import Console

    from dawnchorus.trainer.cli import loading_lines
    from dawnchorus.trainer.evaluation.tables import comparison_table, facts

    results = {
        name: json.loads((run / "evaluation" / f"{DATASET.name}.json").read_text())
        for name, run in (("pre-trained", PRETRAIN), ("post-trained", POSTTRAIN))
    }
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print()
    console.print(comparison_table(results))
    console.print(facts(results["post-trained"]), highlight=False)
    model = EXPORT if exported else POSTTRAIN
    print(f"\n{seconds:.0f} s in all.   Report: {DEMO / 'report.html'}   Model: {model}")
    if not exported:
        return
    print(f"\nLoad it anywhere (`pip install transformers torch`):\n\n{loading_lines(EXPORT)}\n")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with audio and metadata.csv; default: a synthesised one"
    )
    parser.add_argument("--author", default="dawnchorus demo", help="for the model card")
    arguments = parser.parse_args()
    if arguments.data is not None and not (arguments.data / "metadata.csv").is_file():
        refuse(f"there is no metadata.csv in {arguments.data} (columns: see docs/data.md)")
    start = time.monotonic()
    check_same_data(str(arguments.data.resolve()) if arguments.data else "the synthesised archive")
    prepare(arguments.data)
    train()
    evaluate()
    exported = publish(arguments.author)
    summary(time.monotonic() - start, exported=exported)


if __name__ == "__main__":
    main()
