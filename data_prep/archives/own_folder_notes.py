"""What a person should know about a folder's table before it is used: splits, groups, licences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dawnchorus.data_prep.archives.columns import Mapped, plain_name
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording

Row = Mapping[str, Any]
SPLITS = ("train", "valid", "test")
_USUAL_SPLITS = {
    "train": ("train", "training", "tr", "trn", "data", "all", "dataset", "fit", "learn"),
    "valid": ("valid", "validation", "val", "dev", "devel", "development", "tune"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout", "heldout"),
}
# Columns that say what recordings have in common, where no group is named.
_GROUPING = ("recordist", "individual", "bird", "animal", "speaker", "session", "site", "location",
             "station", "deployment", "tape")  # fmt: skip
_MAX_NAMED = 5


def split_map(text: str) -> dict[str, str]:
    """Read "data=train,dev=valid"."""
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        old, equals, new = pair.rpartition("=")
        if not equals or not old.strip() or not new.strip():
            raise PrepError(
                f"--split-map {text!r}: {pair!r} is no pair OLD=NEW, such as data=train."
            )
        found[old.strip()] = new.strip()
    return found


def suggested_split_map(names: Iterable[str]) -> str:
    """Return the --split-map that turns usual names of splits into train, valid and test.

    '' where all have these names, or where a name is not usual.
    """
    pairs = []
    for name in sorted(names):
        plain = "".join(c for c in name.casefold() if c.isalpha())
        new = next((k for k, usual in _USUAL_SPLITS.items() if plain in usual), "")
        if not new:
            return ""
        if new != name:
            pairs.append(f"{name}={new}")
    return ",".join(pairs)


def warnings(
    recordings: Sequence[Recording], mapped: Mapped, rows: Sequence[tuple[int, Row]]
) -> list[str]:
    """Return what a person should know about the table before it is used."""
    notes = []
    unlicensed = sum(not recording.licence_url for recording in recordings)
    if unlicensed:
        notes.append(f"{unlicensed} recordings state no licence (--licence sets one)")
    notes += _split_notes(recordings) + _one_hot_notes(mapped, rows)
    notes += _group_notes(recordings, mapped, rows)
    for name in ("fold", "split"):
        divided = _divided(recordings, name, "group_id")
        if divided:
            notes.append(
                f"{len(divided)} groups lie in more than one {name}, for example {divided[0]!r}: "
                "a score on one of them is not a score on unknown sources"
            )
    return notes


def _one_hot_notes(mapped: Mapped, rows: Sequence[tuple[int, Row]]) -> list[str]:
    """Return a note where no column holds labels, but some of 0 and 1 look like one label each."""
    if "label" in mapped.columns or not rows:
        return []
    used = set(mapped.columns.values())
    seen: dict[str, set[str]] = {}
    for _, row in rows:
        for name, cell in row.items():
            seen.setdefault(name, set()).add(str(cell).strip().lower().removesuffix(".0"))
    marks = {"0", "1", "true", "false", ""}
    found = [n for n, cells in seen.items() if n not in used and cells <= marks and cells - {""}]
    if len(found) < 2:
        return []
    shown = ", ".join(map(repr, found[:_MAX_NAMED])) + (", ..." if len(found) > _MAX_NAMED else "")
    return [
        f"{len(found)} columns hold only 0 and 1 ({shown}); if each is a label, write the names of "
        "those that are 1 into one column (label), with ';' between them: there are no labels now"
    ]


def _split_notes(recordings: Sequence[Recording]) -> list[str]:
    names = {recording.split for recording in recordings}
    if names <= set(SPLITS):
        return []
    shown = ", ".join(sorted(names)[:_MAX_NAMED])
    text = suggested_split_map(names)
    if not text:
        text = f"{sorted(names - set(SPLITS))[0]}=train' (or valid, test"
        return [f"the splits are {shown}; recipes ask for train, valid, test: --split-map '{text})"]
    return [f"the splits are {shown}; recipes ask for train, valid, test: --split-map '{text}'"]


def grouping_column(
    recordings: Sequence[Recording], mapped: Mapped, rows: Sequence[tuple[int, Row]]
) -> str:
    """Return the column that says what recordings have in common, where no group is named and
    several share a value; else ''.
    """
    if "group" in mapped.columns:
        return ""
    column = mapped.columns.get("recordist", "")
    if column and len({r.recordist for r in recordings}) < len(recordings):
        return column
    plain = {plain_name(name).removesuffix("_id"): name for name in mapped.unused}
    column = next((plain[name] for name in _GROUPING if name in plain), "")
    values = {str(row.get(column)) for _, row in rows} if column else set()
    return column if 0 < len(values) < len(recordings) else ""


def _group_notes(
    recordings: Sequence[Recording], mapped: Mapped, rows: Sequence[tuple[int, Row]]
) -> list[str]:
    """Return a warning where parts are made of single files although a column names groups."""
    column = grouping_column(recordings, mapped, rows)
    if not column:
        return []
    for name in ("fold", "split"):
        if len({getattr(recording, name) for recording in recordings}) < 2:
            continue
        return [
            f"each {name} is made of single files: one {column} may lie in several of them, and a "
            f"model knows its {column}s; --group-column {column} keeps them together"
        ]
    return [f"each recording is a group of its own; --group-column {column} keeps those of one "
            "together"]  # fmt: skip


def _divided(recordings: Sequence[Recording], part: str, group: str) -> list[str]:
    """Return the groups that lie in more than one fold or split."""
    places: dict[str, set[str | None]] = {}
    for recording in recordings:
        places.setdefault(getattr(recording, group), set()).add(getattr(recording, part))
    return sorted(name for name, found in places.items() if len(found) > 1)
