"""`chorus submit --chain`: jobs that follow one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.slurm import scheduler
from dawnchorus.slurm.chain_recipe import Chain, Step, read_chain
from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.profile import ClusterProfile
from dawnchorus.slurm.script import JobScript, dependency
from dawnchorus.slurm.submit import (
    Submitted,
    fix_in_folder,
    hand_over,
    prepare_recipe,
    profile_from,
    split_overrides,
    training_script,
)
from dawnchorus.trainer.overrides import read_override

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Job:
    """One step of a chain, checked and ready."""

    step: Step
    script: JobScript
    recipe: Recipe
    """The recipe that the step trains, or the one whose run it works on."""

    @property
    def line(self) -> str:
        """For the screen."""
        step = self.step
        what = next(
            f"{key} {value}".rstrip()
            for key in ("train", "evaluate", "export")
            if (value := getattr(step, key)) is not None
        )
        takes = "".join(f"   {key} from {source}" for key, source in step.takes.items())
        return f"# {step.name:<12} {what}   in {self.script.run}{takes}"


def submit_chain(words: Sequence[str], *, dry_run: bool = False) -> list[Submitted]:
    """Submit the steps so that each starts after the one before; after a failure none starts.

    Recipes, datasets and the inputs of every step are checked before anything is submitted.

    Raises:
        SubmitError, RecipeError: a step cannot be submitted; nothing stays submitted.
    """
    chain, own, common = read_chain(words)
    name, ours, common = split_overrides(common)
    jobs = _prepared(chain, own, common, name, ours)
    if dry_run:
        for job in jobs:
            print(job.line)
        for job in jobs:
            print(job.script.text())
        return [Submitted("", job.script.run, job.script.path) for job in jobs]
    for job in jobs:
        if job.step.train is not None:
            fix_in_folder(job.recipe)
    done: list[Submitted] = []
    try:
        for job in jobs:
            options = dependency("afterok", [done[-1].job_id]) if done else ()
            job_id = hand_over(job.script, *options)
            done.append(Submitted(job_id, job.script.run, job.script.path))
    except SubmitError:
        for submitted in done:
            scheduler.cancel(submitted.job_id)
        raise
    return done


def _prepared(
    chain: Chain, own: dict[str, list[str]], common: list[str], name: str | None, ours: list[str]
) -> list[Job]:
    """The jobs of all steps. Raises SubmitError, RecipeError for the first that cannot run."""
    jobs: dict[str, Job] = {}
    for step in chain.steps:
        profile = profile_from(name, [*ours, *(f"cluster.{word}" for word in step.cluster)])
        overrides = own[step.name]
        if step.train is not None:
            jobs[step.name] = _training(chain, step, [*common, *overrides], profile, jobs)
            continue
        trained = [job for job in jobs.values() if job.step.train is not None]
        about = jobs[step.of] if step.of else trained[-1]
        code = about.script.code
        script = _after(step, overrides, profile, about.recipe, code)
        jobs[step.name] = Job(step, script, about.recipe)
    folders = [job.script.run for job in jobs.values() if job.step.train is not None]
    if len(set(folders)) < len(folders):
        raise SubmitError("two steps have the same run folder: set STEP.name=... for one of them")
    return list(jobs.values())


def _training(
    chain: Chain, step: Step, overrides: list[str], profile: ClusterProfile, jobs: dict[str, Job]
) -> Job:
    """The job of a training step; its recipe may read the run folders of earlier steps."""
    assert step.train is not None
    named = [f"name={chain.name}-{step.name}"] if chain.name else []
    fed = [f"{key}={jobs[source].recipe.folder}" for key, source in step.takes.items()]
    recipe = prepare_recipe(step.train, [*named, *overrides, *fed], profile, later=step.takes)
    return Job(step, training_script(recipe, profile), recipe)


def _after(
    step: Step, overrides: list[str], profile: ClusterProfile, recipe: Recipe, code: Path
) -> JobScript:
    """A job of one task that works on a finished run."""
    run = recipe.folder
    if step.evaluate is not None:
        command = _evaluation(step, overrides, run)
        profile = profile.one_gpu()
    else:
        command = _export(step, overrides, recipe)
        # The weights of BEATs large take 1.3 GB. An export holds a few copies in memory and
        # writes two.
        profile = profile.light(cpus=4, memory_gb=16, time="1:00:00")
    return JobScript(
        name=f"{run.name}-{step.name}", title=f"{step.name} of {run.name}", run=run,
        command=tuple(command), profile=profile, code=code, train=False, file=f"{step.name}.sh",
    )  # fmt: skip


def _evaluation(step: Step, overrides: list[str], run: Path) -> list[str]:
    """The command of an evaluation. Mistakes are found now, not days later when the job starts."""
    from dawnchorus.trainer.evaluation.config import load_config

    data = str(step.evaluate)
    if "://" not in data and not (Path(data) / "index.parquet").is_file():
        raise SubmitError(
            f"{step.name}: there is no finished dataset at {data} (see `chorus prep`)"
        )
    data = data if "://" in data else str(Path(data).resolve())
    load_config([f"data={data}", *overrides], step.preset)
    preset = step.preset
    if preset.endswith((".yaml", ".yml")):
        preset = str(Path(preset).resolve())
    chosen = [] if preset == "default" else ["--preset", preset]
    return ["chorus", "evaluate", str(run), f"data={data}", *overrides, *chosen]


def _export(step: Step, overrides: list[str], recipe: Recipe) -> list[str]:
    """The command of an export. Mistakes are found now, not days later when the job starts."""
    from dawnchorus.trainer.hub.card_config import CardConfig

    given = {read_override(word).path[0]: word.partition("=")[2] for word in overrides}
    known = [field.name for field in dataclasses.fields(CardConfig)]
    if unknown := sorted(set(given) - set(known)):
        raise SubmitError(f"{step.name}.{unknown[0]}: no such field; known: {', '.join(known)}")
    if not (given.get("author") or recipe.card.author):
        raise SubmitError(f"who publishes the model? Add {step.name}.author='Jane Doe'")
    out = Path(step.export).resolve() if step.export else recipe.folder / "export"
    command = ["chorus", "export", str(recipe.folder), "--out", str(out)]
    for override in overrides:
        command += ["--card", override]
    return command
