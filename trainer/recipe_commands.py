"""`chorus recipe …`: every kind of recipe is listed, shown, checked and described here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dawnchorus.trainer.kinds import Kind

recipe_app = typer.Typer(
    help="List the shipped recipes, show a recipe in full, check it, print its schema.",
    no_args_is_help=True,
)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a shipped recipe (see `chorus recipe list`) or path of a YAML file.",
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides, e.g. [cyan]data.train.mine.path=DATASET optim.lr=1e-4[/]. "
        "A group's name before `=`, as in encoder=beats_large, chooses a file of that group.",
    ),
]
KindOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="train, evaluate, select, download, cluster or chain. Default: told from the name of "
        "a shipped recipe, or from the keys of a file.",
    ),
]


@recipe_app.command("list")
def recipe_list() -> None:
    """List the shipped recipes of every kind, with the first comment line of each."""
    from dawnchorus.trainer.compose import recipe_file, shipped_recipes
    from dawnchorus.trainer.kinds import KINDS

    groups = {kind: [kind.title(name) for name in shipped_recipes(kind)] for kind in KINDS.values()}
    width = max(len(name) for names in groups.values() for name in names) + 2
    for kind, names in groups.items():
        typer.echo(f"# for `{kind.command}` (--kind {kind.name})")
        for name in names:
            lines = recipe_file(name, kind).read_text(encoding="utf-8").splitlines()
            typer.echo(f"{name:<{width}}{next(x.lstrip('# ') for x in lines if x[:2] == '# ')}")
        typer.echo()


@recipe_app.command("show")
def recipe_show(
    recipe: RecipeArgument, overrides: OverridesArgument = None, kind: KindOption = None
) -> None:
    """Print the recipe with every key, as it would be recorded. Saved to a file, it is a recipe.

    Paths that read the environment stay as they are written.
    """
    from pydantic import TypeAdapter

    from dawnchorus.trainer.compose import load
    from dawnchorus.trainer.kinds import kind_of
    from dawnchorus.trainer.plain_yaml import dump
    from dawnchorus.trainer.recorded import Recorded

    found = kind_of(recipe, kind)
    loaded = load(found, recipe, overrides or [], placeholders=True)
    plain = (
        loaded.resolved()
        if isinstance(loaded, Recorded)
        else TypeAdapter(found.schema()).dump_python(loaded, mode="json")
    )
    for key in found.on_the_command_line:
        if plain[key] == key.upper():
            del plain[key]
    typer.echo(dump(plain), nl=False)


@recipe_app.command("check")
def recipe_check(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE [KEY=VALUE]...", help="Recipes, and overrides of each."),
    ] = None,
    kind: KindOption = None,
    data: Annotated[
        bool,
        typer.Option(
            "--data",
            help="Also open the datasets of a training recipe, to see that they exist and fit "
            "the recipe.",
        ),
    ] = False,
) -> None:
    """Compose and validate recipes (all shipped ones when none is named); starts nothing.

    All mistakes are reported at once. Datasets are opened only with --data.
    """
    from dawnchorus.trainer.compose import shipped_recipes
    from dawnchorus.trainer.errors import RecipeError
    from dawnchorus.trainer.kinds import KINDS, kind_of

    arguments = recipes or []
    # A file may lie in a folder called v=2.
    names = [a for a in arguments if "=" not in a or Path(a).is_file()]
    overrides = [a for a in arguments if a not in names]
    wanted = [KINDS[kind]] if kind in KINDS else KINDS.values()
    shipped = [one.title(name) for one in wanted for name in shipped_recipes(one)]
    wrong = []
    for name in names or shipped:
        try:
            typer.echo(f"{name}: {_checked(kind_of(name, kind), name, overrides, data)}")
        except RecipeError as error:
            wrong.append(str(error))
    if wrong:
        raise RecipeError("\n".join(wrong))


def _checked(kind: Kind, name: str, overrides: list[str], data: bool) -> str:
    """Describe a valid recipe in one line. Raises RecipeError if it is not valid."""
    from dawnchorus.trainer.compose import load
    from dawnchorus.trainer.errors import RecipeError
    from dawnchorus.trainer.kinds import TRAIN
    from dawnchorus.trainer.recipe_data import missing_inputs

    loaded: Any = load(kind, name, overrides, placeholders=True)
    if kind is not TRAIN:
        return f"valid {kind.noun}"
    if data and (missing := missing_inputs(loaded, opened=True)):
        raise RecipeError(f"recipe {name!r} is valid, its data is not:\n  " + "\n  ".join(missing))
    steps = f"{loaded.train.total_steps} steps of {loaded.train.global_batch} clips"
    return f"valid {kind.noun} ({loaded.objective.name}, {steps})"


@recipe_app.command("schema")
def recipe_schema(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. Default: print.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="train, evaluate, select, download, cluster or chain.")
    ] = "train",
) -> None:
    """Print the JSON Schema of a kind of recipe: an editor then completes and explains its keys."""
    import json

    from dawnchorus.trainer.kinds import kind_called
    from dawnchorus.trainer.recipe_schema import json_schema

    text = json.dumps(json_schema(kind_called(kind)), indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
