"""`chorus prep shards` and `merge`, `chorus data verify` and `describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dawnchorus.data_prep.commands.apps import STEPS, data_app, friendly_errors, prep_app
from dawnchorus.data_prep.commands.generated_options import with_options
from dawnchorus.data_prep.dataset.options import BuildOptions
from dawnchorus.data_prep.errors import PrepError

CLUSTER = "On a SLURM cluster"

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")]


@prep_app.command("shards", rich_help_panel=STEPS)
@with_options(BuildOptions)
def shards(
    *,
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="recordings.parquet, or the folder that holds it."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DATASET", help="Folder to write the dataset to.")
    ],
    audio: Annotated[
        Path | None,
        typer.Option(
            "--audio",
            metavar="ROOT",
            help="What the table's paths are relative to. Default: the table's folder.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="I/N",
            help="Write only the I-th of N parts (1/N to N/N), for job arrays; `chorus prep merge` "
            "finishes the dataset when all are done.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only make the plan: read the table and the files' sizes and decide what goes "
            "into which shard, so that the parts that follow start at once.",
        ),
    ] = False,
    slurm: Annotated[
        str | None,
        typer.Option(
            "--slurm",
            metavar="PROFILE",
            help="Submit it to SLURM as a job array, with a job that joins the parts: a profile of "
            "recipes/cluster, or a path.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    parts: Annotated[
        int, typer.Option(help="Number of tasks of the array.", min=1, rich_help_panel=CLUSTER)
    ] = 16,
    cluster: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Override the profile for this job: [cyan]--cluster partition=cpu --cluster "
            "time=4:00:00[/]. GPUs and memory of the profile are those of training and are not "
            "asked for; cpus_per_task is how many processes a task has.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the job scripts and submit nothing.", rich_help_panel=CLUSTER
        ),
    ] = False,
    **options: Any,
) -> None:
    """Write the recordings of a table as a dataset of shards.

    The audio becomes mono 16-bit FLAC at 16 kHz in tar files (WebDataset), in pieces of at most a
    minute, with an index, labels, licences and a dataset card beside them. A run that was stopped
    is continued by the same command. Recordings whose path is empty are left out:
    `chorus prep download` fetches them.

    Examples:
      chorus prep shards selected --audio xc_audio --out datasets/xc

      chorus prep shards selected --out datasets/xc --slurm small --parts 32
    """
    from dawnchorus.data_prep.dataset import prepare

    with friendly_errors():
        if plan and part is not None:
            raise PrepError("--plan is for all parts: give it without --part.")
        if slurm is not None:
            if part is not None or plan:
                raise PrepError(
                    "--part is for one task; with --slurm every task has its own, and a job before "
                    "them makes the plan."
                )
            _submit(table, out, audio, slurm, parts, cluster or [], options, dry_run)
            return
        if dry_run or cluster:
            raise PrepError("--dry-run and --cluster go with --slurm PROFILE.")
        if plan:
            prepare.plan(table, out, audio=audio, **options)
            return
        prepare.prepare_shards(table, out, audio=audio, part=part, **options)


def _submit(
    table: Path,
    out: Path,
    audio: Path | None,
    name: str,
    parts: int,
    cluster: list[str],
    options: dict[str, Any],
    dry_run: bool,
) -> None:
    """Check everything that would otherwise fail in the tasks, then submit."""
    from dawnchorus.data_prep.dataset.prepare import check_request
    from dawnchorus.slurm.errors import SubmitError
    from dawnchorus.slurm.prep import changed, prep_profile, submit_parts

    check_request(table, audio, options)
    if (out / "index.parquet").is_file():
        raise PrepError(f"{out} is finished: `chorus data verify {out}` checks it.")
    try:
        done = submit_parts(
            table, out, audio=audio, parts=parts, profile=prep_profile(name, cluster),
            options=changed(options, BuildOptions), dry_run=dry_run,
        )  # fmt: skip
    except SubmitError as error:
        raise PrepError(str(error)) from error
    if not dry_run:
        typer.echo("\n".join(done.how_to()))


@prep_app.command("merge", rich_help_panel=STEPS)
def merge(
    dataset: Dataset,
    max_broken: Annotated[
        float,
        typer.Option(help="Stop when more than this share of the recordings is unusable."),
    ] = 0.01,
    allow_broken: Annotated[
        bool, typer.Option("--allow-broken", help="Never stop for unusable recordings.")
    ] = False,
) -> None:
    """Finish a dataset that `chorus prep shards --part` wrote; or say which parts are missing."""
    from dawnchorus.data_prep.dataset import prepare

    with friendly_errors():
        prepare.merge(dataset, max_broken=max_broken, allow_broken=allow_broken)


@data_app.command("verify")
def verify(
    dataset: Dataset,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Tables and tar headers only: no hash, nothing decoded."),
    ] = False,
    jobs: Annotated[int, typer.Option(help="Number of processes; 0: one per CPU core.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Problems to print at most.", min=1)] = 100,
) -> None:
    """Check a dataset against itself: every clip, every table, every hash.

    Ends with exit code 2 when anything is wrong, after all of it was looked at.
    """
    from dawnchorus.data_prep.dataset.verify import verify_dataset

    with friendly_errors("stopped"):
        report = verify_dataset(dataset, quick=quick, jobs=jobs, limit=limit)
    for line in report.lines():
        typer.echo(line)
    if report.count:
        raise typer.Exit(2)


@data_app.command("describe")
def describe(
    dataset: Dataset,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    top: Annotated[int, typer.Option(help="Labels and licences to show.", min=1)] = 20,
) -> None:
    """Show what a dataset holds: hours, splits, folds, labels, licences, what was left out."""
    from dawnchorus.data_prep.report.describe import describe_dataset, show

    with friendly_errors("stopped"):
        facts = describe_dataset(dataset)
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        show(facts, top=top)
