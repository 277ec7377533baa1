"""What was left out and why: rejected rows, duplicates, overlap with evaluation sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.errors import PrepError

_EXAMPLES = 3
_SHOWN = 12
SELECTION = "selection.json"

# What a reason means, in the words of a person who does not know the code.
REASONS = {
    "missing": "the file is not there",
    "unreadable": "no permission to read the file",
    "empty": "no bytes or no samples",
    "too_short": "shorter than --min-s",
    "too_long": "longer than the limit",
    "not_audio": "no decoder opens it, e.g. a web page saved as .mp3",
    "corrupt": "no decoder gets through it",
    "truncated": "ends before its own header says so",
    "understated": "holds more than its own header says",
    "not_the_segment": "neither the cut nor the whole video of an AudioSet segment",
    "lost": "mixing or resampling leaves too little of it",
    "faint": "too weak for 16 bit",
    "non_finite": "holds NaN or infinite samples",
    "silent": "all samples are zero (or the same)",
    "out_of_range": "samples far beyond full scale",
    "unsupported": "sample rate or channel count beyond what is read",
    "repeated_id": "the id occurred before",
    "no_audio": "neither a file nor an address of the audio",
    "restricted": "the archive keeps the sound of sensitive species back",
    "restricted_species": "the archive keeps the sound of sensitive species back",
    "unidentified": "nobody knows what it is",
    "soundscape": "a soundscape, no single species",
    "licence": "the licence was not allowed",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for which recordings were left out, with a few of them."""

    name: str
    count: int
    meaning: str
    examples: tuple[tuple[str, str], ...]
    """(recording id or path, what was said of it)."""


@dataclass(slots=True)
class Findings:
    """What stands beside the table on what is not, or should not be, in it."""

    rejected: list[Reason] = field(default_factory=list)
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

    def first(name: str) -> Path | None:
        return next((place / name for place in places if (place / name).is_file()), None)

    found = Findings(rejected=_rejected(folder / "rejected.parquet"))
    if path := first("duplicates.parquet"):
        rows = _rows(path, "kept_id", "dropped_id", "kind", "score")
        found.duplicates = Counter(kind or "not stated" for _, _, kind, _ in rows)
        found.duplicate_examples = [(a, b, kind, _score(n)) for a, b, kind, n in rows[:_SHOWN]]
    if path := first("leakage.parquet"):
        finds = []
        for name, rule, where in _rows(path, "recording_id", "rule", "evaluation_set"):
            held = "held-out species" if rule == "held_out_species" else "not stated"
            finds.append((name, where or held, rule or "not stated"))
        found.leakage = Counter((where, rule) for _, where, rule in finds)
        found.leaked = len({name for name, _, _ in finds} - {""}) or len(finds)
        found.leakage_examples = finds[:_SHOWN]
    if path := first(SELECTION):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as err:
            raise PrepError(
                f"{path} cannot be read: {err}. Run `chorus prep select` again."
            ) from err
        found.selection = content if isinstance(content, dict) else {"selection": content}
    return found


def _rejected(path: Path) -> list[Reason]:
    if not path.is_file():
        return []
    examples: dict[str, list[tuple[str, str]]] = {}
    for name, place, reason, detail in _rows(path, "recording_id", "path", "reason", "detail"):
        examples.setdefault(reason or "not stated", []).append((name or place, detail[:200]))
    order = sorted(examples, key=lambda reason: (-len(examples[reason]), reason))
    return [
        Reason(n, len(examples[n]), REASONS.get(n, ""), tuple(examples[n][:_EXAMPLES]))
        for n in order
    ]


def _rows(path: Path, *columns: str) -> list[tuple[str, ...]]:
    """Return the rows of a parquet file with every one of `columns` as text, "" where it is not."""
    import polars as pl

    try:
        frame = pl.scan_parquet(path)
        there = frame.collect_schema().names()
        # A literal for a column that is missing: the row index keeps the number of rows.
        wanted = [pl.col(n) if n in there else pl.lit(None).alias(n) for n in columns]
        frame = frame.with_row_index("row number").select("row number", *wanted)
        text = pl.col(columns).cast(pl.String).fill_null("")
        return list(frame.select(text).collect().iter_rows())
    except (pl.exceptions.PolarsError, OSError) as err:
        said = str(err).partition("\n")[0]
        raise PrepError(f"{path} cannot be read: {said}. Make it again.") from err


def _score(text: str) -> str:
    try:
        return f"{float(text):.3f}"
    except ValueError:
        return text


@dataclass(frozen=True, slots=True)
class Grid:
    """A part of a JSON file that is a table by itself."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(content: Mapping[str, Any]) -> tuple[list[Grid], dict[str, Any]]:
    """Return what in `content` is a table (a list of objects, or objects by name), and the rest."""
    found, rest = [], {}
    for key, value in content.items():
        rows: list[Mapping[str, Any]] = []
        if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
            rows = value
        elif isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values()):
            rows = [{"name": name, **fields} for name, fields in value.items()]
        if not rows or key == "recipe":
            rest[key] = value
            continue
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        cells = tuple(tuple(_said(row.get(name)) for name in columns) for row in rows)
        found.append(Grid(_words(key), tuple(map(_words, columns)), cells))
    return found, rest


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (path, value) of everything in nested JSON, as text."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{_words(key)}"
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{name} › ")
        else:
            rows.append((name, _said(value)))
    return rows


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _said(value: object) -> str:
    """A JSON value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.1 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_said(v)}" for k, v in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "–"
    return "–" if value is None else str(value)
