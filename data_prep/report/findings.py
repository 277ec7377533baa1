"""What was left out and why: rejected rows, duplicates, overlap with evaluation sets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.reasons import REASONS
from dawnchorus.data_prep.table.scan import readable, scan

_EXAMPLES = 3
_SHOWN = 12
_UNKNOWN = "not stated"


class Reason(NamedTuple):
    """A reason for which recordings were left out, with a few of them."""

    name: str
    number: int
    meaning: str
    examples: tuple[tuple[str, str], ...]
    """(recording id or path, what was said of it)."""


@dataclass(slots=True)
class Findings:
    """What stands beside the table on what is not, or should not be, in it."""

    rejected: list[Reason]
    duplicates: Counter[str] | None = None
    """Recordings dropped, by kind; None where nobody looked."""
    duplicate_examples: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(kept, dropped, kind, score)."""
    leakage: Counter[tuple[str, str]] | None = None
    """Finds by (evaluation set, rule); None where nobody looked. One recording may be several."""
    leaked: int = 0
    """Recordings that were found in evaluation sets."""
    leakage_examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(recording, evaluation set, rule)."""
    selection: dict[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> bool:
        """Whether there was an evaluation set to compare with, as far as the selection tells."""
        return self.selection.get("evaluation_sets") != {} or bool(self.leaked)


def read_findings(folder: Path, selection: Path | None = None) -> Findings:
    """Read what is there of rejected, duplicates, leakage and selection.

    `selection`, the folder of `chorus prep select`, is looked into first, then `folder`. Columns
    that are missing count as unknown. Raises PrepError where a file is damaged, or `selection`
    is no such folder.
    """
    if selection is not None and not selection.is_dir():
        raise PrepError(f"There is no folder {selection}; --selection takes that of `prep select`.")
    places = [place for place in (selection, folder) if place is not None]

    def rows(name: str, **defaults: Any) -> list[tuple[Any, ...]] | None:
        path = next(filter(Path.is_file, (place / name for place in places)), None)
        if path is None:
            return None
        with readable(path):
            return scan(path, **defaults).drop("row").collect().rows()

    reasons: dict[str, list[tuple[str, str]]] = {}
    for name, place, reason, detail in (
        rows("rejected.parquet", recording_id="", path="", reason="", detail="") or ()
    ):
        reasons.setdefault(reason or _UNKNOWN, []).append((name or place, detail[:200]))
    ranked = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    found = Findings(
        [Reason(n, len(of), REASONS.get(n, ""), tuple(of[:_EXAMPLES])) for n, of in ranked]
    )
    dropped = rows("duplicates.parquet", kept_id="", dropped_id="", kind="", score=math.nan)
    if dropped is not None:
        found.duplicates = Counter(kind or _UNKNOWN for _, _, kind, _ in dropped)
        found.duplicate_examples = [
            (a, b, kind, "" if math.isnan(n) else f"{n:.3f}") for a, b, kind, n in dropped[:_SHOWN]
        ]
    leaks = rows("leakage.parquet", recording_id="", rule="", evaluation_set="")
    if leaks is not None:
        finds = [
            (name, where or ("held-out species" if rule == "held_out_species" else _UNKNOWN),
             rule or _UNKNOWN)
            for name, rule, where in leaks
        ]  # fmt: skip
        found.leakage = Counter((where, rule) for _, where, rule in finds)
        found.leaked = len({name for name, _, _ in finds} - {""}) or len(finds)
        found.leakage_examples = finds[:_SHOWN]
    chosen = (read_object(place / "selection.json") for place in places)
    found.selection = next(filter(None, chosen), {})
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is no file. Raises PrepError where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, OSError) as err:
        raise PrepError(f"{path} cannot be read: {err}. Make it again.") from err
    return found if isinstance(found, dict) else {}


class Grid(NamedTuple):
    """A part of a JSON file that is a table by itself."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]


def grids(content: Mapping[str, Any]) -> tuple[list[Grid], list[tuple[str, str]]]:
    """Return what in `content` is a table (a list of objects, or objects by name), and (path,
    value) of everything else, as text.
    """
    found, rest = [], []
    for key, value in content.items():
        rows = value
        if isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values()):
            rows = [{"name": name, **fields} for name, fields in value.items()]
        table = isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
        if table and key != "recipe":
            names = dict.fromkeys(name for row in rows for name in row)
            cells = [[_said(row.get(name)) for name in names] for row in rows]
            found.append(Grid(_words(key), tuple(map(_words, names)), cells))
        else:
            rest += _flat(key, value)
    return found, rest


def _flat(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [row for key, part in value.items() for row in _flat(f"{path} › {key}", part)]
    return [(_words(path), _said(value))]


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _said(value: object) -> str:
    """A JSON value in words."""
    if value is None or value in ([], {}):
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_said(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
