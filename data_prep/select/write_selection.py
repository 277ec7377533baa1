"""The files of a selection, and its summary on the screen."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.select.duplicates import Link
from dawnchorus.data_prep.select.selection_rows import Rows
from dawnchorus.data_prep.select.split import Place
from dawnchorus.data_prep.select.taxa import TAXA, join_taxa
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Recording
from dawnchorus.data_prep.table.recording_table import (
    Rejected,
    read_recordings,
    table_path,
    write_table,
)
from dawnchorus.trainer.files import whole_file, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

    from dawnchorus.data_prep.select.selection_recipe import SelectRecipe

DUPLICATES = "duplicates.parquet"
LINKS = "links.parquet"
LEAKAGE = "leakage.parquet"
LEAKAGE_TEXT = "leakage.md"
SELECTION = "selection.json"
_RULES = {
    "id": "same id or archive number",
    "event": "same species, day and recordist",
    "held_out_species": "a label that is held out",
    "samples": "equal decoded samples",
    "fingerprint": "the same sound, wholly or in part",
    "copy": "a copy of a recording that has the same sound",
}


@dataclass(frozen=True, slots=True)
class Leak:
    """A row that an evaluation set has, or whose species is held out (set ""). One per rule."""

    n: int
    rule: str
    evaluation_set: str
    evaluation_id: str
    score: float = 1.0
    overlap_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What a selection made: the content of selection.json."""

    content: dict[str, Any]

    @property
    def text(self) -> str:
        """The funnel, the cost of licences, the parts, for the screen."""
        return "\n".join(
            [*_funnel(self.content["funnel"]), "", *_costs(self.content["licence_choices"]), "",
             *_parts(self.content["parts"])]
        )  # fmt: skip


def write_all(
    out: Path,
    recipe: SelectRecipe,
    rows: Rows,
    placed: Mapping[int, Place],
    *,
    leaks: Sequence[Leak],
    dropped: Mapping[int, Link],
    links: Sequence[Link],
    labels: set[str] | None,
    licence_costs: list[dict[str, object]],
    sets: Mapping[str, int],
    parts: Mapping[str, object],
) -> Result:
    """Write all tables, each whole; `selection.json` last. `labels`: the ones that stay."""
    id_of = rows.frame["id"]
    content: dict[str, Any] = {
        "recipe": recipe.resolved(),
        "funnel": [dataclasses.asdict(step) for step in rows.steps],
        "licence_choices": licence_costs,
        "duplicates": dict(sorted(Counter(link.kind for link in dropped.values()).items())),
        "links": dict(sorted(Counter(link.kind for link in links).items())),
        "evaluation_sets": {name: {"recordings": count} for name, count in sets.items()},
        "leakage": _count(leaks),
        "parts": parts,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(
            out / DUPLICATES,
            _link_schema("kept_id", "dropped_id"),
            [_link_row(id_of, link, "kept_id", "dropped_id") for link in dropped.values()],
        )
        _write(out / LINKS, _link_schema("a_id", "b_id"),
               [_link_row(id_of, link, "a_id", "b_id") for link in links])  # fmt: skip
        _write(out / LEAKAGE, _leak_schema(), [_leak_row(id_of, leak) for leak in leaks])
        write_whole(out / LEAKAGE_TEXT, _leak_text(content).encode())
        tables = [choice.table for choice in recipe.tables.values()]
        made = {"command": "chorus prep select"}
        used: dict[str, Counter[str]] = {FOREGROUND: Counter(), BACKGROUND: Counter()}
        write_table(_stream(tables, rows, placed, labels, used), out, made_by=made)
        taxa = join_taxa([table_path(table).parent for table in tables], used)
        if taxa is None:
            (out / TAXA).unlink(missing_ok=True)
        else:
            write_whole(out / TAXA, taxa)
        write_whole(out / SELECTION, json.dumps(content, indent=1, ensure_ascii=False).encode())
    except OSError as err:
        raise PrepError(f"Writing {out} failed: {err}. Make room, then run it again.") from err
    return Result(content)


def _stream(
    tables: Sequence[Path],
    rows: Rows,
    placed: Mapping[int, Place],
    labels: set[str] | None,
    used: Mapping[str, Counter[str]],
) -> Iterator[Recording | Rejected]:
    """Read the tables again and yield every row with its outcome; count labels in `used`."""
    audio, seconds = rows.frame["audio"], rows.frame["duration_s"]
    n = 0
    for table in tables:
        for recording in read_recordings(table):
            if rows.reason_R[n]:
                yield Rejected(
                    recording_id=recording.id,
                    reason=rows.reason_R[n],
                    detail=str(rows.detail_R[n] or ""),
                    path=audio[n] or recording.url,
                )
            else:
                place = placed[n]
                heard = recording.labels
                if labels is not None:
                    heard = tuple(label for label in heard if label.name in labels)
                for role, name in {(label.role, label.name) for label in heard}:
                    used[role][name] += 1
                events = recording.events
                if events is not None and labels is not None:  # a dropped label: something unknown
                    events = tuple(
                        e if e.label in labels else dataclasses.replace(e, label="") for e in events
                    )
                yield dataclasses.replace(
                    recording, events=events, path=audio[n], labels=heard,
                    split=place.split, fold=place.fold,
                    group_id=place.group_id, duration_s=seconds[n],
                )  # fmt: skip
            n += 1


# ------------------------------------------------------------------------------ small tables


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with whole_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def _link_schema(first: str, second: str) -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return pa.schema([(first, text), (second, text), ("kind", text), ("score", number),
                      ("overlap_s", number), ("lag_s", number)])  # fmt: skip


def _link_row(id_of: Any, link: Link, first: str, second: str) -> dict[str, Any]:
    return {
        first: id_of[link.a],
        second: id_of[link.b],
        "kind": link.kind,
        "score": round(link.score, 4),
        "overlap_s": round(link.overlap_s, 3),
        "lag_s": round(link.lag_s, 4),
    }


def _leak_schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return pa.schema([("recording_id", text), ("rule", text), ("evaluation_set", text),
                      ("evaluation_id", text), ("score", number), ("overlap_s", number),
                      ("detail", text)])  # fmt: skip


def _leak_row(id_of: Any, leak: Leak) -> dict[str, Any]:
    row = dataclasses.asdict(leak)
    return {"recording_id": id_of[row.pop("n")]} | row


def _count(leaks: Sequence[Leak]) -> dict[str, dict[str, int]]:
    """{set: {rule: recordings}}; held-out species stand under "(species)"."""
    seen = {(leak.evaluation_set or "(species)", leak.rule, leak.n) for leak in leaks}
    table: dict[str, dict[str, int]] = {}
    for name, rule, _ in sorted(seen):
        counts = table.setdefault(name, {})
        counts[rule] = counts.get(rule, 0) + 1
    return table


def _leak_text(content: Mapping[str, Any]) -> str:
    lines = ["# Overlap with evaluation", ""]
    if not content["evaluation_sets"] and not content["leakage"]:
        return "\n".join([*lines, "No evaluation set was given, so nothing was looked for.", ""])
    lines += ["Recordings that were left out, by evaluation set and by rule. One recording may be "
              "found by several rules.", ""]  # fmt: skip
    lines += ["| set | its recordings | rule | left out |", "|---|---|---|---|"]
    for name in [*content["evaluation_sets"], "(species)"]:
        size = content["evaluation_sets"].get(name, {}).get("recordings", "")
        counts = content["leakage"].get(name, {})
        if not counts and name != "(species)":
            lines.append(f"| {name} | {size} | none | 0 |")
        for rule, count in counts.items():
            lines.append(f"| {name} | {size} | {rule}: {_RULES.get(rule, '')} | {count} |")
    return "\n".join([*lines, "", "`leakage.parquet` has one row for each.", ""])


# ---------------------------------------------------------------------------------- screen


def _funnel(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'step':<32}{'recordings':>12}{'hours':>12}  left out"]
    for step in steps:
        gone = ", ".join(f"{reason} {count:,}" for reason, count in step["dropped"].items())
        lines.append(f"{step['name']:<32}{step['recordings']:>12,}{step['hours']:>12,.2f}  {gone}")
    return lines


def _costs(table: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'licences, of all rows':<32}{'recordings':>12}{'hours':>12}{'hours lost':>12}"]
    for row in table:
        lines.append(
            f"{row['choice']:<32}{row['recordings']:>12,}{row['hours']:>12,.2f}"
            f"{row['hours_lost']:>12,.2f}"
        )
    return lines


def _parts(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{'part':<20}{'recordings':>12}{'hours':>12}{'groups':>10}{'classes':>10}{'missing':>10}"
    ]
    for name, row in parts.items():
        lines.append(
            f"{name:<20}{row['recordings']:>12,}{row['hours']:>12,.2f}{row['groups']:>10,}"
            f"{row['classes']:>10,}{row['classes_missing']:>10,}"
        )
    return lines
