"""YAML by the rules of YAML 1.2, for every recipe and profile.

PyYAML follows 1.1, where `off` and `no` are false, `12:00:00` is 43200, `010` is 8, a date is not a
text, and `1e-4` is a text. Here only true and false are truth values, words that look like numbers
are numbers, and everything else is text. It is an error if a key occurs twice, if aliases of
aliases expand a document far beyond its length, or if it nests too deeply.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_MOST_LEVELS = 50
_MOST_REPEATED = 10_000
"""Nodes that aliases may add to those that stand in the document."""
_MOST_CHARACTERS = 400
"""Of a number: the longest float that means anything has 330 digits, and int() refuses 4,300."""
_SCALARS: dict[str, tuple[re.Pattern[str], list[str]]] = {
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    # No leading zeros: 007 is a name. Underscores as in 400_000.
    "int": (re.compile(r"[-+]?(?:0|[1-9][0-9_]*)"), list("-+0123456789")),
    "float": (
        re.compile(
            r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        list("-+0123456789."),
    ),
}


class _TextLoader(yaml.SafeLoader):
    """Every scalar is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way)
    levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node and what is in it; one too deep is refused before Python's stack ends."""
        if self.levels > _MOST_LEVELS:
            raise yaml.composer.ComposerError(
                None, None, f"it nests deeper than {_MOST_LEVELS} levels", parent.start_mark
            )
        self.levels += 1
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a key that occurs twice would silently hide the first value."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Loader(_TextLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read back as the same text."""


def _number(loader: yaml.SafeLoader, node: Any) -> Any:
    found = scalar(str(node.value))
    if not isinstance(found, int | float):
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value[:60]!r} is no number", node.start_mark
        )
    return found


for _name, (_pattern, _first) in _SCALARS.items():
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_TAG + _name, _whole, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, _whole, _first)
for _class in (_Loader, _TextLoader):
    _class.add_implicit_resolver(_TAG + "merge", re.compile(r"<<\Z"), ["<"])
    for _name in ("int", "float"):
        _class.add_constructor(_TAG + _name, _number)


def load(text: str, *, texts: bool = False) -> Any:
    """Read a YAML document.

    Args:
        text: the document.
        texts: read every scalar as the text that stands there.

    Raises:
        yaml.YAMLError: it is no YAML, a key occurs twice, it nests deeper than 50 levels, or its
            aliases repeat more than they should.
    """
    loader = (_TextLoader if texts else _Loader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        written: dict[int, int] = {}
        if _size(node, written) - len(written) > _MOST_REPEATED:
            raise yaml.YAMLError(
                f"its aliases (*name) repeat more than {_MOST_REPEATED} values; write them out"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: Any, known: dict[int, int]) -> int:
    """Nodes that `node` means with every alias written out; `known` has those of each node."""
    if (size := known.get(id(node))) is not None:
        if size == 0:
            raise yaml.composer.ComposerError(
                None, None, "an alias (*name) stands within what it means", node.start_mark
            )
        return size
    known[id(node)] = 0
    inner: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    known[id(node)] = size = 1 + sum(_size(part, known) for part in inner)
    return size


def scalar(text: str) -> Any:
    """Read one plain scalar as None, a bool, an int, a float, or the text itself."""
    for name, (pattern, _) in _SCALARS.items():
        if 0 < len(text) <= _MOST_CHARACTERS and pattern.fullmatch(text):
            if name in ("int", "float"):
                plain = text.replace("_", "").lower()
                return int(plain) if name == "int" else float(re.sub(r"\.(?=inf|nan)", "", plain))
            return None if name == "null" else text.lower() == "true"
    return text


def dump(value: Any) -> str:
    """A document that `load`, and any other reader of YAML, reads as `value`; keys keep order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping; lists are replaced as a whole."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = merged(old, value) if both and old is not None else value
    return result
