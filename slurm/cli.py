"""`chorus submit`, `chorus runs` and `chorus cancel`; each imports its parts when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]

runs_app = typer.Typer(
    help="List your runs, with their progress, and show why one failed.",
    invoke_without_command=True,
)


def submit(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE cluster=PROFILE [KEY=VALUE]...",
            help="A recipe as for `chorus train`, a cluster profile (a name of recipes/cluster, or "
            "a path), and overrides of both: [cyan]cluster.time=4:00:00 optim.lr=1e-4[/].",
        ),
    ],
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="Submit several jobs, each after the one before. The four usual steps are "
            "pretrain=RECIPE posttrain=RECIPE evaluate=DATASET export=FOLDER. For other steps name "
            "the YAML file of a chain (see recipes/chain). `posttrain.optim.lr=1e-4` is an "
            "override for the step of that name alone.",
        ),
    ] = False,
    sweep: Annotated[
        str,
        typer.Option(
            help="Values to try, as one job array: 'optim.lr=1e-4,3e-4 seed=0,1'. A table of the "
            "runs is made at the end."
        ),
    ] = "",
    at_once: Annotated[
        int | None, typer.Option(min=1, help="How many runs of a sweep may run at a time.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, print the estimate and the scripts, submit nothing.",
        ),
    ] = False,
) -> None:
    """Submit training to SLURM: a job that survives pre-emption, time limits and dead nodes.

    It checks the recipe and whether data and checkpoints are there, copies recipe and code into the
    run folder, writes a job script that you can read (and hand to sbatch yourself), and submits it.

    Examples:
      chorus submit ssl_beats_base cluster=small data.train.main.path=/data/xc

      chorus submit --chain pretrain=ssl_beats_base posttrain=sl_beats_bio evaluate=/data/esc50
        cluster=large data.train.main.path=/data/xc

      chorus submit --chain my_chain.yaml cluster=large post.optim.lr=1e-4

      chorus submit sl_beats_bio cluster=small --sweep 'optim.lr=1e-4,3e-4'
    """
    from dawnchorus.slurm.chain import submit_chain
    from dawnchorus.slurm.errors import SubmitError
    from dawnchorus.slurm.submit import how_to
    from dawnchorus.slurm.submit import submit as submit_one
    from dawnchorus.slurm.sweep import submit_sweep

    if chain and sweep:
        raise SubmitError("--chain and --sweep do not go together: sweep a single recipe")
    if chain:
        done = submit_chain(words, dry_run=dry_run)
    elif sweep:
        done = submit_sweep(words[0], words[1:], sweep, at_once=at_once, dry_run=dry_run)
    else:
        done = [submit_one(words[0], words[1:], dry_run=dry_run)]
    if dry_run:
        return
    if len(done) == 1:
        typer.echo("\n".join(how_to(done[0])))
        return
    for one in done:
        typer.echo(f"job {one.job_id:<12} {one.run}   {one.script.name}")
    typer.echo("watch: chorus runs      stop one: chorus cancel NAME")


@runs_app.callback()
def runs_main(
    context: typer.Context,
    runs: RunsFolder = Path("runs"),
) -> None:
    """List the runs: state, step, loss, clips per second, job. Works without SLURM too."""
    if context.invoked_subcommand is not None:
        return
    from dawnchorus.slurm.runs import list_runs, table

    states = list_runs(runs)
    typer.echo(table(states) if states else f"no run in {runs} yet")
    for state in states:
        if state.reason:
            typer.echo(f"{state.name}: {state.reason}")


@runs_app.command("show")
def runs_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the run, or its folder.")],
    runs: RunsFolder = Path("runs"),
) -> None:
    """Show everything about one run: sessions, events, its log file, why it failed."""
    from dawnchorus.slurm.runs import details, find_run

    typer.echo("\n".join(details(find_run(name, runs))))


@runs_app.command("table")
def runs_table(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="File for the table (Markdown).")] = None,
) -> None:
    """Compare runs in a table. A sweep makes the same table at its end."""
    from dawnchorus.slurm.runs import state_of, table

    text = table([state_of(folder) for folder in folders])
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")


def cancel(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the run, or its folder.")],
    runs: RunsFolder = Path("runs"),
) -> None:
    """Ask a run to save and stop, in SLURM or on this machine; the same command continues it."""
    from dawnchorus.slurm.runs import cancel_run, find_run

    typer.echo(cancel_run(find_run(name, runs)))


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `chorus`."""
    app.command(context_settings={"ignore_unknown_options": False})(submit)
    app.add_typer(runs_app, name="runs")
    app.command()(cancel)
