"""`chorus …`: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dawnchorus.trainer.recipe_commands import OverridesArgument, RecipeArgument, recipe_app

app = typer.Typer(
    name="chorus",
    help="From public sound archives to a published bioacoustic encoder.\n\n"
    "The usual way: prep (audio -> shards), train a pre-training recipe, train a post-training "
    "recipe that starts from it, evaluate, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipe_app, name="recipe")


def _say_version(asked: bool) -> None:
    if asked:
        from dawnchorus.trainer.about import package_version

        typer.echo(f"dawnchorus {package_version()}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_say_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Options that come before the command."""


def _keys_follow(command: str) -> str:
    return (
        f"{command}\n\nExit codes: 0 done, 2 wrong recipe or data (nothing started), 75 stopped "
        "and saved (the same command continues), 76 non-finite loss, 77 hung, 78 restarts made no "
        "progress, 1 any other error."
    )


@app.command(help=_keys_follow(
    "Train a recipe. If the run stopped, the same command continues it.\n\n"
    "Examples:\n\n"
    "  chorus train ssl_beats_base data.train.audioset.path=/data/audioset\n\n"
    "  chorus train sl_beats_bio init_from=runs/ssl_beats_base name=my_birds\n\n"
    "  chorus train my_recipe.yaml train.devices=2"
))  # fmt: skip
def train(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """`chorus train`; the decorator has its help."""
    # Before torch starts threads: they inherit the blocked signals.
    from dawnchorus.trainer.session.signals import watch_signals

    stop = watch_signals()
    from dawnchorus.trainer.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from dawnchorus.trainer.session.job import early_rank
    from dawnchorus.trainer.training.lightning_import import import_lightning

    import_lightning()
    from dawnchorus.trainer.training.run import run

    folder = run(loaded, stop)
    if early_rank() == 0:
        typer.echo(f"done: {folder}   (report: {folder / 'report.html'})")


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, a checkpoint file, an exported folder, a Microsoft BEATs or EAT.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="data=DATASET [KEY=VALUE]...",
            help="The dataset to evaluate on, and any key that `chorus recipe show "
            "evaluate/default` prints, e.g. [cyan]layer=all probe.seeds=5[/].",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="Recipe to start from: a name of recipes/evaluate, or a path."),
    ] = "default",
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file to write. Default: in evaluation/ of the run folder."),
    ] = None,
) -> None:
    """Measure a model's embeddings on a dataset by a probe, retrieval and clustering.

    Two baselines are measured on the same splits: log-mel statistics, and the same encoder with
    random weights.

    Example: chorus evaluate runs/my_birds data=datasets/esc10
    """
    from dawnchorus.trainer.evaluation.benchmark import evaluate_command

    evaluate_command(model, overrides or [], preset=preset, out=out)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a checkpoint file.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder to create: a complete Hugging Face model repo."),
    ],
    author: Annotated[
        str | None,
        typer.Option(help="Who publishes the model. Needed here or as card.author in the recipe."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="Licence of the weights, e.g. cc-by-nc-sa-4.0. Default: the strictest that the "
            "data asks for."
        ),
    ] = None,
    repo_id: Annotated[
        str | None,
        typer.Option(
            help="organisation/name on Hugging Face, shown in the card. Default: the folder's name."
        ),
    ] = None,
    card: Annotated[
        list[str] | None,
        typer.Option(
            "--card",
            metavar="KEY=VALUE",
            help="Any other field of the recipe's `card` section, e.g. initial_weights='...' or "
            "accept_licence_conflict=true. May be repeated.",
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Export for your own use: no author, licence or evaluation is needed. The card "
            "lists what is missing, and the model refuses to be pushed to a hub.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(help="Replace an earlier export; refused where other files lie beside it."),
    ] = False,
) -> None:
    """Write a run's encoder as a Hugging Face repo that loads without this package.

    Example: chorus export runs/my_birds --out my-birds --author "Jane Doe"
    """
    from dawnchorus.trainer.hub.exporting import export as export_run

    given: dict[str, object] = {"author": author, "licence": licence, "repo_id": repo_id}
    fields = {k: v for k, v in given.items() if v} | _card_fields(card or [])
    folder = export_run(run, out, card=fields, overwrite=overwrite, private=private)
    typer.echo(f"exported: {folder}\n\n{loading_lines(folder)}")


def _card_fields(pairs: list[str]) -> dict[str, object]:
    from dawnchorus.trainer.hub.card_config import CardConfig
    from dawnchorus.trainer.overrides import apply, read_override

    fields: dict[str, object] = {}
    for pair in pairs:
        apply(fields, read_override(pair), CardConfig)
    return fields


def loading_lines(folder: Path) -> str:
    """Three lines of Python that load an exported model, with the rate that it hears at."""
    import json

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rate = f"{config['encoder']['sample_rate_hz'] / 1000:g} kHz"
    return (
        "from transformers import AutoModel\n"
        f'model = AutoModel.from_pretrained("{folder}", trust_remote_code=True).eval()\n'
        f"embedding = model(waveform).pooler_output   # float [clips, samples], {rate}, in [-1, 1]"
    )


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, in the order they were trained."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The HTML file. Default: report.html in the last run's folder."
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about runs: curves, spectrograms, evaluation, data."""
    from dawnchorus.trainer.report import write_report

    typer.echo(write_report(out or runs[-1] / "report.html", runs))


# --------------------------------------------------------------------------- entry point


def _add_other_packages() -> None:
    """Add the commands of the other packages, only when one is called (or for the overview)."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    if not arguments or arguments[0] in ("prep", "data"):
        from dawnchorus.data_prep.cli import data_app, prep_app

        app.add_typer(
            prep_app, name="prep", help="Make shards from sound: a public archive, or your own."
        )
        app.add_typer(data_app, name="data", help="Check a dataset, describe it, credit people.")
    if not arguments or arguments[0] in ("submit", "runs", "cancel"):
        from dawnchorus.slurm.cli import add_commands

        add_commands(app)


_WITHOUT_TORCH = frozenset({"recipe", "prep", "data", "report", "submit", "runs", "cancel"})
"""Commands that work on a login node, whatever version of torch is installed there."""


def _check_installation() -> None:
    """Report packages that do not fit together, before a command that needs torch fails."""
    words = sys.argv[1:]
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None or command in _WITHOUT_TORCH or {"-h", "--help"} & set(words):
        return
    from dawnchorus.trainer.torch_set import check_torch_set

    check_torch_set()


def _note_for_the_job_script(error: Exception, code: int) -> None:
    """Write a note on why this rank ended: srun may kill the others and give no reason."""
    run = os.environ.get("CHORUS_RUN")
    if run is None or code == 75:
        return
    from dawnchorus.trainer.session.failures import failure_path, note_failure
    from dawnchorus.trainer.session.job import Job, early_rank

    job, rank = Job.here(), early_rank()
    if not failure_path(Path(run), job, rank).exists():
        note_failure(Path(run), job, rank, error)


def main() -> None:
    """The `chorus` command."""
    from dawnchorus.trainer.errors import ChorusError

    # Threads that spin while they wait take cores from other processes: with other jobs on a
    # two-core machine a training step took three times as long. Torch reads this when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _add_other_packages()
    try:
        _check_installation()
        app()
    except ChorusError as error:
        code = error.exit_code
        head = "stopped" if code == 75 else "error"
        print(f"chorus: {head}: {error}", file=sys.stderr, flush=True)
        _note_for_the_job_script(error, code)
        sys.exit(code)


if __name__ == "__main__":
    main()
