"""Recipes of any kind: Hydra composes the files, overrides are applied, the result is checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.explain import did_you_mean
from dawnchorus.trainer.kinds import TRAIN, Kind
from dawnchorus.trainer.overrides import (
    alternatives,
    annotations_at,
    apply,
    fields_of,
    read_override,
    start_over,
)
from dawnchorus.trainer.references import Written, as_written, misplaced, misread

_ENDINGS = {".yaml", ".yml"}
Result = TypeVar("Result")


def recipes_folder() -> Path:
    """The folder of the shipped recipes, in the checkout or in the installed package."""
    here = Path(__file__).resolve().parent
    folder = here.parent / "recipes"
    if (folder / "encoder").is_dir():
        return folder
    raise RecipeError(f"the folder of shipped recipes is missing beside {here}: reinstall")


def recipe_file(recipe: str, kind: Kind = TRAIN) -> Path:
    """Find the file of a recipe, given the name of a shipped recipe or the path of a YAML file.

    Raises:
        RecipeError: there is no such recipe.
    """
    path = Path(recipe)
    if path.suffix in _ENDINGS:
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {recipe}")
        return path
    if not path.is_absolute() and ".." not in path.parts:
        shipped = recipes_folder() / f"{kind.title(recipe)}.yaml"
        if shipped.is_file():
            return shipped
    if path.is_file():
        return path
    known = shipped_recipes(kind)
    beside = [str(path) + end for end in sorted(_ENDINGS) if Path(f"{path}{end}").is_file()]
    near = did_you_mean(recipe, beside, n=3, cutoff=0) or did_you_mean(recipe, known, n=3)
    raise RecipeError(
        f"there is no {kind.noun} {recipe!r}{near or '.'} Shipped are {', '.join(known)}; name "
        "one of your own by the path of its YAML file"
    )


def shipped_recipes(kind: Kind = TRAIN) -> list[str]:
    """Names of the complete recipes of a kind (the YAML files in its folder)."""
    return sorted(p.stem for p in (recipes_folder() / kind.folder).glob("*.yaml"))


def load(
    kind: Kind, recipe: str, overrides: Sequence[str] = (), *, placeholders: bool = False
) -> Any:
    """Compose and validate a recipe of any kind; returns its model.

    Args:
        kind: the kind of recipe.
        recipe: name of a shipped recipe, or path of a YAML file.
        overrides: as for `compose`.
        placeholders: whether keys in capitals stand for values from the command line, so that a
            file can be checked alone.

    Raises:
        RecipeError: lists every problem, each with its key and the allowed values.
    """
    from dawnchorus.trainer.explain import validated
    from dawnchorus.trainer.recorded import Recorded

    problems: list[str] = []
    written: Written = {}
    composed = compose(recipe, overrides, kind, problems, written)
    if kind.named:
        composed.setdefault("name", Path(recipe).stem)
    for key in kind.on_the_command_line if placeholders else ():
        composed.setdefault(key, key.upper())
    origin = f"the {kind.noun} {kind.title(recipe)!r}"
    loaded = validated(kind.schema(), composed, origin, problems)
    return loaded.remember(written) if isinstance(loaded, Recorded) else loaded


def compose(
    recipe: str,
    overrides: Sequence[str] = (),
    kind: Kind = TRAIN,
    problems: list[str] | None = None,
    written: Written | None = None,
) -> dict[str, Any]:
    """Compose a recipe and its overrides into plain dicts; nothing is validated yet.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file (whose `defaults` may name shipped
            recipes of its kind and, for training, the shipped groups).
        overrides: `encoder=beats_large` chooses a file of a group, `optim.lr=1e-4` sets a key,
            `~data.noise` takes one away, and `probe.name=ridge` chooses another kind of thing,
            without the keys that the files gave to the former (see `trainer.overrides`).
        kind: the kind of recipe; values are read by the types of its model's fields.
        problems: list to which mistakes in overrides are added. Those overrides are left out, so
            that the rest can be checked too. None: the first mistake is raised.
        written: receives the paths that refer to the environment, as they are written.

    Raises:
        RecipeError: there is no such recipe, group or choice, or an override cannot be read.
    """
    file, schema = recipe_file(recipe, kind), kind.schema()
    folders = [file.parent, recipes_folder() / kind.folder]
    collect = _Collected(problems)
    given = [x for word in overrides for x in collect(read_override, word)]
    groups = [x for x in given if _is_group(x.path, folders, schema)]
    choices = [x for group in groups for x in collect(_choice, group.word, group.value)]
    tree = _stringed(_with_choices(kind, file, choices, collect))
    keys = [x for x in given if x not in groups]
    for override in keys:
        start_over(tree, override, schema)
    for override in keys:
        collect(apply, tree, override, schema)
    if kind.references:
        tree, texts = _resolved(tree, file)
        if written is not None:
            written |= texts
    for key in _impossible(tree):
        collect(_refuse, f"{key}: a number in a recipe is finite and, if whole, at most 2^53")
    composed: dict[str, Any] = tree
    return composed


def _resolved(tree: dict[str, Any], file: Path) -> tuple[Any, Written]:
    """Fill in references; also returns the paths that refer to the environment, as written."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def refuse(wrong: Iterable[str]) -> None:
        if listed := list(wrong):
            raise RecipeError(f"{file} does not compose:\n  " + "\n  ".join(listed))

    refuse(misread(tree))
    try:
        texts = as_written(tree)
        refuse(misplaced(texts))
        # Resolve references only now, so that those in files see the overrides.
        return _stringed(OmegaConf.to_container(OmegaConf.create(tree), resolve=True)), texts
    except OmegaConfBaseException as error:
        raise RecipeError(f"{file} does not compose: {error}") from None


def _refuse(message: str) -> None:
    raise RecipeError(message)


def _impossible(tree: Any, where: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys whose numbers are infinite, none, or too large to be exact in JSON or a seed."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in inner:
        yield from _impossible(value, (*where, str(key)))
    large = isinstance(tree, int) and abs(tree) > 2**53
    if large or (isinstance(tree, float) and not math.isfinite(tree)):
        yield ".".join(where)


class _Collected:
    """Calls functions. If `problems` is a list, a RecipeError is added to it instead of raised."""

    def __init__(self, problems: list[str] | None) -> None:
        self.problems = problems

    def __call__(self, thing: Callable[..., Result], *arguments: Any) -> list[Result]:
        try:
            return [thing(*arguments)]
        except RecipeError as error:
            if self.problems is None:
                raise
            self.problems.append(str(error))
            return []


def _with_choices(kind: Kind, file: Path, choices: Sequence[str], collect: _Collected) -> Any:
    """Compose the files. A choice that does not exist is reported and left out."""
    try:
        return _by_hydra(kind, file, choices)
    except RecipeError:
        if not choices or collect.problems is None:
            raise
    plain = _by_hydra(kind, file, [])
    good = [x for x in choices if collect(_by_hydra, kind, file, [x])]
    return _by_hydra(kind, file, good) if good else plain


def _is_group(path: tuple[str, ...], folders: Sequence[Path], schema: Any) -> bool:
    """Whether a key names a group of recipe files: it has a folder, and its field has keys."""
    group = path[0].partition("@")[0]
    if len(path) > 1 or not any((folder / group).is_dir() for folder in folders):
        return False
    known = [kind for a in annotations_at(schema, (group,)) for kind in alternatives(a)]
    return not known or any(fields_of(kind) for kind in known)


def _choice(word: str, value: str | None) -> str:
    """A choice of a group, quoted so that Hydra's lexer accepts every character."""
    key = word.partition("=")[0]
    if not re.fullmatch(r"[+~]*[\w/-]+(@[\w.:-]+)?", key, re.ASCII):
        raise RecipeError(f"{word}: {key!r} cannot name a group of recipe files")
    if value is None or value == "null":
        return word
    if "${" in value:
        raise RecipeError(f"{word}: a choice is written out: it holds no reference (${{...}})")
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"


def _by_hydra(kind: Kind, file: Path, choices: Sequence[str]) -> Any:
    """Compose the files and group choices, and leave references unresolved."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dawnchorus.trainer.recipe_files import NAMED, RecipeFiles, plain_text

    Plugins.instance().register(RecipeFiles)
    version.setbase("1.3")
    shipped = recipes_folder() / kind.folder
    base = kind.starts_from if file.resolve().parent != shipped.resolve() else None
    literal = not kind.references
    path = ConfigSearchPathImpl()
    path.append("main", RecipeFiles.address(file, base=base, literal=literal))
    path.append("beside", RecipeFiles.address(file.parent, literal=literal))
    path.append("shipped", RecipeFiles.address(shipped, literal=literal))
    path.append("schema", "structured://")
    try:
        # This does the work of `load_configuration` without Hydra's own settings, which take most
        # of its time.
        loader = ConfigLoaderImpl(path)
        parsed, repo = loader._parse_overrides_and_create_caching_repo(NAMED, list(choices))
        defaults = create_defaults_list(
            repo=repo,
            config_name=NAMED,
            overrides_list=parsed,
            prepend_hydra=False,
            skip_missing=False,
        )
        config = loader._compose_config_from_defaults_list(defaults=defaults.defaults, repo=repo)
        composed = OmegaConf.to_container(config)
    except RecursionError:
        raise RecipeError(
            f"{file} starts from itself: its defaults, or the defaults of those files, name it"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        text = str(error.__cause__ or error).replace(NAMED, str(file)).partition("\nSearch path")[0]
        text = text.partition("\nConfig search path")[0]
        if found := re.match(r"Could not override '(.+?)'\. No match in the defaults list", text):
            text = (
                f"{found[1]}=... chooses a file of the group {found[1]}, and {file} has no "
                f"{found[1]} in its defaults; set its keys one by one ({found[1]}.KEY=...)"
            )
        raise RecipeError(f"{file} does not compose: {text}") from None
    return plain_text(composed) if literal else composed


def _stringed(tree: Any) -> Any:
    """Turn every key into text, because a dataset may be called 1."""
    if isinstance(tree, dict):
        return {str(key): _stringed(value) for key, value in tree.items()}
    return [_stringed(value) for value in tree] if isinstance(tree, list) else tree
