"""The report about runs: what it shows, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.page import (
    Number,
    Row,
    Section,
    bar,
    card,
    details,
    figures,
    grid,
    items,
    link,
    note,
    page,
    readable,
    section,
    table,
    tag,
)
from dawnchorus.trainer.panels import TokenPanel
from dawnchorus.trainer.report.comparison import evaluation, tables, verdict
from dawnchorus.trainer.report.curves import MARKS, charts_of, other_charts
from dawnchorus.trainer.report.data import clips_per_class, licence_shares, sources
from dawnchorus.trainer.report.examples import example_figure
from dawnchorus.trainer.report.reading import Run, read_datasets, read_ranks, read_run
from dawnchorus.trainer.training.recorded_paths import recorded_path

_MOST_EXAMPLES = 8
_MOST_EVENTS = 60


def write_report(
    out: Path,
    runs: Sequence[Path],
    *,
    title: str | None = None,
    datasets: Sequence[Path] = (),
) -> Path:
    """Write one self-contained HTML page about one or several runs.

    It is written whole or not at all, and may be made while a run is still going.

    Args:
        out: the file to write, or a folder, which then gets `report.html`.
        runs: run folders in the order of the work (pre-training first). Missing or damaged files
            inside them are told on the page.
        title: headline; the name of the last run where none is given.
        datasets: dataset folders whose `stats.json` gives the clips per class. Where none is given,
            the paths in the runs' `data.json` are tried.

    Returns:
        The file written.

    Raises:
        DataError: no run was given, or one of the folders does not exist.
        OSError: the file cannot be written.
    """
    if not runs:
        raise DataError("no run was given: name at least one run folder, e.g. runs/demo")
    read = [read_run(Path(folder)) for folder in runs]
    html = render(read, title=title, datasets=[Path(d) for d in datasets])
    target = Path(out)
    target = target / "report.html" if target.is_dir() else target
    write_whole(target, html)
    return target


def render(runs: Sequence[Run], *, title: str | None = None, datasets: Sequence[Path] = ()) -> str:
    """Return the page as text."""
    problems: list[str] = []
    folders = list(datasets) or _named_datasets(runs, problems)
    compared = tables(runs)
    ranks = read_ranks(folders) | {n: r for run in runs for n, r in run.ranks.items()}
    data = _data(runs, read_datasets(folders, problems), ranks, problems)
    told = [(run.name, p) for run in runs for p in run.problems]
    told += [("datasets", p) for p in problems]
    cards = tag("section", [_run_card(run) for run in runs], css="two", aria_label="Runs")
    missing = items([[tag("b", where), " ", problem] for where, problem in told], "told")
    return page(
        "report",
        title or runs[-1].name,
        verdict(runs, compared),
        cards,
        evaluation(compared) if compared else None,
        *[_training(run, i, alone=len(runs) == 1) for i, run in enumerate(runs, 1)],
        _examples(runs, ranks),
        data,
        section("recipe", "Recipe and environment", [_recipe(run) for run in runs], nav="Recipe"),
        section("missing", "What is missing", missing) if told else None,
    )


def _named_datasets(runs: Sequence[Run], problems: list[str]) -> list[Path]:
    """Datasets that data.json points to and that are there; the others become problems."""
    paths: dict[Path, None] = {}
    missing: dict[str, None] = {}
    for run in runs:
        rows = run.data.get("sources")
        for row in rows if isinstance(rows, list) else []:
            path = row.get("path") if isinstance(row, Mapping) else None
            if not isinstance(path, str) or not path:
                continue
            place = recorded_path(path, run.folder)
            if place is not None and (place / "stats.json").is_file():
                paths[place] = None
            else:
                missing[path] = None
    for path in missing:
        where = "in an object store" if "://" in path else "not there"
        looked = (
            ""
            if "://" in path
            else ". It was looked for from the working folder, from where the run was started, and "
            "from above the run"
        )
        problems.append(f"{path} is {where}: its classes and clips per class are not shown{looked}")
    return list(paths)


# --------------------------------------------------------------------------- the runs


def _run_card(run: Run) -> Markup:
    planned = planned_steps(run)
    done = min(100.0, 100 * run.log.step / planned) if planned else None
    said = state(run, planned) + (f", {done:.0f} %" if done is not None and done < 100 else "")
    return tag(
        "article",
        tag("h2", tag("div", run.stage, css="of"), run.name),
        note(said, css="state"),
        bar(done) if done is not None else None,
        figures(_facts(run, planned)),
        css="card run",
    )


def planned_steps(run: Run) -> int | None:
    """Return the optimiser steps of the whole run, from its recipe."""
    steps, clips, batch = (
        value if isinstance(value := run.get("train", key), int) else 0
        for key in ("max_steps", "max_clips", "global_batch")
    )
    if steps > 0:
        return steps
    return -(-clips // batch) if clips > 0 and batch > 0 else None


def state(run: Run, planned: int | None) -> str:
    """Say whether it is finished, pre-empted, aborted or unfinished, by the log and no clock."""
    last = run.log.events[-1].kind if run.log.events else ""
    if run.log.empty:
        return "not started"
    if last == "finish" or (planned is not None and run.log.step >= planned):
        return "finished"
    if last == "pre-emption":
        return "pre-empted, to be continued"
    if last == "stop":
        return "stopped by hand, to be continued"
    newest = max((e.step for e in run.log.events if e.kind == "non-finite"), default=-1)
    if newest >= run.log.step > 0:
        return "stopped after non-finite steps"
    return "under way or interrupted"


def _facts(run: Run, planned: int | None) -> list[tuple[str, str]]:
    log = run.log
    layers, dim = run.get("encoder", "layers"), run.get("encoder", "dim")
    size = f", {layers} × {dim}" if layers and dim else ""
    lr, batch = run.get("optim", "lr"), run.get("train", "global_batch")
    facts = [
        ("Steps", f"{log.step:,}" + (f" of {planned:,}" if planned else "")),
        ("Clips seen", log.samples_seen is not None and f"{log.samples_seen:,}"),
        ("Wall time", duration(log.wall_s)),
        ("Hardware", hardware(run.environment)),
        ("Encoder", run.get("encoder", "name") and f"{run.get('encoder', 'name')}{size}"),
        ("Batch", batch and f"{batch} clips"),
        ("Peak learning rate", readable(lr) if isinstance(lr, float) else lr),
        ("Precision", run.get("train", "precision")),
        ("Started from", run.recipe.get("init_from")),
    ]
    return [(name, str(value)) for name, value in facts if value]


def hardware(environment: Mapping[str, Any]) -> str:
    """Name the GPUs, else the processor."""
    gpus = environment.get("gpus")
    if isinstance(gpus, list) and gpus:
        counts = Counter(str(g) for g in gpus)
        return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items())
    processor, threads = environment.get("processor"), environment.get("cpu_threads")
    if not processor and not threads:
        return ""
    plural = "" if threads == 1 else "s"
    return f"CPU {processor or ''}".strip() + (f", {threads} thread{plural}" if threads else "")


def duration(seconds: float) -> str:
    """Write 41 s, 12 min, 3 h 05 min, 2 d 4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def _training(run: Run, number: int, *, alone: bool) -> Section:
    charts = charts_of(run.log, [e for e in run.log.events if e.kind in MARKS])
    others = other_charts(run.log)
    how = (
        "Strong lines are moving means over a fortieth of the run (dashed baselines: over half of "
        "it); pale are the single values (of long runs, from the smallest to the largest). Axes "
        "show the middle 98 % of the values. The numbers beside the names are the newest of the "
        "strong line, or those under the pointer."
    )
    return section(
        f"run{number}",
        "Training",
        [grid(charts), note(how)] if charts else note("Nothing was logged yet.", css="none"),
        details(f"Other figures that were logged ({len(others)})", grid(others))
        if others
        else None,
        _events(run) if run.log.events else None,
        of=f"{run.name}, {run.stage}",
        nav="Training" if alone else run.name,
    )


def _events(run: Run) -> list[Markup]:
    events, shown = run.log.events, run.log.events[-_MOST_EVENTS:]
    counts = [
        tag("span", tag("span", MARKS.get(kind, "·"), css="mark"), f" {kind} × {n} ", css="pair")
        for kind, n in Counter(e.kind for e in events).most_common()
    ]
    summary = f"All {len(shown)}" if shown == events else f"The last {len(shown)} of {len(events)}"
    rows = [(e.step, tag("span", e.kind, css="nowrap"), e.text) for e in shown]
    listed = table([Number("Step"), "Event", "What was said"], rows)
    return [
        tag("h3", "Events"),
        tag("div", counts),
        details(summary, listed, opened=len(shown) <= 6),
    ]


# --------------------------------------------------------------------------- examples and data


def _examples(runs: Sequence[Run], ranks: Mapping[str, str]) -> Section | None:
    parts: list[Markup] = []
    for run in runs:
        chosen = run.examples[:_MOST_EXAMPLES]
        if not chosen:
            continue
        parts.append(tag("h3", run.name, " ", tag("span", run.stage, css="of")))
        panels = [panel for example in chosen for panel in example.panels]
        if any(isinstance(p, TokenPanel) and p.mask_N is not None for p in panels):
            parts.append(note(
                "The veiled part of the spectrogram was hidden from the encoder (point at the "
                "picture to lift the veil). Each code has a colour of its own, the same in targets "
                "and predictions."
            ))  # fmt: skip
        drawn = [example_figure(example, ranks) for example in chosen]
        parts.append(grid(*drawn, css="grid clips"))
        if left := len(run.examples) - len(chosen):
            parts.append(note(f"{left} more are in examples.npz."))
    return section("examples", "Examples", parts) if parts else None


def _data(
    runs: Sequence[Run], stats: Sequence[Mapping[str, Any]], ranks: Mapping[str, str],
    problems: list[str],
) -> Section | None:  # fmt: skip
    used, shares = sources(runs, stats, problems), licence_shares(runs)
    histograms = [clips_per_class(s, ranks) for s in stats]
    if not used and not any(histograms):
        return None
    head = [
        "Source",
        *map(Number, ("Clips", "Hours", "Classes", "Recordists", "Weight")),
        "Used by",
    ]
    rows = [
        (s.name, s.clips, None if s.hours is None else hours(s.hours), s.labels or None,
         s.recordists or None, None if s.weight is None else f"{s.weight:.3g}",
         ", ".join(s.used_by) or None)
        for s in used
    ]  # fmt: skip
    whole = (
        "Clips and hours are those of the whole dataset, and so are the licences below; where a "
        "run took a part of it, that part stands beside its name."
    )
    named = [
        [
            tag("span", css=f"swatch l{i % 6}"),
            link(s.name, s.link, "noreferrer license"),
            tag("span", f" {s.percent:.1f} %, {hours(s.hours)} h, {s.clips:,} clips", css="facts"),
        ]
        for i, s in enumerate(shares)
    ]
    parts = [
        tag("span", css=f"l{i % 6}", style=f"width:{s.percent:.2f}%") for i, s in enumerate(shares)
    ]
    return section(
        "data",
        "Data",
        [card(table(head, rows)), note(whole)] if used else None,
        card(tag("div", parts, css="stack"), items(named, "inline"), title="Licences of the sound")
        if shares
        else None,
        histograms,
    )


def hours(value: float) -> str:
    """Write 1,234.5 or 6.10."""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def _recipe(run: Run) -> list[Markup]:
    parts = []
    if run.recipe_text:
        parts.append(details(f"Resolved recipe of {run.name}", tag("pre", run.recipe_text)))
    if run.environment:
        rows = [Row("", (name.replace("_", " "), _said(v))) for name, v in run.environment.items()]
        parts.append(details(f"Environment of {run.name}", table([], rows)))
    if not parts:
        said = f"Neither recipe.yaml nor environment.json is in {run.name}."
        parts.append(note(said, css="none"))
    return parts


def _said(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [tag("span", f"{k} {v} ", css="pair") for k, v in value.items()]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value)) or "–"
    return None if value is None else str(value)
