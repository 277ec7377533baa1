"""`chorus prep shards --slurm`: one job plans, an array of jobs writes parts, one joins them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dawnchorus.slurm import scheduler
from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.profile import ClusterProfile
from dawnchorus.slurm.script import Expanded, JobScript, dependency
from dawnchorus.slurm.snapshot import keep_code
from dawnchorus.slurm.submit import active_job, hand_over, profile_from

MERGE_OPTIONS = ("max_broken", "allow_broken")


@dataclass(frozen=True)
class SubmittedParts:
    """The ids of three jobs: plan, array and merge (each is "" on a dry run)."""

    plan_id: str
    array_id: str
    merge_id: str
    folder: Path
    """Folder of the scripts and logs, beside the dataset."""
    parts: int

    def how_to(self) -> list[str]:
        """Lines for the screen: how to watch and stop the jobs."""
        return [
            f"job       {self.array_id}, {self.parts} parts; {self.merge_id} joins them",
            f"plan      {self.plan_id} runs first: it reads the table and checks the files, once",
            f"scripts   {self.folder}",
            f"watch     squeue --jobs {self.plan_id},{self.array_id},{self.merge_id}     "
            f"tail -f {self.folder}/logs/*.log",
            f"stop      scancel {self.plan_id} {self.array_id} {self.merge_id}     (the same "
            "command continues)",
        ]


def prep_profile(name: str, overrides: Sequence[str]) -> ClusterProfile:
    """Load a profile of `recipes/cluster` (or a path) and leave out what only training needs.

    The jobs run one process tree on one node, without a GPU and with the cluster's default memory,
    unless an override says otherwise ("partition=cpu", "memory_gb=16").
    """
    plain = ["gpus_per_node=0", "gpu_type=null", "tasks_per_node=1", "nodes=1", "memory_gb=null"]
    return profile_from(name, [f"cluster.{x}" for x in [*plain, *overrides]])


def submit_parts(
    table: Path,
    out: Path,
    *,
    audio: Path | None,
    parts: int,
    profile: ClusterProfile,
    options: dict[str, Any],
    dry_run: bool = False,
) -> SubmittedParts:
    """Submit the shards of a recording table as a plan, `parts` array tasks and a merge.

    Args:
        table: `recordings.parquet` or its folder.
        out: the dataset's folder; scripts, logs and the code go into `<out>-jobs`.
        audio: the folder to which the table's paths are relative.
        parts: number of tasks; each writes every `parts`-th shard.
        profile: the resources that each task asks for.
        options: fields of `data_prep.dataset.options.BuildOptions` that differ from the default.
        dry_run: print the scripts and submit nothing.

    Raises:
        SubmitError: a job already writes this dataset, or SLURM refuses; nothing was submitted.
    """
    table, out = table.resolve(), out.resolve()
    folder = out.with_name(out.name + "-jobs")
    busy = active_job(folder)
    if busy is not None:
        raise SubmitError(
            f"job {busy} already writes {out}, or waits in the queue to do so: wait for it, or "
            f"stop it with scancel {busy}"
        )
    scripts = _scripts(table, out, folder, audio, parts, profile, options)
    if dry_run:
        for script in scripts:
            print(script.text())
        return SubmittedParts("", "", "", folder, parts)
    keep_code(folder / "code")
    ids: list[str] = []
    try:
        for script in scripts:
            ids.append(hand_over(script, *(dependency("afterok", ids[-1:]) if ids else ())))
    except SubmitError:
        for job_id in ids:
            scheduler.cancel(job_id)
        raise
    plan_id, array_id, merge_id = ids
    return SubmittedParts(plan_id, array_id, merge_id, folder, parts)


def _scripts(
    table: Path,
    out: Path,
    folder: Path,
    audio: Path | None,
    parts: int,
    profile: ClusterProfile,
    options: dict[str, Any],
) -> tuple[JobScript, JobScript, JobScript]:
    """Make the scripts of plan, array and merge; `folder` holds scripts, logs and code."""
    where = ["--audio", str(audio.resolve())] if audio is not None else []
    if "jobs" not in options:
        where += ["--jobs", Expanded('"$SLURM_CPUS_PER_TASK"')]
    command = (
        "chorus", "prep", "shards", str(table), "--out", str(out), *where, *command_line(options)
    )  # fmt: skip
    array = JobScript(
        name=f"{out.name}-shards",
        title=f"the shards of {out.name}, in {parts} parts",
        run=folder,
        command=(*command, "--part", Expanded(f'"$((SLURM_ARRAY_TASK_ID + 1))/{parts}"')),
        profile=profile,
        code=folder / "code",
        train=False,
        array_size=parts,
        requeue=True,
        file="shards.sh",
    )  # fmt: skip
    broken = {key: options[key] for key in MERGE_OPTIONS if key in options}
    merge = replace(
        array,
        name=f"{out.name}-merge",
        title=f"{out.name}: join the parts",
        command=("chorus", "prep", "merge", str(out), *command_line(broken)),
        array_size=0,
        file="merge.sh",
    )
    plan = replace(
        array,
        name=f"{out.name}-plan",
        title=f"{out.name}: what goes into which shard",
        command=(*command, "--plan"),
        array_size=0,
        file="plan.sh",
    )
    return plan, array, merge


def command_line(options: dict[str, Any]) -> list[str]:
    """Write options as arguments: {"codec": "wav", "allow_broken": True} gives
    `--codec wav --allow-broken`.
    """
    words = []
    for key, value in options.items():
        words.append("--" + key.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def changed(options: dict[str, Any], kind: type) -> dict[str, Any]:
    """The options whose value is not the default of the dataclass `kind`."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    return {key: value for key, value in options.items() if value != defaults[key]}
