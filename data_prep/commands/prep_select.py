"""`chorus prep select`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dawnchorus.data_prep.commands.apps import STEPS, friendly_errors, prep_app


def _show_keys(wanted: bool) -> None:
    """Print every key of the recipe and stop."""
    if not wanted:
        return
    from dawnchorus.data_prep.select.recipe_file import describe_keys

    for key, default, text in describe_keys():
        typer.echo(f"{key}: {default}\n    {text}")
    raise typer.Exit


@prep_app.command("select", rich_help_panel=STEPS)
def select(
    *,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as caps.per_class=500."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the selected table.")
    ],
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", callback=_show_keys, is_eager=True, help="Explain every key of a recipe."
        ),
    ] = False,
) -> None:
    """Select recordings from tables: filters, amounts, duplicates, evaluation sets, split.

    Writes recordings.parquet (with split and fold), rejected.parquet (every other row with its
    reason), duplicates.parquet, links.parquet, leakage.parquet, leakage.md and selection.json.
    Fingerprints are kept in DIR/cache: a stopped run goes on from there. `--keys` explains the
    recipe; `chorus prep shards DIR --out DATASET` comes next.

    Examples:
      chorus prep select example tables.mine.table=audio/mine --out selected

      chorus prep select my.yaml caps.per_class=500 'filters.licences.deny=[nc, nd]' --out selected
    """
    with friendly_errors():
        from dawnchorus.data_prep.select.recipe_file import load_recipe
        from dawnchorus.data_prep.select.run import select as run
        from dawnchorus.trainer.progress import Progress

        result = run(load_recipe(recipe, overrides or ()), out, Progress())
        typer.echo(result.text)
        typer.echo(f"\n{out / 'recordings.parquet'}")
