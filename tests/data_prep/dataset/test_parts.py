"""Parts of one dataset, at once, killed, run again; and joining them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import digests

from dawnchorus.data_prep.archives.own_folder import read_folder
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.dataset.prepare import merge, plan, prepare_shards
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import write_table

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def table(make_folder: Callable, make_rows: Callable, tmp_path_factory: pytest.TempPathFactory):
    """96 short recordings (12 shards) beside their table."""
    root = make_folder(tmp_path_factory.mktemp("parts") / "birds", make_rows(96, ["flac", "wav"]))
    write_table(read_folder(root, FolderOptions()).recordings, root)
    return root


@pytest.fixture(scope="module")
def whole(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the dataset that one run makes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    prepare_shards(table, out, jobs=2)
    return digests(out)


def part(table: Path, out: Path, which: str, jobs: int = 1) -> list[str]:
    return [sys.executable, "-m", "dawnchorus.data_prep.cli", "shards", str(table), "--out",
            str(out), "--part", which, "--jobs", str(jobs)]  # fmt: skip


def test_parts_that_start_at_one_second_make_the_bytes_of_one_run(
    table: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    runs = [
        subprocess.Popen(part(table, out, f"{k}/4"), cwd=REPO, stderr=subprocess.PIPE, text=True)
        for k in (1, 2, 3, 4)
    ]
    messages = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, messages
    assert not (out / "index.parquet").exists()
    assert merge(out)["clips"] == 96
    assert digests(out) == whole
    assert merge(out)["clips"] == 96  # nothing to do


def test_merge_says_what_is_missing(table: Path, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(PrepError, match="no part has started"):
        merge(out)
    assert prepare_shards(table, out, part="2/3", jobs=1) == {"shards_left": 8}
    with pytest.raises(PrepError, match=r"8 of 12 shards .*000000\.tar.*\n.*finished: 1/3, 3/3"):
        merge(out)
    prepare_shards(table, out, part="1/3", jobs=1)
    prepare_shards(table, out, part="1/12", jobs=1)  # another division does no harm
    with pytest.raises(PrepError, match="4 of 12 shards"):
        merge(out)
    prepare_shards(table, out, part="3/3", jobs=1)
    (out / "train" / "000004.tar").unlink()  # lost, whatever took it
    with pytest.raises(PrepError, match=r"1 of 12 shards .*000004\.tar"):
        merge(out)
    prepare_shards(table, out, part="2/3", jobs=1)
    merge(out)
    assert digests(out) == whole


def test_a_run_over_all_ends_what_parts_began(
    table: Path, whole: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    prepare_shards(table, out, part="2/2", jobs=1)
    prepare_shards(table, out, jobs=1)
    assert "Continuing: 6 of 12 shards are there" in capsys.readouterr().err
    assert digests(out) == whole


def test_who_may_run_beside_whom(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare_shards(table, out, part="1/2", jobs=1)
    with (out / ".prep" / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as another part holds it
        with (
            (out / ".prep" / "part-1-of-2.lock").open("a+") as mine,
            pytest.raises(PrepError, match="Another run is writing part 1/2"),
        ):
            fcntl.flock(mine, fcntl.LOCK_EX)
            prepare_shards(table, out, part="1/2", jobs=1)
        for attempt in (lambda: merge(out), lambda: prepare_shards(table, out, jobs=1)):
            with pytest.raises(PrepError, match="Another run is preparing"):
                attempt()
        prepare_shards(table, out, part="2/2", jobs=1)
    with (out / ".prep" / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PrepError, match="over all parts"):
            prepare_shards(table, out, part="2/2", jobs=1)
    assert merge(out)["clips"] == 96


def test_a_part_sweeps_its_own_leftovers_only(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare_shards(table, out, part="1/2", jobs=1)
    mine, theirs = out / "train/.000001.tar.h-1.tmp", out / "train/.000002.tar.h-1.tmp"
    mine.write_bytes(b"half")
    theirs.write_bytes(b"half")
    prepare_shards(table, out, part="2/2", jobs=1)
    assert not mine.exists() and theirs.exists()
    merge(out)
    assert not theirs.exists()


def test_other_options_in_a_part_are_refused(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare_shards(table, out, part="1/2", jobs=1)
    with pytest.raises(PrepError, match=r"unfinished dataset made otherwise: seed was 0, is 1"):
        prepare_shards(table, out, part="2/2", jobs=1, seed=1)


def test_broken_recordings_stop_the_merge_too(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    root = make_folder(tmp_path / "birds", make_rows(32, ["wav"]))
    for number in (0, 9):
        (root / f"audio/rec{number:03d}.wav").write_bytes(b"<html>")
    write_table(read_folder(root, FolderOptions()).recordings, root)
    for which in ("1/2", "2/2"):
        prepare_shards(root, tmp_path / "set", part=which, jobs=1, allow_broken=True)
    with pytest.raises(PrepError, match=r"2 of 32 recordings are unusable.*\n.*rec00"):
        merge(tmp_path / "set")
    stats = merge(tmp_path / "set", allow_broken=True)
    assert stats["rejected_reasons"] == {"not_audio": 2}


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return [pid]
    return [pid, *(q for child in text.split() for q in tree(int(child)))]


def kill_one_and_all(process: subprocess.Popen, rng: random.Random, shards: Path) -> None:
    """SIGKILL one process of the run, wherever it is, and then the run; wait until all have ended.

    A run outlives a process of its own: it is killed at the next write.
    """
    processes = tree(process.pid)
    victim = rng.choice(processes)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    if victim != process.pid:
        wait_for_a_write(process, shards)
        processes = tree(process.pid)
    process.kill()
    process.wait(timeout=300)
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in processes[1:]):
        assert time.monotonic() < deadline, "a process outlives its run"
        time.sleep(0.02)


def wait_for_a_write(process: subprocess.Popen, shards: Path) -> None:
    """Until the run has a new file among the shards, half-written or whole, or has ended."""

    def names() -> set[str]:
        return {path.name for path in shards.glob("*")} | {p.name for p in shards.glob(".*")}

    before = names()
    while process.poll() is None and names() <= before:
        time.sleep(0.001)


def test_parts_follow_a_plan_that_was_made_once(
    table: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    birds = Path(shutil.copytree(table, tmp_path / table.name))
    out = tmp_path / "set"
    assert plan(birds, out, jobs=1) == 12
    assert plan(birds, out, jobs=1) == 12  # kept
    order = np.load(out / ".prep" / "plan" / "members.npy")
    shards = json.loads((out / ".prep" / "plan" / "plan.json").read_text())["shards"]
    paths = pq.read_table(birds / "recordings.parquet", columns=["path"])["path"].to_pylist()
    _, _, start, stop, _ = shards[1]  # of part 2/2
    theirs = [birds / paths[number] for number in order[start:stop]]
    kept = {path: path.read_bytes() for path in theirs}
    for path in theirs:
        path.unlink()
    # Part 1 does not look at the files of part 2; part 2 notices that they are others.
    assert prepare_shards(birds, out, part="1/2", jobs=1) == {"shards_left": 6}
    with pytest.raises(
        PrepError, match=r"changed since the shards were planned: \d+ bytes then, no"
    ):
        prepare_shards(birds, out, part="2/2", jobs=1)
    for path, data in kept.items():
        path.write_bytes(data)
    prepare_shards(birds, out, part="2/2", jobs=1)
    merge(out)
    assert digests(out) == whole


def test_another_table_or_other_options_are_noticed(table: Path, tmp_path: Path) -> None:
    birds = Path(shutil.copytree(table, tmp_path / table.name))
    out = tmp_path / "set"
    plan(birds, out, jobs=1)
    with pytest.raises(PrepError, match="seed was 0, is 1"):
        prepare_shards(birds, out, part="1/2", jobs=1, seed=1)
    os.utime(birds / "recordings.parquet")  # touched, the same rows: looked over, and followed
    assert prepare_shards(birds, out, part="1/2", jobs=1) == {"shards_left": 6}
    rows = pq.read_table(birds / "recordings.parquet").slice(1)
    pq.write_table(rows, birds / "recordings.parquet")
    with pytest.raises(PrepError, match="the metadata, the columns used, or the audio"):
        prepare_shards(birds, out, part="2/2", jobs=1)


def test_a_plan_that_was_changed_is_noticed(
    table: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    prepare_shards(table, out, part="1/2", jobs=1)
    folder = out / ".prep" / "plan"
    good = {path: path.read_bytes() for path in folder.iterdir()}
    rows = bytearray(good[folder / "rows.jsonl"])
    rows[rows.index(b'"recordist":') + 14] ^= 1
    changes = {
        "rows.jsonl": (bytes(rows), "Row .* was changed since it was made"),
        "members.npy": (good[folder / "members.npy"][:-8], r"changed .*members\.npy"),
        "sizes.npy": (bytes(len(good[folder / "sizes.npy"])), r"changed .*sizes\.npy"),
        "plan.json": (b"{", r"plan\.json cannot be read"),
    }
    for name, (data, message) in changes.items():
        (folder / name).write_bytes(data)
        with pytest.raises(PrepError, match=message):
            prepare_shards(table, out, part="1/1", jobs=1)
        (folder / name).write_bytes(good[folder / name])
    # Another plan in its place: what was written for the first one does not count.
    shutil.rmtree(folder)
    plan(table, out, jobs=1, seed=1)
    with pytest.raises(PrepError, match="12 of 12 shards"):
        merge(out)
    shutil.rmtree(folder)
    prepare_shards(table, out, part="2/2", jobs=1)
    merge(out)
    assert digests(out) == whole


def test_a_plan_that_was_killed_is_made_again(
    table: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    command = [*part(table, out, "1/1")[:-4], "--plan"]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
    work = out / ".prep"
    while process.poll() is None and not list(work.glob(".plan-*")):
        time.sleep(0.0005)
    process.kill()
    process.wait()
    for which in ("1/2", "2/2"):
        prepare_shards(table, out, part=which, jobs=1)
    merge(out)
    assert digests(out) == whole


@pytest.mark.slow
def test_kills_at_any_moment_are_mended_by_the_same_command(
    table: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    """Parts with two processes each and the merge, killed again and again, parent or worker."""
    rng = random.Random(5)
    out = tmp_path / "set"
    killed = 0
    for attempt in range(6):
        which = f"{attempt % 2 + 1}/2"
        process = subprocess.Popen(part(table, out, which, jobs=2), cwd=REPO,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        wait_for_a_write(process, out / "train")
        time.sleep(rng.uniform(0, 0.03))
        killed += process.poll() is None
        kill_one_and_all(process, rng, out / "train")
        assert not (out / "index.parquet").exists()
        for tar in out.glob("train/*.tar"):  # whatever has its name is whole
            name = f"train/{tar.name}"
            assert hashlib.sha256(tar.read_bytes()).hexdigest() == whole[name]
    assert killed
    for which in ("1/2", "2/2"):
        subprocess.run(part(table, out, which), cwd=REPO, check=True, stderr=subprocess.DEVNULL)
    command = [sys.executable, "-m", "dawnchorus.data_prep.cli", "merge", str(out)]
    for _ in range(4):
        process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.0))
        kill_one_and_all(process, rng, out / "train")
        if (out / "index.parquet").exists():  # the last to be written: all the others are there
            assert json.loads((out / "stats.json").read_text())["clips"] == 96
    subprocess.run(command, cwd=REPO, check=True, stderr=subprocess.DEVNULL)
    assert digests(out) == whole


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_kill_before_the_last_card_is_mended(
    table: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    in_parts: bool,
) -> None:  # fmt: skip
    """The index is there, so the dataset counts as finished; the card is still the short one."""
    out = tmp_path / "set"

    def run() -> None:
        merge(out) if in_parts else prepare_shards(table, out, jobs=1)

    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    if in_parts:
        prepare_shards(table, out, part="1/1", jobs=1)
    with monkeypatch.context() as patch:
        patch.setattr("dawnchorus.data_prep.dataset.build.write_card", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert (out / "index.parquet").exists()
    run()
    assert digests(out) == whole
    assert not (out / ".prep").exists()


def test_why_a_file_is_no_audio_does_not_depend_on_the_run(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    root = make_folder(tmp_path / "birds", make_rows(8, ["wav"]))
    (root / "audio/rec003.wav").write_bytes(b"<html>")
    write_table(read_folder(root, FolderOptions()).recordings, root)
    prepare_shards(root, tmp_path / "set", jobs=1, allow_broken=True, shard_size_mb=1)
    kept = [(root / "audio/rec000.wav").open("rb") for _ in range(7)]  # other numbers for files
    (tmp_path / "again").mkdir()
    prepare_shards(root, tmp_path / "again/set", jobs=1, allow_broken=True, shard_size_mb=1.0)
    for file in kept:
        file.close()
    assert digests(tmp_path / "set") == digests(tmp_path / "again/set")
