"""The complete check of a dataset: tables against each other, and every clip against its row.

It checks the writer's promise (docs/data.md) without the trainer's reader: the tars are walked with
the standard library's tarfile.

Memory: about 80 bytes per recording and 8 per clip, and one shard's rows at a time per process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dawnchorus.data_prep.audio.processes import each
from dawnchorus.data_prep.dataset.places import finer_rows
from dawnchorus.data_prep.dataset.verify_shard import ShardCheck, check_shard
from dawnchorus.data_prep.dataset.verify_tables import Expected, check_tables, read_expected
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.describe import refuse_unfinished
from dawnchorus.data_prep.report.events import negatives_words
from dawnchorus.trainer.progress import Progress
from dawnchorus.trainer.strong_labels import KEY

if TYPE_CHECKING:
    from dawnchorus.trainer.progress import Bar


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the file, the clip's key where it concerns one clip, and what is wrong."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.key}: {self.what}" if self.key else f"{self.where}: {self.what}"
        )


@dataclass
class Report:
    """What a check found."""

    dataset: Path
    quick: bool
    limit: int
    clips: int = 0
    hours: float = 0.0
    shards: int = 0
    count: int = 0
    """Number of all problems; `problems` holds the first `limit`."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Things that could not be checked, with the reason."""

    def add(self, where: str, what: str, key: str = "") -> None:
        """Count a problem, and keep it while there are fewer than `limit`."""
        self.count += 1
        if len(self.problems) < self.limit:
            self.problems.append(Problem(where, key, what))

    def lines(self) -> Iterator[str]:
        """Yield what to print."""
        yield from (f"problem: {problem}" for problem in self.problems)
        if self.count > len(self.problems):
            yield f"... and {self.count - len(self.problems):,} more problems"
        yield from (f"warning: {text}" for text in self.warnings)
        yield from (f"note: {text}" for text in self.notes)
        how = "tables and tar headers" if self.quick else "tables, hashes and every clip"
        verdict = f"{self.count:,} problems" if self.count else "nothing damaged"
        if not self.count and not self.warnings:
            verdict = "no problem"
        elif self.warnings:
            verdict += f", {len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}"
        yield (
            f"{self.dataset}: {verdict} in {self.clips:,} clips of {self.shards:,} shards, "
            f"{self.hours:,.2f} h ({how})"
        )


def verify_dataset(
    dataset: Path, *, quick: bool = False, jobs: int = 0, limit: int = 100
) -> Report:
    """Check a finished dataset completely, whatever problems are found on the way.

    Args:
        dataset: its folder.
        quick: skip hashes, the clips' records and their decoding.
        jobs: processes; 0: one per core.
        limit: how many problems to keep, of those that are counted.

    Raises:
        PrepError: the folder holds no finished dataset, or a table cannot be read at all.
    """
    import pyarrow as pa

    refuse_unfinished(dataset)
    report = Report(dataset, quick, limit)
    try:
        expected = read_expected(dataset, report)
        check_tables(dataset, expected, report)
        _check_places(dataset, expected, report)
        if expected.stats.get(KEY, {}).get("negatives") == 0:
            report.warnings.append(f"negatives: {negatives_words(expected.stats)}")
        checks = _checks(dataset, expected, quick)
        progress = Progress()
        with progress.hours(max(expected.hours, 1e-9), "checking") as bar:
            with closing(each(_check, checks, jobs=jobs, log=None, say=progress.say)) as found:
                for check, problems in found:
                    _add(report, check, problems, bar)
            report.problems.sort(key=lambda problem: (problem.where, problem.key))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as err:
        kind = type(err).__name__
        raise PrepError(
            f"{dataset} has a table that cannot be read ({kind}: {err}). Restore it from a good "
            "copy, or make the dataset again (`chorus prep folder` or `chorus prep shards`)."
        ) from err
    return report


def _checks(dataset: Path, expected: Expected, quick: bool) -> Iterator[ShardCheck]:
    """Yield what to check shard by shard, in the order of the index."""
    for shard, rows in expected.rows_by_shard():
        yield ShardCheck(
            path=dataset / shard,
            shard=shard,
            rows=rows,
            recordings=expected.recordings_of(rows),
            label_names=expected.label_names,
            licences={i: expected.licences[i] for i in {row["licence_id"] for row in rows}
                      if 0 <= i < len(expected.licences)},
            sha256=expected.sums.get(shard, ""),
            places=expected.places,
            rule=expected.rule,
            quick=quick,
        )  # fmt: skip


def _add(report: Report, check: ShardCheck, problems: Sequence[tuple[str, str]], bar: Bar) -> None:
    for key, what in problems:
        report.add(check.shard, what, key)
    report.clips += len(check.rows)
    report.shards += 1
    report.hours += check.hours
    bar.update(report.hours, f"shard {report.shards}, {report.count} problems")


def _check(check: ShardCheck) -> tuple[ShardCheck, list[tuple[str, str]]]:
    return check, check_shard(check)


def _check_places(dataset: Path, expected: Expected, report: Report) -> None:
    """Report recordings of which the table tells more than the card says."""
    finer, example = finer_rows(dataset / "recordings.parquet", expected.places)
    if finer:
        report.add(
            "recordings.parquet",
            f"{finer:,} rows tell more than places={expected.places} of the card ({example}): "
            "make the dataset again before anybody gets it",
        )
