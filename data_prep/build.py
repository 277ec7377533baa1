"""Recordings in, dataset out: check, plan, write shards in parallel, finish; or take up again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.audio import probe_duration_s
from data_prep.errors import PrepError
from data_prep.options import FREE_OPTIONS, BuildOptions
from data_prep.plan import ShardPlan, generator, key_stems, plan_shards
from data_prep.pool import run_shards
from data_prep.progress import Progress
from data_prep.recordings import Recording, canonical_json, validate
from data_prep.shards import ShardResult, ShardTask, result_name, write_whole
from data_prep.tables import write_tables

FORMAT = 1
WORK = ".prep"  # folder within the dataset that exists only until it is finished
_PROBED = 2000  # headers that are read to plan with
_NAMED = 20  # recordings left out that are named on the screen; the table names all
# Bytes of stored audio a second, relative to int16 PCM; FLAC measured on bird recordings.
_SIZE_RATIO = {"flac": 0.55, "wav": 1.0}


def build_dataset(
    recordings: Sequence[Recording], root: Path, out: Path, options: BuildOptions
) -> dict[str, Any]:
    """Write the dataset `out` from `recordings` (paths relative to `root`); return its stats.

    A finished dataset of the same recordings and options is left as it is; an unfinished one is
    continued. Raises PrepError where `out` belongs to something else, when more than
    `max_broken` of the recordings are unusable, or nothing usable is left.
    """
    validate(recordings)
    progress = Progress()
    settings = _settings(options, out)
    fingerprint = _fingerprint(recordings, root, settings)
    if _is_finished(out, fingerprint, settings):
        stats: dict[str, Any] = json.loads((out / "stats.json").read_text())
        progress.say(f"{out} is finished: {_summary(stats)}. Nothing to do.")
        return stats
    _refuse_strangers(out)
    work = out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _only_one(work):
            stats = _build(recordings, root, out, options, fingerprint, settings, progress)
    except OSError as err:
        raise PrepError(f"Writing {out} failed: {err}. The same command continues.") from err
    shutil.rmtree(work)
    progress.say(f"Wrote {out}: {_summary(stats)}.")
    return stats


def _build(
    recordings: Sequence[Recording],
    root: Path,
    out: Path,
    options: BuildOptions,
    fingerprint: str,
    settings: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Plan or take up the plan, write the shards that are missing, then the tables."""
    shards = _load_or_make_plan(recordings, root, out / WORK, options, fingerprint, settings)
    _sweep(out)
    tasks, done = _tasks(recordings, shards, root, out, options)
    if done:
        progress.say(f"Continuing: {len(done)} of {len(shards)} shards are there.")
    results = done + run_shards(
        tasks, done=done, recordings=recordings, options=options, progress=progress
    )
    results.sort(key=lambda result: result.shard)
    rejected = [item for result in results for item in result.rejected]
    for item in sorted(rejected, key=lambda item: int(item["recording"]))[:_NAMED]:
        path = recordings[item["recording"]].path
        progress.say(f"left out: {path}: {item['reason']}: {item['detail']}")
    if len(rejected) > _NAMED:
        progress.say(f"left out: {len(rejected) - _NAMED} more, see {out / 'rejected.parquet'}")
    return write_tables(recordings, results, out, settings, fingerprint)


def _summary(stats: dict[str, Any]) -> str:
    rejected = f", {stats['rejected']} left out" if stats["rejected"] else ""
    return (
        f"{stats['clips']} clips of {stats['recordings']} recordings, {stats['hours']:.2f} h, "
        f"{stats['labels']} labels, {stats['shards']} shards{rejected}"
    )


def _settings(options: BuildOptions, out: Path) -> dict[str, Any]:
    """Return the options that decide what is in the dataset."""
    settings = {k: v for k, v in asdict(options).items() if k not in FREE_OPTIONS}
    settings["name"] = options.name or out.resolve().name
    return settings


def _fingerprint(recordings: Sequence[Recording], root: Path, settings: dict[str, Any]) -> str:
    """Digest of everything the dataset is made from: format, options, table, file sizes."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode())
    with ThreadPoolExecutor(16) as threads:
        sizes = threads.map(lambda r: _size(root / r.path), recordings)
        for line, size in zip(canonical_json(recordings), sizes, strict=True):
            digest.update(line)
            digest.update(f"{size}\n".encode())
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _is_finished(out: Path, fingerprint: str, settings: dict[str, Any]) -> bool:
    """Return whether `out` is this dataset, finished; PrepError where it is another one."""
    if not (out / "index.parquet").exists():
        return False
    try:
        stats = json.loads((out / "stats.json").read_text())
        known, theirs = stats["fingerprint"], stats["options"]
    except (OSError, ValueError, KeyError) as err:
        raise PrepError(f"{out} holds a dataset that this program did not write.") from err
    if known == fingerprint:
        shutil.rmtree(out / WORK, ignore_errors=True)
        return True
    raise PrepError(f"{out} holds a finished dataset {_difference(theirs, settings)}")


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    changed = [
        f"{name} was {theirs.get(name)!r}, is {ours.get(name)!r}"
        for name in sorted(set(theirs) | set(ours))
        if theirs.get(name) != ours.get(name)
    ]
    what = "; ".join(changed) or "the metadata, the columns used, or the audio files changed"
    return f"made otherwise: {what}. Choose another --out, or delete the folder to make it anew."


def _refuse_strangers(out: Path) -> None:
    """Refuse to write into a folder that holds anything this program did not put there."""
    if out.exists() and not out.is_dir():
        raise PrepError(f"{out} is a file; --out must be a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise PrepError(f"{out} is not empty and not a dataset. Choose another --out.")


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Hold the folder; a second run on it is told so. The lock goes with the process."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise PrepError(f"Another run is preparing {work.parent} right now.") from err
        yield


def _load_or_make_plan(
    recordings: Sequence[Recording],
    root: Path,
    work: Path,
    options: BuildOptions,
    fingerprint: str,
    settings: dict[str, Any],
) -> list[ShardPlan]:
    """Return the plan of an earlier run over the same input, or make one and keep it."""
    path = work / "plan.json"
    if path.exists():
        state = json.loads(path.read_text())
        if state["fingerprint"] != fingerprint:
            changed = _difference(state["options"], settings)
            raise PrepError(f"{work.parent} holds an unfinished dataset {changed}")
        return [
            ShardPlan(**shard | {"members": tuple(shard["members"])}) for shard in state["shards"]
        ]
    missing = [r for r in recordings if not (root / r.path).is_file()]
    if len(missing) > options.max_broken * len(recordings) and not options.allow_broken:
        some = "\n  ".join(r.path for r in missing[:5])
        raise PrepError(
            f"{len(missing)} of {len(recordings)} files do not exist below {root}:\n  {some}\n"
            "Is --path-column right? --allow-broken goes on without them."
        )
    seconds = _lengths_s(recordings, root)
    ratio = _SIZE_RATIO[options.codec]
    shards = plan_shards(
        recordings,
        seconds,
        bytes_per_second=2 * options.sample_rate_hz * ratio,
        shard_bytes=options.shard_size_mb * 1e6,
        seed=options.seed,
    )
    state = {
        "fingerprint": fingerprint,
        "options": settings,
        "shards": [asdict(shard) for shard in shards],
    }
    write_whole(path, json.dumps(state).encode())
    return shards


def _lengths_s(recordings: Sequence[Recording], root: Path) -> list[float]:
    """Estimate the length of every recording: what the table says, or the headers.

    Of many files only a random sample is opened; the others are taken to have their format's
    seconds per byte. It is only for shards of about one size.
    """
    unknown = [i for i, recording in enumerate(recordings) if not recording.duration_s]
    seconds = [recording.duration_s for recording in recordings]
    order = generator(0, "sample").permutation(len(unknown))[:_PROBED]
    sample = sorted(unknown[k] for k in order)
    with ThreadPoolExecutor(8) as threads:
        probed = threads.map(lambda i: probe_duration_s(root / recordings[i].path), sample)
        for i, found in zip(sample, probed, strict=True):
            seconds[i] = found
        rest = sorted(set(unknown) - set(sample))
        sizes = dict(
            zip(
                [*sample, *rest],
                threads.map(lambda i: _size(root / recordings[i].path), [*sample, *rest]),
                strict=True,
            )
        )
    by_format: dict[str, list[float]] = {}
    for i in sample:
        total = by_format.setdefault(Path(recordings[i].path).suffix.lower(), [0.0, 0.0])
        total[0] += seconds[i]
        total[1] += max(sizes[i], 0)
    for i in rest:
        found, size = by_format.get(Path(recordings[i].path).suffix.lower(), [1.0, 16000.0])
        seconds[i] = max(sizes[i], 0) * found / max(size, 1.0)
    return seconds


def _sweep(out: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in [*out.glob("*/.*.tmp"), *out.glob(".*.tmp")]:
        path.unlink(missing_ok=True)


def _tasks(
    recordings: Sequence[Recording],
    shards: Sequence[ShardPlan],
    root: Path,
    out: Path,
    options: BuildOptions,
) -> tuple[list[ShardTask], list[ShardResult]]:
    """Return the shards that are still to write, and the results of those that are done."""
    work = out / WORK
    stems = key_stems(recordings)
    tasks, done = [], []
    for shard in shards:
        result = work / result_name(shard.path)
        if result.exists():
            done.append(ShardResult.from_json(result.read_bytes()))
            continue
        tasks.append(
            ShardTask(
                out=out,
                root=root,
                work=work,
                shard=shard.path,
                seed=options.seed,
                codec=options.codec,
                sample_rate_hz=options.sample_rate_hz,
                max_piece_s=options.max_piece_s,
                max_hours=options.max_hours,
                recordings=tuple(recordings[i] for i in shard.members),
                members=shard.members,
                stems=tuple(stems[i] for i in shard.members),
                seconds=shard.seconds,
            )
        )
    return tasks, done
