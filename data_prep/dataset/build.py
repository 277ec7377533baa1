"""From recordings to a dataset: check, plan, write shards in parallel, finish; or continue.

One run does it all (`build_dataset`), or several runs share the shards of one plan, on one machine
or many that see one file system (`build_part`), and a last one writes the tables (`merge_parts`).
The plan of such parts is made once (`make_plan`, or the first part): it holds all rows and the size
of every file, so that a part reads neither the table nor the files of other parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from dawnchorus.data_prep.dataset.lengths import lengths_s
from dawnchorus.data_prep.dataset.missing_shards import missing_message, missing_shards, summary_of
from dawnchorus.data_prep.dataset.options import BuildOptions, Part, settings_of
from dawnchorus.data_prep.dataset.places import companion, published
from dawnchorus.data_prep.dataset.plan import PLAN, Plan, ShardPlan, plan_shards, write_plan
from dawnchorus.data_prep.dataset.row_store import RowStore, Scan, first_of_group, scan, shared_keys
from dawnchorus.data_prep.dataset.same_audio import TABLE as SAME_AUDIO
from dawnchorus.data_prep.dataset.same_audio import same_audio
from dawnchorus.data_prep.dataset.work_folder import (
    WORK,
    difference,
    disk_errors,
    is_finished,
    leave,
    lock_folder,
    lock_part,
    lock_plan,
    refuse_foreign_files,
    sweep,
)
from dawnchorus.data_prep.dataset.write_all import NOT_BROKEN, Gate, run_shards
from dawnchorus.data_prep.dataset.write_shard import ShardSummary, ShardTask, result_name
from dawnchorus.data_prep.dataset.write_tables import write_tables
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.card import write_card
from dawnchorus.data_prep.report.events import lost_words, negatives_words
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.progress import Progress

FORMAT = 3  # of the work folder and of what the fingerprint covers
BESIDE = "beside"  # in the work folder: files that will lie beside the tables
_NAMED = 20  # rejected recordings that the screen names; the table names all
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

    `recordings` are iterated a few times and never held in memory: a list, or an object that reads
    them anew each time (`prepare.StoredTable`). A finished dataset of the same recordings and
    options is left as it is; an unfinished one is continued. `look_at` is the option that the
    message on missing files asks about. Raises PrepError where `out` holds something else, when
    more than `max_broken` of the recordings are unusable, or when nothing usable is left.
    """
    builder = _Builder(recordings, root, out, options, look_at)
    if builder.finished:
        return builder.stats()
    with builder.work(), lock_folder(out):
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

    Any number of parts may run at once, start at the same second, be killed and run again. They use
    one plan, of the part that is first to have made it. `merge_parts` finishes the dataset.
    """
    builder = _Builder(recordings, root, out, options, in_parts=True)
    if builder.finished:
        builder.stats()
        return 0
    with builder.work(), lock_part(out, part):
        builder.keep_companions()
        plan = builder.plan()
        mine = plan.shards[part.number - 1 :: part.count]
        sweep(out, [shard.path for shard in mine])
        builder.write(plan, mine)
        left = len(missing_shards(plan, out))
    rest = f"{left} of {len(plan.shards)} shards are still to write" if left else "all are there"
    last = f": `chorus prep merge {out}` finishes the dataset" if not left else ""
    builder.progress.say(f"Part {part} is done, {len(mine)} shards; {rest}{last}.")
    return left


def make_plan(recordings: Iterable[Recording], root: Path, out: Path, options: BuildOptions) -> int:
    """Decide what goes into which shard, for the parts that follow; return how many shards.

    One run reads the table and looks at every file. An existing plan of the same input is kept; a
    run that is killed leaves no plan. Raises PrepError as `build_part` does.
    """
    builder = _Builder(recordings, root, out, options, in_parts=True)
    if builder.finished:
        return int(builder.stats()["shards"])
    with builder.work(), lock_part(out, None):
        builder.keep_companions()
        plan = builder.plan()
    hours = sum(shard.seconds for shard in plan.shards) / 3600
    builder.progress.say(
        f"Planned {out}: {plan.recordings:,} recordings, about {hours:,.1f} h, in "
        f"{len(plan.shards):,} shards. `--part 1/N` to `N/N` write them, in any order."
    )
    return len(plan.shards)


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
    with disk_errors(out), lock_folder(out):
        plan = Plan.read(out / WORK / PLAN)
        missing = missing_shards(plan, out)
        if missing:
            raise PrepError(missing_message(plan, out, missing))
        sweep(out)
        gate = Gate(plan.folder, plan.recordings, 1.0 if allow_broken else max_broken)
        for shard in plan.shards:
            gate.count(summary_of(plan, shard, out) or ShardSummary(shard.path))
        gate.check()
        stats = _finish(plan, out, progress)
    _close(out)
    progress.say(f"Wrote {out}: {_summary(stats)}.")
    return stats


class _Builder:
    """What a run over all recordings and a run over one part have in common."""

    def __init__(
        self,
        recordings: Iterable[Recording],
        root: Path,
        out: Path,
        options: BuildOptions,
        look_at: str = "--audio",
        *,
        in_parts: bool = False,
    ) -> None:
        self.look_at = look_at
        if isinstance(recordings, Iterator):
            recordings = list(recordings)
        self.recordings, self.root, self.out, self.options = recordings, root, out, options
        self.progress = Progress()
        self.settings = settings_of(options, out)
        identity = getattr(recordings, "identity", None)
        # This identifies the request without reading any row or file.
        self.request = identity and {**identity, "root": str(root.resolve())}
        self._scan: Scan | None = None
        self.finished = False
        if not in_parts or (out / "index.parquet").exists():
            self.finished = is_finished(out, self.scan().digest, self.settings)
        if not self.finished:
            refuse_foreign_files(out)

    def scan(self) -> Scan:
        """Read every row and look at every file, once."""
        if self._scan is None:
            start = json.dumps([FORMAT, self.settings], sort_keys=True).encode()
            self._scan = scan(self.recordings, self.root, start, self.progress, self.options.places)
        return self._scan

    def stats(self) -> dict[str, Any]:
        """Say that there is nothing to do."""
        return _nothing_to_do(self.out, self.progress)

    def work(self) -> AbstractContextManager[None]:
        """Make the work folder; what the disk refuses becomes a PrepError."""
        return disk_errors(self.out, make=True)

    def keep_companions(self) -> None:
        """Copy the files beside the table for `_finish`: `merge` does not know the table."""
        folder = self.out / WORK / BESIDE
        for path in getattr(self.recordings, "companions", ()):
            folder.mkdir(exist_ok=True)
            write_whole(folder / path.name, companion(path, self.options.places))

    def plan(self) -> Plan:
        """Return the plan of an earlier run over the same input, or make one and keep it."""
        plan = self._known_plan()
        if plan is not None:
            return plan
        folder = self.out / WORK / PLAN
        with lock_plan(self.out, self.progress.say):
            plan = self._known_plan()  # another part has made it meanwhile
            if plan is not None:
                return plan
            if not (folder / "plan.json").exists():
                self._make_plan()
        digest = self.scan().digest
        self._scan = Scan(digest=digest)  # its columns are in the plan now
        plan = Plan.read(folder)
        if plan.fingerprint != digest:
            changed = difference(plan.options, self.settings)
            raise PrepError(f"{self.out} holds an unfinished dataset {changed}")
        return plan

    def _known_plan(self) -> Plan | None:
        """Return the existing plan where it is known to fit without reading anything."""
        folder = self.out / WORK / PLAN
        if self._scan is not None or not (folder / "plan.json").exists():
            return None
        plan = Plan.read(folder)
        if plan.options != self.settings:
            changed = difference(plan.options, self.settings)
            raise PrepError(f"{self.out} holds an unfinished dataset {changed}")
        return plan if self.request and plan.request == self.request else None

    def _make_plan(self) -> None:
        found, options = self.scan(), self.options
        self._refuse_missing()
        shards, members_R = plan_shards(
            found.splits,
            np.frombuffer(found.split, np.int32),
            np.frombuffer(found.group, np.uint64),
            lengths_s(found, self.recordings, self.root),
            bytes_per_second=2 * options.sample_rate_hz * _SIZE_RATIO[options.codec],
            shard_bytes=options.shard_size_mb * 1e6,
            seed=options.seed,
        )
        first_R, places = first_of_group(found), options.places
        write_plan(
            (
                published(recording, places, number, int(first_R[number]))
                for number, recording in enumerate(self.recordings)
            ),
            self.out / WORK,
            fingerprint=found.digest,
            options=self.settings,
            shards=shards,
            members_R=members_R,
            shared_R=shared_keys(found),
            size_R=np.frombuffer(found.size, np.int64),
            request=self.request,
            strong=found.with_events > 0,
        )

    def _refuse_missing(self) -> None:
        """Raise PrepError before any work where too many files are not there."""
        found = self.scan()
        total = len(found)
        missing = int(np.count_nonzero(np.frombuffer(found.size, np.int64) < 0))
        if missing <= self.options.max_broken * total or self.options.allow_broken:
            return
        if found.not_downloaded > missing / 2:
            raise PrepError(
                f"{found.not_downloaded} of {total} recordings have no file yet: `chorus prep "
                "download` fetches them and writes a table with their paths. --allow-broken goes "
                "on without them."
            )
        some = "\n  ".join(found.some_missing)
        raise PrepError(
            f"{missing} of {total} files do not exist below {self.root}:\n  {some}\n"
            f"Is {self.look_at} right? --allow-broken goes on without them."
        )

    def write(self, plan: Plan, shards: Sequence[ShardPlan]) -> None:
        """Write the shards that are missing."""
        share = 1.0 if self.options.allow_broken else self.options.max_broken
        gate = Gate(plan.folder, plan.recordings, share)
        work = self.out / WORK
        tasks = []
        for shard in shards:
            done = summary_of(plan, shard, self.out)
            if done is not None:
                gate.count(done)
                continue
            (work / result_name(shard.path)).unlink(missing_ok=True)
            tasks.append(
                ShardTask(
                    out=self.out, root=self.root, work=work, plan=plan.folder, shard=shard,
                    options=self.options, fingerprint=plan.fingerprint, strong=plan.strong,
                )
            )  # fmt: skip
        if len(tasks) < len(shards):
            there = len(shards) - len(tasks)
            self.progress.say(f"Continuing: {there} of {len(shards)} shards are there.")
        gate.check()
        run_shards(tasks, gate=gate, jobs=self.options.jobs, progress=self.progress)


def _finish(plan: Plan, out: Path, progress: Progress) -> dict[str, Any]:
    """Report the rejected recordings, and write the tables."""
    rejected = [
        item
        for shard in plan.shards
        for item in (summary_of(plan, shard, out) or ShardSummary(shard.path)).rejected
    ]
    with RowStore(plan.folder) as rows:
        for item in sorted(rejected, key=lambda item: int(item["recording"]))[:_NAMED]:
            recording = rows[item["recording"]]
            name = recording.path or recording.id
            progress.say(f"left out: {name}: {item['reason']}: {item['detail']}")
    if len(rejected) > _NAMED:
        progress.say(f"left out: {len(rejected) - _NAMED} more, see {out / 'rejected.parquet'}")
    _name_weaker(plan, out, progress)
    for path in sorted((out / WORK / BESIDE).glob("*")):
        write_whole(out / path.name, path.read_bytes())
    stats = write_tables(plan, out)
    _name_copies(stats, out, progress)
    if words := negatives_words(stats):
        progress.say(f"negatives: {words}")
    for line in lost_words(stats):
        progress.say(f"too high: {line}; --sample-rate-hz keeps them")
    return stats


def _name_copies(stats: dict[str, Any], out: Path, progress: Progress) -> None:
    """Report recordings with the samples of one that has other labels or lies in another split."""
    if stats["same_audio_other_labels"] or stats["same_audio_other_part"]:
        for line in same_audio(out / "recordings.parquet").lines():
            progress.say(f"same audio twice: {line}; see {out / SAME_AUDIO}")


def _name_weaker(plan: Plan, out: Path, progress: Progress) -> None:
    """Report recordings that are kept but lost more than 20 dB, and the option that helps."""
    weaker = [
        item
        for shard in plan.shards
        for item in (summary_of(plan, shard, out) or ShardSummary(shard.path)).weaker
    ]
    with RowStore(plan.folder) as rows:
        for item in sorted(weaker, key=lambda item: int(item["recording"]))[:_NAMED]:
            recording = rows[item["recording"]]
            progress.say(f"weaker: {recording.path or recording.id}: {item['detail']}")
    if len(weaker) > _NAMED:
        progress.say(
            f"weaker: {len(weaker) - _NAMED} more, see mix_lost_db and resample_lost_db in "
            f"{out / 'recordings.parquet'}"
        )


def _close(out: Path) -> None:
    """Finish a dataset, or what a killed run has left of one.

    The card that is written with the tables is short; the final one reads the finished tables.
    """
    if (out / WORK).is_dir():
        with disk_errors(out):
            write_card(out)
        leave(out)


def _nothing_to_do(out: Path, progress: Progress) -> dict[str, Any]:
    """Finish what a killed run may have left of a dataset, and report it; return its stats."""
    _close(out)
    stats: dict[str, Any] = json.loads((out / "stats.json").read_text())
    progress.say(f"{out} is finished: {_summary(stats)}. Nothing to do.")
    return stats


def _summary(stats: dict[str, Any]) -> str:
    short = sum(stats["rejected_reasons"].get(reason, 0) for reason in NOT_BROKEN)
    brief = f" ({short} of them too short)" if short else ""
    rejected = f", {stats['rejected']} left out{brief}" if stats["rejected"] else ""
    trimmed = stats.get("trimmed_hours", 0)
    silence = f", {trimmed:.2f} h of silence cut" if trimmed else ""
    return (
        f"{stats['clips']} clips of {stats['recordings']} recordings, {stats['hours']:.2f} h, "
        f"{stats['labels']} labels, {stats['shards']} shards{rejected}{silence}"
    )
