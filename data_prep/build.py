"""Recordings in, dataset out: check, plan, write shards in parallel, finish; or take up again.

One run does it all (`build_dataset`), or several runs share the shards of one plan, on one machine
or many that see one file system (`build_part`), and a last one writes the tables (`merge_parts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dawnchorus.data_prep.card import write_card
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.files import write_whole
from dawnchorus.data_prep.lengths import lengths_s
from dawnchorus.data_prep.options import FREE_OPTIONS, BuildOptions, Part
from dawnchorus.data_prep.plan import PLAN, Plan, ShardPlan, plan_shards, write_plan
from dawnchorus.data_prep.pool import Gate, run_shards
from dawnchorus.data_prep.progress import Progress
from dawnchorus.data_prep.recordings import Recording
from dawnchorus.data_prep.rows import RowStore, Scan, scan, shared_keys
from dawnchorus.data_prep.shards import ShardSummary, ShardTask, read_summary, result_name
from dawnchorus.data_prep.tables import write_tables
from dawnchorus.data_prep.twice import TABLE as SAME_AUDIO
from dawnchorus.data_prep.twice import same_audio
from dawnchorus.data_prep.workplace import (
    WORK,
    counts_of_parts,
    disk_errors,
    is_finished,
    leave,
    made_otherwise,
    only_one,
    refuse_strangers,
    sharing,
    sweep,
)

FORMAT = 2  # of the work folder and what the fingerprint covers
BESIDE = "beside"  # in the work folder: what is to lie beside the tables
_NAMED = 20  # recordings left out that are named on the screen; the table names all
# Bytes of stored audio a second, relative to int16 PCM; FLAC measured on bird recordings.
_SIZE_RATIO = {"flac": 0.55, "wav": 1.0}


def build_dataset(
    recordings: Iterable[Recording],
    root: Path,
    out: Path,
    options: BuildOptions,
    *,
    look_at: str = "--audio",
) -> dict[str, Any]:
    """Write the dataset `out` from `recordings` (paths relative to `root`); return its stats.

    `recordings` are gone through a few times and never held: a list, or an object that reads them
    anew each time (`data_prep.prepare.StoredTable`). A finished dataset of the same recordings and
    options is left as it is; an unfinished one is continued. `look_at` is the option that the
    message on missing files asks about. Raises PrepError where `out` belongs
    to something else, when more than `max_broken` of the recordings are unusable, or nothing
    usable is left.
    """
    builder = _Builder(recordings, root, out, options, look_at)
    if builder.finished:
        return builder.stats()
    with builder.work(), only_one(out):
        builder.keep_companions()
        plan = builder.plan()
        sweep(out)
        builder.write(plan, plan.shards)
        stats = _finish(plan, out, builder.progress)
    _close(out)
    builder.progress.say(f"Wrote {out}: {_summary(stats)}.")
    return stats


def build_part(
    recordings: Iterable[Recording], root: Path, out: Path, options: BuildOptions, part: Part
) -> int:
    """Write one part's shards of the dataset; return how many shards of all are still to write.

    Any number of parts may run at once, start at the same second, be killed and run again. The
    plan is the same for all: the first to have made it puts it in its place whole. `merge_parts`
    finishes the dataset.
    """
    builder = _Builder(recordings, root, out, options)
    if builder.finished:
        builder.stats()
        return 0
    with builder.work(), sharing(out, part):
        builder.keep_companions()
        plan = builder.plan()
        mine = plan.shards[part.number - 1 :: part.count]
        sweep(out, [shard.path for shard in mine])
        builder.write(plan, mine)
        left = len(_missing(plan, out))
    rest = f"{left} of {len(plan.shards)} shards are still to write" if left else "all are there"
    last = f": `chorus prep merge {out}` finishes the dataset" if not left else ""
    builder.progress.say(f"Part {part} is done, {len(mine)} shards; {rest}{last}.")
    return left


def merge_parts(
    out: Path, *, max_broken: float = 0.01, allow_broken: bool = False
) -> dict[str, Any]:
    """Write the tables of a dataset whose parts are all done; return its stats.

    Raises PrepError that says which parts are missing, or when too many recordings are unusable.
    """
    progress = Progress()
    if (out / "index.parquet").exists():
        return _nothing_to_do(out, progress)
    if not (out / WORK / PLAN / "plan.json").exists():
        raise PrepError(
            f"There is nothing to merge in {out}: no part has started. `chorus prep shards TABLE "
            f"--out {out} --part 1/4` writes the first of four."
        )
    with disk_errors(out), only_one(out):
        plan = Plan.read(out / WORK / PLAN)
        missing = _missing(plan, out)
        if missing:
            raise PrepError(_what_is_missing(plan, out, missing))
        sweep(out)
        gate = Gate(plan.folder, plan.recordings, 1.0 if allow_broken else max_broken)
        for shard in plan.shards:
            gate.count(_summary_of(shard, out) or ShardSummary(shard.path))
        gate.check()
        stats = _finish(plan, out, progress)
    _close(out)
    progress.say(f"Wrote {out}: {_summary(stats)}.")
    return stats


class _Builder:
    """What runs over all recordings or a part have in common."""

    def __init__(
        self,
        recordings: Iterable[Recording],
        root: Path,
        out: Path,
        options: BuildOptions,
        look_at: str = "--audio",
    ) -> None:
        self.look_at = look_at
        if isinstance(recordings, Iterator):
            recordings = list(recordings)
        self.recordings, self.root, self.out, self.options = recordings, root, out, options
        self.progress = Progress()
        self.settings = _settings(options, out)
        start = json.dumps([FORMAT, self.settings], sort_keys=True).encode()
        self.scan = scan(recordings, root, start, self.progress)
        self.finished = is_finished(out, self.scan.digest, self.settings)
        if not self.finished:
            refuse_strangers(out)

    def stats(self) -> dict[str, Any]:
        """Say that there is nothing to do."""
        return _nothing_to_do(self.out, self.progress)

    def work(self) -> AbstractContextManager[None]:
        """Make the work folder; what the disk refuses becomes a PrepError."""
        return disk_errors(self.out, make=True)

    def keep_companions(self) -> None:
        """Keep what lies beside the table, for `_finish`: `merge` does not know the table."""
        folder = self.out / WORK / BESIDE
        for path in getattr(self.recordings, "companions", ()):
            folder.mkdir(exist_ok=True)
            write_whole(folder / path.name, path.read_bytes())

    def plan(self) -> Plan:
        """Return the plan of an earlier run over the same input, or make one and keep it."""
        folder = self.out / WORK / PLAN
        if not (folder / "plan.json").exists():
            self._refuse_missing()
            seconds_R = lengths_s(self.scan, self.recordings, self.root)
            options = self.options
            ratio = _SIZE_RATIO[options.codec]
            shards, members_R = plan_shards(
                self.scan.splits,
                np.frombuffer(self.scan.split, np.int32),
                np.frombuffer(self.scan.group, np.uint64),
                seconds_R,
                bytes_per_second=2 * options.sample_rate_hz * ratio,
                shard_bytes=options.shard_size_mb * 1e6,
                seed=options.seed,
            )
            write_plan(
                self.recordings,
                self.out / WORK,
                fingerprint=self.scan.digest,
                options=self.settings,
                shards=shards,
                members_R=members_R,
                shared_R=shared_keys(self.scan),
            )
        self.scan = Scan(digest=self.scan.digest)  # its columns are in the plan now
        plan = Plan.read(folder)
        if plan.fingerprint != self.scan.digest:
            changed = made_otherwise(plan.options, self.settings)
            raise PrepError(f"{self.out} holds an unfinished dataset {changed}")
        return plan

    def _refuse_missing(self) -> None:
        """Raise PrepError before any work where too many files are not there."""
        total = len(self.scan)
        missing = int(np.count_nonzero(np.frombuffer(self.scan.size, np.int64) < 0))
        if missing <= self.options.max_broken * total or self.options.allow_broken:
            return
        if self.scan.not_downloaded > missing / 2:
            raise PrepError(
                f"{self.scan.not_downloaded} of {total} recordings have no file yet: `chorus prep "
                "download` fetches them and writes a table with their paths. --allow-broken goes "
                "on without them."
            )
        some = "\n  ".join(self.scan.some_missing)
        raise PrepError(
            f"{missing} of {total} files do not exist below {self.root}:\n  {some}\n"
            f"Is {self.look_at} right? --allow-broken goes on without them."
        )

    def write(self, plan: Plan, shards: Sequence[ShardPlan]) -> None:
        """Write those of the shards that are not there yet."""
        share = 1.0 if self.options.allow_broken else self.options.max_broken
        gate = Gate(plan.folder, plan.recordings, share)
        work = self.out / WORK
        tasks = []
        for shard in shards:
            done = _summary_of(shard, self.out)
            if done is not None:
                gate.count(done)
                continue
            (work / result_name(shard.path)).unlink(missing_ok=True)
            tasks.append(
                ShardTask(
                    out=self.out, root=self.root, work=work, plan=plan.folder, shard=shard,
                    options=self.options,
                )
            )  # fmt: skip
        if len(tasks) < len(shards):
            there = len(shards) - len(tasks)
            self.progress.say(f"Continuing: {there} of {len(shards)} shards are there.")
        gate.check()
        run_shards(tasks, gate=gate, jobs=self.options.jobs, progress=self.progress)


def _summary_of(shard: ShardPlan, out: Path) -> ShardSummary | None:
    """Return what was written of a shard; None where it, or its tar, is not there."""
    summary = read_summary(out / WORK / result_name(shard.path))
    if summary is None or not summary.clips:
        return summary
    try:
        return summary if (out / shard.path).stat().st_size == summary.bytes else None
    except FileNotFoundError:
        return None


def _missing(plan: Plan, out: Path) -> list[int]:
    """Return the places of the shards that are still to write."""
    return [k for k, shard in enumerate(plan.shards) if _summary_of(shard, out) is None]


def _what_is_missing(plan: Plan, out: Path, missing: Sequence[int]) -> str:
    """Say which shards are missing, and by which parts."""
    counts = counts_of_parts(out)
    names = ", ".join(plan.shards[k].path for k in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    text = f"{len(missing)} of {len(plan.shards)} shards of {out} are not written: {names}{more}.\n"
    if len(counts) == 1:
        (count,) = counts
        parts = sorted({k % count + 1 for k in missing})
        return text + (
            f"Parts that have not finished: {', '.join(f'{n}/{count}' for n in parts)}. Run them "
            "(again), then merge."
        )
    return text + "`chorus prep shards` with the same table and options, without --part, ends it."


def _finish(plan: Plan, out: Path, progress: Progress) -> dict[str, Any]:
    """Name what was left out, and write the tables."""
    rejected = [
        item
        for shard in plan.shards
        for item in (_summary_of(shard, out) or ShardSummary(shard.path)).rejected
    ]
    with RowStore(plan.folder) as rows:
        for item in sorted(rejected, key=lambda item: int(item["recording"]))[:_NAMED]:
            recording = rows[item["recording"]]
            name = recording.path or recording.id
            progress.say(f"left out: {name}: {item['reason']}: {item['detail']}")
    if len(rejected) > _NAMED:
        progress.say(f"left out: {len(rejected) - _NAMED} more, see {out / 'rejected.parquet'}")
    for path in sorted((out / WORK / BESIDE).glob("*")):
        write_whole(out / path.name, path.read_bytes())
    stats = write_tables(plan, out)
    _name_copies(stats, out, progress)
    return stats


def _name_copies(stats: dict[str, Any], out: Path, progress: Progress) -> None:
    """Say which recordings have the samples of another one with other labels or elsewhere."""
    if stats["same_audio_other_labels"] or stats["same_audio_other_part"]:
        for line in same_audio(out / "recordings.parquet").lines():
            progress.say(f"same audio twice: {line}; see {out / SAME_AUDIO}")


def _close(out: Path) -> None:
    """End what makes a dataset: a run that is killed before leaves it to the next.

    The tables came with a short card; the last one tells sources, taxa and the selection as well,
    which stand in the tables that are now there.
    """
    if (out / WORK).is_dir():
        with disk_errors(out):
            write_card(out)
        leave(out)


def _nothing_to_do(out: Path, progress: Progress) -> dict[str, Any]:
    """End a finished dataset that a killed run may have left, and say so; return its stats."""
    _close(out)
    stats: dict[str, Any] = json.loads((out / "stats.json").read_text())
    progress.say(f"{out} is finished: {_summary(stats)}. Nothing to do.")
    return stats


def _summary(stats: dict[str, Any]) -> str:
    rejected = f", {stats['rejected']} left out" if stats["rejected"] else ""
    trimmed = stats.get("trimmed_hours", 0)
    silence = f", {trimmed:.2f} h of silence cut" if trimmed else ""
    return (
        f"{stats['clips']} clips of {stats['recordings']} recordings, {stats['hours']:.2f} h, "
        f"{stats['labels']} labels, {stats['shards']} shards{rejected}{silence}"
    )


def _settings(options: BuildOptions, out: Path) -> dict[str, Any]:
    """Return the options that decide what is in the dataset."""
    settings = {k: v for k, v in asdict(options).items() if k not in FREE_OPTIONS}
    settings["name"] = options.name or out.resolve().name
    if not options.task:  # a dataset from before there were tasks is still the same
        del settings["task"]
    return settings
