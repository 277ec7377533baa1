"""The whole path in minutes: sound -> shards -> pre-training -> post-training -> evaluation -> export.

Every stage is the `chorus` command that a person would type; it is printed before it runs.
Run again, it continues: finished stages are passed over.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path("runs/demo")
CHORUS = [str(Path(sys.executable).with_name("chorus"))]
# Held out from post-training, so that the table compares on recordists no model has learned from.
TEST_FOLDS, TRAIN_FOLDS, VALID_FOLDS = ["3", "4"], ["0", "1"], ["2"]
FOLDS = 5


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def chorus(*arguments: str) -> None:
    """Run a chorus command and show it; a failure ends the demo with the same exit code."""
    print(f"$ chorus {shlex.join(arguments)}", flush=True)
    code = subprocess.run([*CHORUS, *arguments]).returncode
    if code:
        sys.exit(code)


def listed(values: list[str]) -> str:
    return "[" + ",".join(f"'{v}'" for v in values) + "]"


def prepare(data: Path | None) -> Path:
    """Shards of the person's sounds, or of the synthesised archive."""
    dataset = DEMO / "dataset"
    source = data
    if source is None:
        source = DEMO / "archive"
        if not (source / "metadata.csv").is_file():
            say("1. A small archive, synthesised from a fixed seed")
            subprocess.run([sys.executable, "-m", "scripts.make_archive", str(source)], check=True)
    say("2. Shards: 16 kHz FLAC in WebDataset tars, with an index")
    chorus("prep", "folder", str(source), "--out", str(dataset))
    return dataset


def train(dataset: Path) -> None:
    """Pre-train on everything but the test folds, then post-train from that."""
    path = f"data.train.main.path={dataset}"
    say("3. Masked-token pre-training of a small BEATs (no labels are used)")
    chorus("train", "ssl_beats_tiny", path, "runs=runs/demo", "name=pretrain",
           f"data.train.main.exclude_folds={listed(TEST_FOLDS)}")  # fmt: skip
    say("4. Supervised post-training from it")
    chorus("train", "sl_beats_tiny", path, "runs=runs/demo", "name=posttrain",
           "init_from=runs/demo/pretrain", f"data.train.main.folds={listed(TRAIN_FOLDS + VALID_FOLDS)}",
           )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with audio and metadata.csv; default: synthesised")
    start = time.monotonic()
    dataset = prepare(parser.parse_args().data)
    train(dataset)


if __name__ == "__main__":
    main()
