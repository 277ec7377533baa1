"""The kinds of recipes, each with its command, the folder of its files and its model.

This is one table for all packages. Models are named here and imported only when needed, so that
`trainer` needs neither `data_prep` nor `slurm`, and no command imports more than it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.explain import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of recipe."""

    name: str
    """Name of the kind for `--kind`."""
    noun: str
    """Name of the kind in messages."""
    command: str
    """Command that takes such a recipe."""
    folder: str = ""
    """Folder of its files below `recipes/`; a shipped one is called `FOLDER/NAME`."""
    model: str
    """`module:Class`, below `dawnchorus`."""
    named: bool = False
    """Whether the recipe has a `name`; its default is the name of the file."""
    starts_from: str | None = None
    """The recipe from which a file without `defaults` starts."""
    references: bool = True
    """Whether `${...}` is a reference, to another key or (in a path) the environment; else text."""
    on_the_command_line: tuple[str, ...] = ()
    """Keys that a file leaves out because the command line gives them."""

    def schema(self) -> Any:
        """The model: a dataclass or a pydantic model."""
        module, _, name = self.model.partition(":")
        return getattr(import_module(f"dawnchorus.{module}"), name)

    def title(self, recipe: str) -> str:
        """How `chorus recipe` calls a recipe of this kind: `evaluate/fast`, or its path."""
        bare = recipe.endswith((".yaml", ".yml")) or recipe.startswith(f"{self.folder}/")
        return recipe if bare or not self.folder else f"{self.folder}/{recipe}"


TRAIN = Kind(
    name="train",
    noun="training recipe",
    command="chorus train",
    model="trainer.recipe:Recipe",
    named=True,
)
EVALUATE = Kind(
    name="evaluate",
    noun="evaluation recipe",
    command="chorus evaluate --preset",
    folder="evaluate",
    model="trainer.evaluation.config:EvaluateConfig",
    on_the_command_line=("data",),
)
SELECT = Kind(
    name="select",
    noun="selection recipe",
    command="chorus prep select",
    folder="select",
    model="data_prep.select.selection_recipe:SelectRecipe",
)
DOWNLOAD = Kind(
    name="download",
    noun="download recipe",
    command="chorus prep download --recipe",
    folder="download",
    model="data_prep.download.download_recipe:DownloadRecipe",
    starts_from="polite",
)
CLUSTER = Kind(
    name="cluster",
    noun="cluster profile",
    command="chorus submit cluster=",
    folder="cluster",
    model="slurm.profile:ClusterProfile",
    # Bash expands `${TMPDIR}` on the node.
    references=False,
)
CHAIN = Kind(
    name="chain",
    noun="chain of jobs",
    command="chorus submit --chain",
    folder="chain",
    model="slurm.chain_recipe:Chain",
    named=True,
)
KINDS = {kind.name: kind for kind in (TRAIN, EVALUATE, SELECT, DOWNLOAD, CLUSTER, CHAIN)}


def kind_called(name: str) -> Kind:
    """Find a kind by its name. Raises RecipeError for an unknown name."""
    if name not in KINDS:
        hint = did_you_mean(name, KINDS) or "."
        raise RecipeError(f"there is no kind {name!r}{hint} There are: {', '.join(KINDS)}")
    return KINDS[name]


def kind_of(recipe: str, name: str | None = None) -> Kind:
    """Find the kind of a recipe: the named kind, or else the one that the recipe itself shows.

    A shipped recipe is called `FOLDER/NAME`. A file has the kind whose keys it has. If the keys do
    not decide, it has the kind of its folder's name, or else it is a training recipe.

    Raises:
        RecipeError: there is no such kind, or the file cannot be read.
    """
    if name is not None:
        return kind_called(name)
    file = Path(recipe)
    by_folder = next((k for k in KINDS.values() if k.folder == file.parent.name), TRAIN)
    if not file.is_file():
        return by_folder
    from dawnchorus.trainer.compose import shipped_recipes
    from dawnchorus.trainer.overrides import fields_of
    from dawnchorus.trainer.recipe_files import read_mapping

    values = read_mapping(file)[1]
    starts = values.pop("defaults", [])
    starts = [starts] if isinstance(starts, str) else starts
    begins = {str(one) for one in starts} if isinstance(starts, list) else set()

    def fit(kind: Kind) -> tuple[int, bool]:
        known = len(values.keys() & fields_of(kind.schema()).keys())
        return known + len(begins & set(shipped_recipes(kind))), kind is by_folder

    return max(KINDS.values(), key=fit)
