"""Lets Hydra find the files of a recipe: the named one, its neighbours, then the shipped ones.

Hydra's own source of files reads `.yaml` alone, takes the neighbour of that ending when another is
named, and its search path goes through a lexer that knows few characters. Here a folder is named
by its percent-encoding, and a file is the one that was named.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.errors import RecipeError

ENDINGS = (".yaml", ".yml")
NAMED = "the_named_recipe"
"""Name under which Hydra knows the file that the user named."""
_HIDDEN = "$\ue000{"
"""Stands for `${` where Hydra must not take it for a reference (a private code point)."""
_PACKAGE = re.compile(r"#\s*@package\s+(\S+)\s*")


class RecipeFiles(ConfigSource):  # type: ignore[misc]
    """The YAML files of one folder and its group folders; or one file, as `NAMED`."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        place, *options = self.path.split(";")
        self.root = Path(unquote(place))
        self.base = next((unquote(x[5:]) for x in options if x.startswith("base=")), None)
        self.literal = "literal" in options

    @staticmethod
    def scheme() -> str:
        """The scheme, which stands before `://`."""
        return "recipes"

    @classmethod
    def address(cls, path: Path, *, base: str | None = None, literal: bool = False) -> str:
        """How Hydra's search path names a folder or file.

        Args:
            path: the folder or file.
            base: the recipe from which a file without `defaults` starts.
            literal: `${` is plain text in these files; `plain_text` gives it back at the end.
        """
        options = [f"base={quote(base, safe='')}"] if base else []
        options += ["literal"] if literal else []
        return ";".join([f"{cls.scheme()}://{quote(str(path.absolute()), safe='')}", *options])

    def available(self) -> bool:
        """Whether the folder or file exists."""
        return self.root.exists()

    def is_group(self, config_path: str) -> bool:
        """Whether there is such a folder."""
        return (self.root / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        return self._file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the files (CONFIG) and folders (GROUP) below a group."""
        names = set()
        for path in (self.root / config_path).iterdir():
            if path.is_dir() and results_filter in (None, ObjectType.GROUP):
                names.add(path.name)
            elif path.suffix in ENDINGS and results_filter in (None, ObjectType.CONFIG):
                names.add(path.stem)
        return sorted(names)

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file. Raises RecipeError where it is no YAML mapping."""
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"there is no recipe file {self.root / config_path}")
        text, values = read_mapping(file)
        if self.base is not None:
            values.setdefault("defaults", self.base)
        if "defaults" in values:
            values["defaults"] = _defaults(values["defaults"], file)
        if self.literal:
            values = _replaced(values, "${", _HIDDEN)
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(values),
            header={"package": _package(text)},
        )

    def _file(self, config_path: str) -> Path | None:
        if self.root.is_file():
            return self.root if config_path == NAMED else None
        path = self.root / config_path
        if path.suffix in ENDINGS:
            return path if path.is_file() else None
        found = [file for end in ENDINGS if (file := path.with_name(path.name + end)).is_file()]
        if len(found) > 1:
            raise RecipeError(
                f"{config_path} may mean {found[0]} or {found[1]}: write it with its ending, or "
                "rename one of them"
            )
        return found[0] if found else None


def plain_text(tree: Any) -> Any:
    """Restore every `${` in the values that were composed from `literal` files."""
    return _replaced(tree, _HIDDEN, "${")


def _replaced(tree: Any, old: str, new: str) -> Any:
    if isinstance(tree, dict):
        return {_replaced(k, old, new): _replaced(v, old, new) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_replaced(value, old, new) for value in tree]
    return tree.replace(old, new) if isinstance(tree, str) else tree


def read_mapping(file: Path) -> tuple[str, dict[str, object]]:
    """(text, mapping) of a recipe file; an empty one is an empty mapping.

    Raises:
        RecipeError: it cannot be read, or is no YAML mapping; the message says where in the file.
    """
    import yaml

    try:
        text = file.read_text(encoding="utf-8-sig")
        values = plain_yaml.load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"the recipe file {file} cannot be read: {error}") from None
    if values is not None and not isinstance(values, dict):
        raise RecipeError(f"the recipe file {file} is no YAML mapping: write `key: value` lines")
    return text, values or {}


def _defaults(given: object, file: Path) -> list[object]:
    """The `defaults` list of a file, with `_self_` in it (Hydra warns if it is missing).

    The file's own values override those of its `defaults`, unless `_self_` says otherwise.

    Raises:
        RecipeError: it is neither a name nor a list of names and of choices of groups.
    """
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(one, str | dict) for one in found):
        raise RecipeError(
            f"{file}: defaults is a list of names and of choices, for example "
            "[sl_beats_tiny, {override encoder: beats_base}]"
        )
    if "${" in str(found):
        # Hydra would fill it in, from the environment too, and show it in its messages.
        raise RecipeError(f"{file}: defaults are written out: they hold no references (${{...}})")
    return found if "_self_" in found else [*found, "_self_"]


def _package(text: str) -> str | None:
    """What `# @package` in the comments at the top says."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if found := _PACKAGE.fullmatch(line.strip()):
            return found[1]
    return None
