"""The contents of a dataset by its own tables: for a person (`show`) or a program (a dict)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.dataset.places import words
from dawnchorus.data_prep.dataset.same_audio import same_audio_words
from dawnchorus.data_prep.dataset.work_folder import WORK
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.credits import licence_name
from dawnchorus.data_prep.report.events import event_rows, negatives_words, rule_words
from dawnchorus.data_prep.table.reasons import REASONS
from dawnchorus.trainer.sound_folders import what_to_do_with
from dawnchorus.trainer.strong_labels import KEY

if TYPE_CHECKING:
    from rich.console import Console

_GB = 1e9


def describe_dataset(dataset: Path) -> dict[str, Any]:
    """Return the content of `stats.json`, the licences by URL and the sources of the sound.

    The keys of `stats.json` (docs/data.md), and:
        licences: `[{licence_url, clips, hours, recordists}, ...]`, most hours first.
        sources: recordings by the archive they are from.
        label_ranks: labels by rank.

    Raises:
        PrepError: the folder holds no finished dataset.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    refuse_unfinished(dataset)
    try:
        stats: dict[str, Any] = json.loads((dataset / "stats.json").read_text())
        labels = json.loads((dataset / "labels.json").read_text())["labels"]
        ledger = pq.read_table(
            dataset / "licences.parquet", columns=["licence_url", "recordist", "clips", "hours"]
        )
        sources: Counter[str] = Counter()
        with pq.ParquetFile(dataset / "recordings.parquet") as file:
            for batch in file.iter_batches(columns=["source"]):
                for pair in batch.column(0).value_counts().to_pylist():
                    sources[pair["values"] or ""] += pair["counts"]
    except (OSError, ValueError, KeyError, pa.ArrowException) as err:
        raise PrepError(
            f"{dataset} cannot be described: {err}. `chorus data verify {dataset}` says what is "
            "wrong with it."
        ) from err
    named = pc.not_equal(ledger["recordist"], "").cast(pa.int64())  # a row per licence and person
    by_url = (
        ledger.append_column("named", named)
        .group_by("licence_url")
        .aggregate([("clips", "sum"), ("hours", "sum"), ("named", "sum")])
    )
    licences = [
        {
            "licence_url": row["licence_url"],
            "clips": row["clips_sum"],
            "hours": row["hours_sum"],
            "recordists": row["named_sum"],
        }
        for row in by_url.to_pylist()
    ]
    licences.sort(key=lambda row: (-row["hours"], row["licence_url"]))
    ranks = Counter(label.get("rank") or "" for label in labels)
    return stats | {
        "licences": licences,
        "sources": dict(sources.most_common()),
        "label_ranks": dict(ranks.most_common()),
    }


def refuse_unfinished(dataset: Path) -> None:
    """Raise PrepError, with the state of the dataset, where it is not finished."""
    if (dataset / "index.parquet").is_file():
        return
    work = dataset / WORK
    plan = work / "plan" / "plan.json"
    if plan.is_file():
        shards = len(json.loads(plan.read_text())["shards"])
        there = len(list(work.glob("*-??????.json")))
        raise PrepError(
            f"{dataset} is not finished: {there} of {shards} shards are there. The command that "
            "began it continues; parts are joined by `chorus prep merge`."
        )
    told = what_to_do_with(dataset)
    raise PrepError(f"{told or f'{dataset} is not a dataset: there is no index.parquet'}.")


def show(facts: Mapping[str, Any], *, top: int = 20, console: Console | None = None) -> None:
    """Print the description as tables; `top` limits labels, licences and sources."""
    from rich.console import Console as RichConsole
    from rich.markup import escape
    from rich.table import Table

    console = console or RichConsole()
    console.print(f"[bold]{escape(facts['name'])}[/bold]", highlight=False)
    summary = Table(show_header=False)
    for row in _summary(facts):
        summary.add_row(*map(escape, row))
    console.print(summary)
    total_h = facts["hours"] or 1.0
    splits = [
        (name, f"{part['clips']:,}", f"{part['hours']:,.2f}", f"{part['hours'] / total_h:.1%}")
        for name, part in facts["splits"].items()
    ]
    _print(console, "Splits", ("split", "clips", "hours", "share"), splits, len(splits))
    folds = [(fold, f"{count:,}") for fold, count in facts["folds"].items()]
    _print(console, "Folds", ("fold", "recordings"), folds, top)
    licences = [
        (licence_name(row["licence_url"]), f"{row['clips']:,}", f"{row['hours']:,.2f}",
         f"{row['recordists']:,}")
        for row in facts["licences"]
    ]  # fmt: skip
    _print(console, "Licences", ("licence", "clips", "hours", "recordists"), licences, top)
    sources = [(name or "?", f"{count:,}") for name, count in facts["sources"].items()]
    _print(console, "Sources", ("archive", "recordings"), sources, top)
    counts = Counter(facts["clips_per_label"]).most_common()
    _print(console, "Labels", ("label", "clips"), [(n, f"{c:,}") for n, c in counts], top)
    events = event_rows(facts)
    _print(console, "Events", ("label", "events", "mean s", "too high"), events, top)
    rejected = [
        (f"{name}: {REASONS[name]}" if name in REASONS else name, f"{count:,}")
        for name, count in facts["rejected_reasons"].items()
    ]
    _print(console, "Left out", ("reason", "recordings"), rejected, len(rejected))


def _summary(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the first table."""
    rare = sum(count < 10 for count in facts["clips_per_label"].values())
    clip_s = 3600 * facts["hours"] / max(facts["clips"], 1)
    ranks = ", ".join(f"{name or 'no rank'} {n:,}" for name, n in facts["label_ranks"].items())
    return [
        ("hours", f"{facts['hours']:,.2f}"),
        ("clips", f"{facts['clips']:,} of {clip_s:.1f} s on average"),
        ("recordings", f"{facts['recordings']:,}"),
        ("labels", f"{facts['labels']:,} ({rare:,} in fewer than 10 clips; {ranks or 'none'})"),
        ("recordists", f"{facts['recordists']:,}"),
        ("groups", f"{facts['groups']:,}"),
        ("stored as", f"{facts['sample_rate_hz']} Hz mono, 16 bit, {facts['codec']}"),
        ("shards", f"{facts['shards']:,}, {facts.get('bytes', 0) / _GB:,.2f} GB"),
        ("original formats", _counts(facts["original_codecs"])),
        ("original rates", _counts(facts["original_sample_rates_hz"], " Hz")),
        ("original channels", _counts(facts["original_channels"])),
        ("left out", f"{facts['rejected']:,} recordings"),
        ("places and times", words(facts.get("options", {}).get("places"))),
        ("silence cut", f"{facts.get('trimmed_hours', 0):,.2f} h"),
        ("same audio twice", f"{same_audio_words(facts)} recordings"),
        ("weaker by 20 dB", f"{facts.get('weaker_recordings', 0):,} recordings"),
        *([("negatives", negatives_words(facts)), ("clips of events", rule_words(facts))]
          if KEY in facts else []),
        ("saturated", f"{facts['saturated_recordings']:,} recordings"),
    ]  # fmt: skip


def _counts(counts: Mapping[str, int], unit: str = "", shown: int = 6) -> str:
    ranked = Counter(counts).most_common()
    more = f" and {len(ranked) - shown} more" if len(ranked) > shown else ""
    return ", ".join(f"{name}{unit} {count:,}" for name, count in ranked[:shown]) + more


def _print(
    console: Console, title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], top: int
) -> None:
    """Print a table of the first rows, the numbers to the right; nothing where there are none."""
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    more = f" (the first {top:,} of {len(rows):,})" if len(rows) > top else ""
    # A table's own title would be wrapped to the table's width.
    console.print(f"\n[bold]{title}[/bold]{more}", highlight=False)
    table = Table()
    table.add_column(head[0])
    for name in head[1:]:
        table.add_column(name, justify="right")
    for name, *numbers in rows[:top]:
        table.add_row(escape(name), *numbers)
    console.print(table)
