"""Put the page together and write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.page import render_page
from dawnchorus.trainer.report.comparison import tables, verdict
from dawnchorus.trainer.report.curves import MARKS, Drawn, charts_of, other_charts, readable
from dawnchorus.trainer.report.log import Event
from dawnchorus.trainer.report.reading import Run, read_datasets, read_ranks, read_run
from dawnchorus.trainer.report.sources import histogram, licence_shares, sources
from dawnchorus.trainer.report.spectrograms import Picture, picture
from dawnchorus.trainer.runtime.recorded_paths import recorded_path

_MOST_EXAMPLES = 8
_MOST_EVENTS = 60


@dataclass(frozen=True)
class RunView:
    """A run as the template shows it."""

    run: Run
    state: str
    progress: float | None
    """Per cent of the planned steps, or None where the plan is not known."""
    facts: list[tuple[str, str]]
    charts: list[Drawn]
    others: list[Drawn]
    event_counts: list[tuple[str, str, int]]
    """(symbol, kind, how many)."""
    events: list[Event]
    events_left_out: int
    pictures: list[Picture]
    pictures_left_out: int


def write_report(
    out: Path,
    runs: Sequence[Path],
    *,
    title: str | None = None,
    datasets: Sequence[Path] = (),
) -> Path:
    """Write one self-contained HTML page about one or several runs.

    The page needs no network and no script; a small script adds a read-out under the pointer and a
    theme switch. It is written whole or not at all, and may be made while a run is still going.

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
    page = render(read, title=title, datasets=[Path(d) for d in datasets])
    target = Path(out)
    if target.is_dir():
        target = target / "report.html"
    write_whole(target, page)
    return target


def render(runs: Sequence[Run], *, title: str | None = None, datasets: Sequence[Path] = ()) -> str:
    """The page as text."""
    problems: list[str] = []
    folders = list(datasets) or _named_datasets(runs, problems)
    stats = read_datasets(folders, problems)
    compared = tables(runs)
    ranks = read_ranks(folders) | {n: r for run in runs for n, r in run.ranks.items()}
    shown = {
        "title": title or runs[-1].name,
        "verdict": verdict(runs, compared),
        "views": [view(run) for run in runs],
        "tables": compared,
        "sources": sources(runs, stats, problems),
        "licences": licence_shares(runs),
        "histograms": [h for s in stats if (h := histogram(s, ranks)) is not None],
        "problems": [(run.name, p) for run in runs for p in run.problems]
        + [("datasets", p) for p in problems],
        "ranks": ranks,
    }
    return render_page("dawnchorus.trainer.report", shown)


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
        problems.append(
            f"{path} is {where}: its classes and clips per class are not shown. Looked for from "
            "the working folder, from where the run was started, and from above the run"
            if where == "not there"
            else f"{path} is {where}: its classes and clips per class are not shown"
        )
    return list(paths)


# --------------------------------------------------------------------------- one run


def view(run: Run) -> RunView:
    """Everything the template shows about a run."""
    drawn_events = [e for e in run.log.events if e.kind in MARKS]
    counts = Counter(e.kind for e in run.log.events)
    symbols = {kind: symbol for kind, (_, symbol) in MARKS.items()}
    planned = planned_steps(run)
    chosen = run.examples[:_MOST_EXAMPLES]
    return RunView(
        run=run,
        state=state(run, planned),
        progress=min(100.0, 100 * run.log.step / planned) if planned else None,
        facts=_facts(run, planned),
        charts=charts_of(run.log, drawn_events),
        others=other_charts(run.log),
        event_counts=[(symbols.get(k, "·"), k, n) for k, n in counts.most_common()],
        events=run.log.events[-_MOST_EVENTS:],
        events_left_out=max(0, len(run.log.events) - _MOST_EVENTS),
        pictures=[picture(run, example) for example in chosen],
        pictures_left_out=len(run.examples) - len(chosen),
    )


def planned_steps(run: Run) -> int | None:
    """Optimiser steps of the whole run, from its recipe."""
    steps = run.number("train", "max_steps", default=0)
    clips = run.number("train", "max_clips", default=0)
    batch = run.number("train", "global_batch", default=0)
    if steps > 0:
        return int(steps)
    return -int(-clips // batch) if clips > 0 and batch > 0 else None


def state(run: Run, planned: int | None) -> str:
    """Finished, pre-empted, aborted or unfinished: from the log alone, without a clock."""
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
    steps = f"{log.step:,}" + (f" of {planned:,}" if planned else "")
    facts = [("Steps", steps)]
    if log.samples_seen is not None:
        facts.append(("Clips seen", f"{log.samples_seen:,}"))
    facts.append(("Wall time", duration(log.wall_s)))
    if machine := hardware(run.environment):
        facts.append(("Hardware", machine))
    encoder = run.get("encoder", "name")
    layers, dim = run.get("encoder", "layers"), run.get("encoder", "dim")
    if encoder:
        size = f", {layers} × {dim}" if layers and dim else ""
        facts.append(("Encoder", f"{encoder}{size}"))
    batch, lr = run.get("train", "global_batch"), run.get("optim", "lr")
    for name, value in (("Batch", batch), ("Peak learning rate", lr),
                        ("Precision", run.get("train", "precision")),
                        ("Started from", run.recipe.get("init_from"))):  # fmt: skip
        if value is not None:
            text = readable(value) if isinstance(value, float) else str(value)
            facts.append((name, f"{text} clips" if name == "Batch" else text))
    return facts


def hardware(environment: Mapping[str, Any]) -> str:
    """The GPUs, else the processor."""
    gpus = environment.get("gpus")
    if isinstance(gpus, list) and gpus:
        counts = Counter(str(g) for g in gpus)
        return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items())
    processor = environment.get("processor")
    threads = environment.get("cpu_threads")
    if not processor and not threads:
        return ""
    plural = "" if threads == 1 else "s"
    return f"CPU {processor or ''}".strip() + (f", {threads} thread{plural}" if threads else "")


def duration(seconds: float) -> str:
    """41 s, 12 min, 3 h 05 min, 2 d 4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
