"""Jobs that follow one another, and sweeps: arrays with a run folder per task."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.script import JobScript, dependency
from dawnchorus.slurm.snapshot import keep_code
from dawnchorus.slurm.submit import (
    Submitted,
    fix_in_folder,
    hand_over,
    prepare_recipe,
    profile_from,
    split_overrides,
    training_script,
)

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe

STAGES = ("pretrain", "posttrain", "evaluate", "export")


def read_chain(words: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]], list[str]]:
    """(stage -> its argument, stage -> its overrides, the other overrides).

    `pretrain=RECIPE posttrain=RECIPE evaluate=DATASET export=FOLDER`; `posttrain.optim.lr=1e-4`
    is an override of that stage alone.
    """
    stages: dict[str, str] = {}
    own: dict[str, list[str]] = {stage: [] for stage in STAGES}
    common = []
    for word in words:
        key, _, value = word.partition("=")
        stage, dot, rest = key.partition(".")
        if key in STAGES:
            stages[key] = value
        elif dot and stage in STAGES:
            own[stage].append(f"{rest}={value}")
        else:
            common.append(word)
    if not {"pretrain", "posttrain"} & stages.keys():
        raise SubmitError(
            "a chain has a training stage: --chain pretrain=RECIPE posttrain=RECIPE "
            "evaluate=DATASET export=FOLDER (any of them, in this order)"
        )
    for stage in ("pretrain", "posttrain"):
        if stage in stages and not stages[stage]:
            raise SubmitError(f"which recipe? Write {stage}=RECIPE")
    if "evaluate" in stages and not stages["evaluate"]:
        raise SubmitError("on which dataset? Write evaluate=DATASET")
    return stages, own, common


def submit_chain(words: Sequence[str], *, dry_run: bool = False) -> list[Submitted]:
    """Submit the stages, each after the one before; a stage whose predecessor fails never starts.

    Raises:
        SubmitError, RecipeError: nothing was submitted.
    """
    stages, own, common = read_chain(words)
    name, ours, common = split_overrides(common)
    profile = profile_from(name, ours)
    scripts: list[JobScript] = []
    recipes = []
    before: Path | None = None
    for stage in ("pretrain", "posttrain"):
        if stage not in stages:
            continue
        overrides = [*common, *own[stage]]
        if before is not None:
            overrides.append(f"init_from={before}")
        loaded = prepare_recipe(stages[stage], overrides, profile, later=before is not None)
        recipes.append(loaded)
        scripts.append(training_script(loaded, profile))
        before = loaded.folder
    assert before is not None
    if len({r.folder for r in recipes}) < len(recipes):
        raise SubmitError("both stages have the same name: set posttrain.name=...")
    _check_later_stages(stages, own, recipes[-1])
    for stage in ("evaluate", "export"):
        if stage in stages:
            scripts.append(_after(stage, stages[stage], own[stage], scripts[-1], before))
    if dry_run:
        for script in scripts:
            print(script.text())
        return [Submitted("", s.run, s.path) for s in scripts]
    for loaded in recipes:
        fix_in_folder(loaded)
    done: list[Submitted] = []
    for script in scripts:
        options = dependency("afterok", [done[-1].job_id]) if done else ()
        done.append(Submitted(hand_over(script, *options), script.run, script.path))
    return done


def _check_later_stages(stages: dict[str, str], own: dict[str, list[str]], recipe: Recipe) -> None:
    """Find what would only end the last job, days from now. Raises SubmitError, RecipeError."""
    if "evaluate" in stages:
        from dawnchorus.trainer.evaluation.config import load_config

        data = stages["evaluate"]
        if "://" not in data and not (Path(data) / "index.parquet").is_file():
            raise SubmitError(f"evaluate={data}: there is no finished dataset (see `chorus prep`)")
        load_config([f"data={data}", *own["evaluate"]])
    if "export" in stages:
        from dawnchorus.trainer.hub.card_config import CardConfig

        given = dict(override.split("=", 1) for override in own["export"] if "=" in override)
        known = [field.name for field in dataclasses.fields(CardConfig)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SubmitError(f"export.{unknown[0]}: no such field; known: {', '.join(known)}")
        if not (given.get("author") or recipe.card.author):
            raise SubmitError("who publishes the model? Add export.author='Jane Doe'")


def _after(
    stage: str, argument: str, overrides: list[str], script: JobScript, run: Path
) -> JobScript:
    """A job of one task that works on a finished run."""
    if stage == "evaluate":
        data = argument if "://" in argument else str(Path(argument).resolve())
        command = ["chorus", "evaluate", str(run), f"data={data}", *overrides]
    else:
        out = Path(argument).resolve() if argument else run / "export"
        command = ["chorus", "export", str(run), "--out", str(out)]
        for override in overrides:
            command += ["--card", override]
    profile = script.profile.one_gpu()
    if stage == "export":
        # The weights of BEATs large are 1.3 GB, a few times in memory, and written twice.
        profile = script.profile.light(cpus=4, memory_gb=16, time="1:00:00")
    return replace(
        script, name=f"{run.name}-{stage}", title=f"{stage} of {run.name}", command=tuple(command),
        train=False, file=f"{stage}.sh", profile=profile,
    )  # fmt: skip


# --------------------------------------------------------------------------- sweeps


def read_sweep(text: str) -> list[list[str]]:
    """`optim.lr=1e-4,3e-4 seed=0,1` -> the overrides of each run, all combinations.

    Blanks and commas within brackets or quotes belong to the value: `init_from='a, b',c`.
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
    """Split at a character, but not within brackets, or quotes that begin a value and close."""
    bracketed = r"\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)"
    quoted = r"(?<![^\s=,])(?:'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\")(?=[\s,]|\Z)"
    return re.findall(rf"(?:{bracketed}|{quoted}|(?!{at}).)+", text, re.DOTALL)


def sweep_name(base: str, overrides: Sequence[str]) -> str:
    """A run name that says what is special about it: my_run-lr_1e-4."""
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
        raise SubmitError("two runs of the sweep would have the same name: a value occurs twice")
    array = JobScript(
        name=base.name, title=f"sweep of {len(runs)} runs: {' '.join(sweep.split())}", run=home,
        command=("chorus", "train", '"$RUN/submitted.yaml"'), profile=profile, code=home / "code",
        array_runs=folders, array_limit=at_once,
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
