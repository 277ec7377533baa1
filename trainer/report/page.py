"""The report about runs: what `runs.jinja` shows, as words, rows and drawings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.comparison import side_by_side
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.page import page, readable
from dawnchorus.trainer.report.curves import MARKS, charts_of, other_charts
from dawnchorus.trainer.report.data import clips_per_class, hours, licence_shares, sources
from dawnchorus.trainer.report.examples import drawn
from dawnchorus.trainer.report.reading import (
    Run,
    named_datasets,
    read_datasets,
    read_ranks,
    read_run,
)
from dawnchorus.trainer.report.verdict import verdict


def write_report(
    out: Path, runs: Sequence[Path], *, title: str | None = None, datasets: Sequence[Path] = ()
) -> Path:
    """Write one self-contained HTML page about one or several runs; return the file.

    It is written whole or not at all, and may be made while a run is still going.

    Args:
        out: the file to write, or a folder, which then gets `report.html`.
        runs: run folders in the order of the work (pre-training first). Missing or damaged files
            inside them are told on the page.
        title: headline; the name of the last run where none is given.
        datasets: dataset folders whose `stats.json` gives the clips per class. Where none is given,
            the paths in the runs' `data.json` are tried.

    Raises:
        DataError: no run was given, or one of the folders does not exist.
        OSError: the file cannot be written.
    """
    if not runs:
        raise DataError("no run was given: name at least one run folder, e.g. runs/demo")
    read = [read_run(Path(folder)) for folder in runs]
    html = render(read, title=title, datasets=[Path(d) for d in datasets])
    target = out / "report.html" if out.is_dir() else out
    write_whole(target, html)
    return target


def render(runs: Sequence[Run], *, title: str | None = None, datasets: Sequence[Path] = ()) -> str:
    """Return the page as text."""
    problems: list[str] = []
    folders = list(datasets) or named_datasets(runs, problems)
    stats = read_datasets(folders, problems)
    compared = side_by_side((r.adjective, r.name, result) for r in runs for result in r.evaluations)
    ranks = read_ranks(folders)
    for run in runs:
        ranks |= run.ranks
    used = [
        (s.name, s.clips, None if s.hours is None else hours(s.hours), s.labels, s.recordists,
         None if s.weight is None else f"{s.weight:.3g}", ", ".join(s.used_by) or None)
        for s in sources(runs, stats, problems)
    ]  # fmt: skip
    told = [(run.name, problem) for run in runs for problem in run.problems]
    return page(
        Path(__file__).with_name("runs.jinja"), "report", title or runs[-1].name,
        verdict(runs, compared), runs=runs, run_facts=run_facts, marks=MARKS, charts_of=charts_of,
        other_charts=other_charts, compared=compared, drawn=drawn, ranks=ranks, hours=hours,
        sources=used, shares=licence_shares(runs), counter=Counter,
        histograms=[shown for s in stats if (shown := clips_per_class(s, ranks))],
        problems=told + [("datasets", problem) for problem in problems],
    )  # fmt: skip


def run_facts(run: Run) -> list[tuple[str, str]]:
    """What stands on a run's card."""
    log, planned = run.log, run.planned
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
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
    return f"{hours // 24} d {hours % 24} h"
