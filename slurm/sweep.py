"""`chorus submit --sweep`: one job array with a run folder per task, and a table at the end."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.script import Expanded, JobScript
from dawnchorus.slurm.snapshot import keep_code
from dawnchorus.slurm.submit import (
    Submitted,
    fix_in_folder,
    hand_over,
    prepare_recipe,
    profile_from,
    split_overrides,
)


def read_sweep(text: str) -> list[list[str]]:
    """Read `optim.lr=1e-4,3e-4 seed=0,1` into the overrides of each run: all combinations.

    Blanks and commas inside brackets or quotes belong to the value: `init_from='a, b',c`.
    """
    axes = []
    for word in _cut(text, r"\s"):
        key, equals, values = word.partition("=")
        if not equals or not values:
            raise SubmitError(f"cannot read {word!r} of --sweep: write key=value,value")
        axes.append([f"{key}={value}" for value in _cut(values, ",")])
    if not axes:
        raise SubmitError("--sweep names nothing: write --sweep 'optim.lr=1e-4,3e-4'")
    return [list(combination) for combination in itertools.product(*axes)]


def _cut(text: str, at: str) -> list[str]:
    """Split at a character, except inside brackets and inside quotes that enclose a whole value."""
    bracketed = r"\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)"
    quoted = r"(?<![^\s=,])(?:'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\")(?=[\s,]|\Z)"
    return re.findall(rf"(?:{bracketed}|{quoted}|(?!{at}).)+", text, re.DOTALL)


def sweep_name(base: str, overrides: Sequence[str]) -> str:
    """Name a run of a sweep after its values: my_run-lr_1e-4."""
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        part = re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{key.split('.')[-1]}_{value}")
        parts.append(part.strip("_"))
    return "-".join([base, *parts])


def submit_sweep(
    recipe: str, overrides: Sequence[str], sweep: str, *, at_once: int | None, dry_run: bool = False
) -> list[Submitted]:
    """Submit one job array, a run folder per task, and a job that makes a table at the end.

    Raises:
        SubmitError, RecipeError: nothing was submitted.
    """
    name, ours, theirs = split_overrides(overrides)
    profile = profile_from(name, ours)
    base = prepare_recipe(recipe, theirs, profile)
    runs = []
    for special in read_sweep(sweep):
        title = sweep_name(base.name, special)
        runs.append(prepare_recipe(recipe, [*theirs, *special, f"name={title}"], profile))
    home = Path(base.runs) / f"{base.name}-sweep"
    folders = tuple(r.folder for r in runs)
    if len(set(folders)) < len(folders):
        raise SubmitError(
            "two runs of the sweep would have the same name: --sweep lists a value twice"
        )
    array = JobScript(
        name=base.name, title=f"sweep of {len(runs)} runs: {' '.join(sweep.split())}", run=home,
        command=("chorus", "train", Expanded('"$RUN/submitted.yaml"')), profile=profile,
        code=home / "code", array_runs=folders, array_limit=at_once,
    )  # fmt: skip
    table = replace(
        array, name=f"{base.name}-table", title=f"table of {base.name}-sweep", train=False,
        command=("chorus", "runs", "table", *(str(f) for f in folders), "--out",
                 str(home / "table.md")), array_runs=(), array_limit=None, file="table.sh",
        profile=profile.light(cpus=1, memory_gb=2, time="15:00"),
    )  # fmt: skip
    if dry_run:
        print(array.text())
        print(table.text())
        return [Submitted("", folder, array.path) for folder in folders]
    for loaded in runs:
        fix_in_folder(loaded, code=False)
    keep_code(home / "code")
    job_id = hand_over(array)
    done = [Submitted(f"{job_id}_{i}", folder, array.path) for i, folder in enumerate(folders)]
    options = ("--dependency=afterany:" + job_id,)
    done.append(Submitted(hand_over(table, *options), home, table.path))
    return done
