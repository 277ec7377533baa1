"""`chorus submit`: check, copy recipe and code into the run folder, write and submit the script."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.slurm import scheduler
from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.estimate import estimate
from dawnchorus.slurm.profile import ClusterProfile, as_plain, load_profile
from dawnchorus.slurm.script import JobScript, write_script
from dawnchorus.slurm.snapshot import keep_code
from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.recipe_data import missing_inputs

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe

RECORD = "submission.json"
RECIPE = "submitted.yaml"


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted (its job_id is "" on a dry run)."""

    job_id: str
    run: Path
    script: Path


def split_overrides(overrides: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """Sort overrides into (name of the profile, overrides of the profile, those of the recipe)."""
    name, ours, theirs = None, [], []
    for override in overrides:
        if override.startswith("cluster="):
            name = override.removeprefix("cluster=")
        elif override.startswith("cluster."):
            ours.append(override)
        else:
            theirs.append(override)
    return name, ours, theirs


def profile_from(name: str | None, overrides: Sequence[str]) -> ClusterProfile:
    """Load the named profile. Raises SubmitError if no profile is named."""
    if name is None:
        raise SubmitError(
            "no cluster is named: add cluster=NAME (a file of recipes/cluster, without .yaml) or "
            "cluster=PATH"
        )
    return load_profile(name, overrides)


def prepare_recipe(
    recipe: str, overrides: Sequence[str], profile: ClusterProfile, *, later: Collection[str] = ()
) -> Recipe:
    """Load a recipe as the job will run it, and check what can be checked from here.

    Args:
        recipe: name or path of the recipe.
        overrides: overrides of the recipe.
        profile: the profile that decides nodes and devices.
        later: keys whose files an earlier job will make, so that they need not exist yet.

    Raises:
        RecipeError: the recipe has a mistake.
        SubmitError: data or a checkpoint is missing, or the processes do not divide the batch.
    """
    from dawnchorus.trainer.recipe import load_recipe, odd_texts

    fixed = [
        f"train.nodes={profile.nodes}", f"train.devices={profile.tasks}",
        f"train.accelerator={'gpu' if profile.gpus_per_node else 'cpu'}",
    ]  # fmt: skip
    problems = []
    try:
        loaded = load_recipe(recipe, [*overrides, *fixed])
    except RecipeError as error:
        loaded = load_recipe(recipe, overrides)  # raises for mistakes that no cluster can mend
        problems.append(str(error))
    loaded = loaded.model_copy(update={"runs": str(Path(loaded.runs).resolve())})
    problems += odd_texts(loaded) + missing_inputs(loaded, later=later)
    if problems:
        raise SubmitError("nothing was submitted:\n  " + "\n  ".join(problems))
    return loaded


def training_script(
    recipe: Recipe, profile: ClusterProfile, *, extra: Sequence[str] = ()
) -> JobScript:
    """Make the job script of one training run."""
    run = recipe.folder
    return JobScript(
        name=recipe.name,
        title=f"{recipe.name}: {profile.nodes} node(s) x {profile.tasks} process(es)",
        run=run,
        command=("chorus", "train", str(run / RECIPE)),
        profile=profile,
        code=run / "code",
        extra=tuple(extra),
    )


def fix_in_folder(recipe: Recipe, *, code: bool = True) -> None:
    """Write the resolved recipe and the code into the run folder.

    Raises:
        SubmitError: a job already works in the folder.
        RecipeError: the folder holds a run of another recipe.
    """
    from dawnchorus.trainer.training.run_folder import check_folder

    run = recipe.folder
    busy = active_job(run)
    if busy is not None:
        raise SubmitError(
            f"job {busy} works in {run} or waits in the queue: stop it with `chorus cancel "
            f"{run.name}`, or give this run another name (name=...)"
        )
    check_folder(recipe)
    run.mkdir(parents=True, exist_ok=True)
    text = plain_yaml.dump(recipe.resolved())
    (run / RECIPE).write_text("# As submitted.\n" + text, encoding="utf-8")
    if code:
        keep_code(run / "code")


def active_job(run: Path) -> str | None:
    """Id of the job of this run folder, if SLURM knows that it has not ended; else None."""
    job_id = read_record(run).get("job_id")
    state = scheduler.states([job_id]).get(job_id) if job_id else None
    alive = ("PENDING", "HELD", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED",
             "REQUEUE_HOLD", "RESIZING")  # fmt: skip
    return str(job_id) if state in alive else None


def read_record(run: Path) -> dict[str, Any]:
    """Read the record of the last submission of this run folder; empty without one."""
    try:
        found = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def record(run: Path, job_id: str, script: JobScript) -> None:
    """Write down which job works on a run folder."""
    line = {
        "job_id": job_id, "script": str(script.path), "time": round(time.time(), 3),
        "cluster": as_plain(script.profile),
    }  # fmt: skip
    (run / RECORD).write_text(json.dumps(line, indent=1) + "\n", encoding="utf-8")


def hand_over(script: JobScript, *options: str) -> str:
    """Write the script, submit it and record it; returns the job id."""
    path = write_script(script)
    job_id = scheduler.submit(str(path), *options)
    for number, run in enumerate(script.array_runs):
        record(run, f"{job_id}_{number}", script)
    record(script.run, job_id, script)
    return job_id


def submit(recipe: str, overrides: Sequence[str], *, dry_run: bool = False) -> Submitted:
    """Submit one training run.

    Raises:
        SubmitError, RecipeError: nothing was submitted; the message lists every mistake.
    """
    name, ours, theirs = split_overrides(overrides)
    profile = profile_from(name, ours)
    loaded = prepare_recipe(recipe, theirs, profile)
    script = training_script(loaded, profile)
    for line in estimate(loaded, profile.nodes * profile.tasks).lines:
        print(line)
    if dry_run:
        print(script.text())
        return Submitted("", loaded.folder, script.path)
    fix_in_folder(loaded)
    job_id = hand_over(script)
    return Submitted(job_id, loaded.folder, script.path)


def how_to(submitted: Submitted) -> list[str]:
    """Lines for the screen: how to watch and stop the run."""
    name = submitted.run.name
    return [
        f"job       {submitted.job_id}",
        f"run       {submitted.run}",
        f"script    {submitted.script}",
        f"watch     chorus runs show {name}     tail -f {submitted.run}/logs/slurm-*.log",
        f"stop      chorus cancel {name}     (saves first; the same submission continues it)",
    ]
