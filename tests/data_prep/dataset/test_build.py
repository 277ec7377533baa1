"""Running: processes, kills, a second run, broken recordings, a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.dataset.verify import verify_dataset
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.data.index import LabelSpace

REPO = Path(__file__).resolve().parents[3]


def digests(root: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read_index(dataset: Path) -> list[dict[str, Any]]:
    return pq.read_table(dataset / "index.parquet").to_pylist()


# --- running ---------------------------------------------------------------------------------


def test_processes_do_not_change_a_byte(archive: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "birds"
    prepare_folder(archive, out, jobs=2)
    assert digests(out) == digests(dataset)


def command(archive: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "dawnchorus.data_prep.cli", "folder", str(archive), "--out",
            str(out), *options]  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    archive = make_folder(tmp_path / "birds", make_rows(48, ["flac"]), seconds=12.0)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    whole, cut = tmp_path / "first" / "set", tmp_path / "second" / "set"
    subprocess.run(command(archive, whole, "--jobs", "2"), cwd=REPO, check=True)
    for stop_after in (1, 3):
        process = subprocess.Popen(command(archive, cut, "--jobs", "2"), cwd=REPO)
        while len(list(cut.glob(".prep/train-*.json"))) < stop_after:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (cut / "index.parquet").exists() and not (cut / "stats.json").exists()
        deadline = time.monotonic() + 300
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline, "workers outlive the run"
            time.sleep(0.05)
    done = set(cut.glob("train/*.tar"))
    assert 0 < len(done) < len(list(whole.glob("train/*.tar")))
    times = {path: path.stat().st_mtime_ns for path in done}
    (cut / "train" / ".000005.tar.1.tmp").write_bytes(b"half")
    last = subprocess.run(
        command(archive, cut, "--jobs", "1"), cwd=REPO, capture_output=True, text=True
    )
    assert last.returncode == 0 and "Continuing" in last.stderr
    assert digests(cut) == digests(whole)
    kept = [path for path in done if path.stat().st_mtime_ns == times[path]]
    assert len(kept) >= 3  # what was finished was not made again


def test_a_finished_dataset_is_left_alone(
    archive: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "birds"
    shutil.copytree(dataset, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    stats = prepare_folder(archive, out, jobs=2, max_broken=0.5)
    assert "Nothing to do" in capsys.readouterr().err
    assert stats["clips"] == 24
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_other_options_or_metadata_are_refused(
    archive: Path, dataset: Path, tmp_path: Path
) -> None:
    before = digests(dataset)
    with pytest.raises(PrepError, match=r"codec was 'flac', is 'wav'; seed was 0, is 1"):
        prepare_folder(archive, dataset, codec="wav", seed=1)
    with pytest.raises(PrepError, match="metadata, the columns"):
        prepare_folder(archive, dataset, label_column="none")
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)
    (copy / "audio" / "rec000.wav").write_bytes(b"x")
    with pytest.raises(PrepError, match="audio files changed"):
        prepare_folder(copy, dataset, source_name=archive.name)
    assert digests(dataset) == before


def test_a_declared_task_is_written_and_an_undeclared_one_changes_nothing(
    archive: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "declared"
    stats = prepare_folder(archive, out, jobs=1, task="detection", name="birds")
    assert LabelSpace.read(out / "labels.json").task == stats["options"]["task"] == "detection"
    assert "task" not in json.loads((dataset / "labels.json").read_text())
    # Datasets from before the option are still known by the digest of what they were made with.
    assert "task" not in json.loads((dataset / "stats.json").read_text())["options"]
    assert verify_dataset(out, quick=True).problems == []
    (out / "labels.json").write_text((out / "labels.json").read_text().replace("detection", "x"))
    assert "task is 'x'" in str(verify_dataset(out, quick=True).problems)


def test_strange_folders_are_not_touched(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(PrepError, match="not empty"):
        prepare_folder(archive, tmp_path)
    with pytest.raises(PrepError, match="is a file"):
        prepare_folder(archive, tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_runs_at_once_are_refused(archive: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out" / ".prep").mkdir(parents=True)
    with (tmp_path / "out" / ".prep" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PrepError, match="Another run"):
            prepare_folder(archive, tmp_path / "out", jobs=1)
    assert prepare_folder(archive, tmp_path / "out", jobs=1)["clips"] == 24


def test_many_files_are_planned_from_a_sample(
    make_folder: Callable, make_rows: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dawnchorus.data_prep.archives.own_folder import read_folder
    from dawnchorus.data_prep.dataset import lengths
    from dawnchorus.data_prep.dataset.options import FolderOptions
    from dawnchorus.data_prep.dataset.row_store import scan
    from dawnchorus.trainer.progress import Progress

    root = make_folder(tmp_path / "a", make_rows(40, ["wav", "mp3"]), seconds=2.0)
    recordings = read_folder(root, FolderOptions()).recordings
    found = scan(recordings, root, b"", Progress())
    exact_s = lengths.lengths_s(found, recordings, root)
    assert exact_s == pytest.approx([2.0] * 40, abs=0.06)
    monkeypatch.setattr(lengths, "PROBED", 13)
    guessed_s = lengths.lengths_s(found, recordings, root)
    assert sum(guessed_s) == pytest.approx(80, rel=0.25) and min(guessed_s) > 0.5


# --- broken recordings -----------------------------------------------------------------------


@pytest.fixture
def broken(archive: Path, tmp_path: Path) -> Path:
    """The small archive with four unusable recordings of 24, one of them missing."""
    copy = tmp_path / "birds"
    shutil.copytree(archive, copy)
    (copy / "audio" / "rec000.wav").write_bytes(b"<html>not found</html>" * 100)
    (copy / "audio" / "rec001.flac").write_bytes(b"")
    soundfile.write(copy / "audio" / "rec004.wav", np.zeros(16000), 16000)
    (copy / "audio" / "rec008.wav").unlink()
    return copy


@pytest.mark.parametrize("jobs", [1, 2])
def test_too_many_broken_recordings_stop_it(broken: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(PrepError, match=r"1 of 24 files do not exist.*\n.*rec008\.wav"):
        prepare_folder(broken, out, jobs=jobs)
    with pytest.raises(PrepError, match=r"unusable so far.*max-broken allows \(2\.4\)") as caught:
        prepare_folder(broken, out, jobs=jobs, max_broken=0.1)
    assert "not_audio" in str(caught.value) or "silent" in str(caught.value)
    assert not (out / "index.parquet").exists() and not (out / "stats.json").exists()
    stats = prepare_folder(broken, out, jobs=jobs, allow_broken=True)  # continues
    assert stats["rejected"] == 4 and stats["recordings"] == stats["clips"] == 20
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert {(row["path"], row["reason"]) for row in rejected} == {
        ("audio/rec000.wav", "not_audio"),
        ("audio/rec001.flac", "empty"),
        ("audio/rec004.wav", "silent"),
        ("audio/rec008.wav", "missing"),
    }
    assert "4 (empty 1, missing 1, not_audio 1, silent 1" in (out / "README.md").read_text()


def test_nothing_usable_is_an_error(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    make_folder(tmp_path / "a", make_rows(2, ["wav"]))
    for path in tmp_path.glob("a/audio/*"):
        path.write_bytes(b"x" * 100)
    with pytest.raises(PrepError, match=r"(?s)None of the 2 recordings.*rec000.wav: not_audio"):
        prepare_folder(tmp_path / "a", tmp_path / "out", allow_broken=True, jobs=1)
    assert not (tmp_path / "out" / "index.parquet").exists()


def test_silent_stretches_and_equal_recordings_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    rng = np.random.default_rng(0)
    wav_T = (3000 * rng.standard_normal(16000 * 6)).astype(np.int16)
    wav_T[16000 * 2 : 16000 * 4] = 0
    soundfile.write(tmp_path / "a" / "x.wav", wav_T, 16000)
    soundfile.write(tmp_path / "a" / "y.flac", wav_T, 16000)
    (tmp_path / "a" / "metadata.csv").write_text("filename\nx.wav\ny.flac\n")
    stats = prepare_folder(tmp_path / "a", tmp_path / "out", jobs=1, max_piece_s=2)
    assert (stats["clips"], stats["silent_pieces"], stats["labels"]) == (4, 2, 0)
    assert stats["same_audio_recordings"] == 1
    assert sorted(row["start_s"] for row in read_index(tmp_path / "out")) == [0, 0, 4, 4]


def test_the_same_audio_under_other_labels_or_in_two_parts_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "a"
    root.mkdir()
    rng = np.random.default_rng(0)
    wavs = [(3000 * rng.standard_normal(16000)).astype(np.int16) for _ in range(4)]
    lines = ["filename,label,split"]
    for i, (sound, label, split) in enumerate(
        [(0, "A", "train"), (0, "B", "train"), (1, "A", "train"), (1, "A", "test"),
         (2, "A", "train"), (2, "A", "train"), (3, "B", "test")]
    ):  # fmt: skip
        name = f"{i}.{'flac' if i % 2 else 'wav'}"
        soundfile.write(root / name, wavs[sound], 16000)
        lines.append(f"{name},{label},{split}")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    stats = prepare_folder(root, out, jobs=1)
    assert stats["same_audio_recordings"] == 3
    assert (stats["same_audio_other_labels"], stats["same_audio_other_part"]) == (2, 2)
    said = capsys.readouterr().err
    assert "2 recordings have the very samples of another one under other labels" in said
    assert "in another split or fold" in said and "same_audio.parquet" in said
    rows = pq.read_table(out / "same_audio.parquet").to_pylist()
    ids = {
        row["id"]: Path(row["path"]).stem
        for row in pq.read_table(out / "recordings.parquet").to_pylist()
    }
    found = {
        ids[r["recording_id"]]: (r["labels"], r["other_labels"], r["other_part"]) for r in rows
    }
    assert found == {
        "0": (["A"], True, False), "1": (["B"], True, False),
        "2": (["A"], False, True), "3": (["A"], False, True),
        "4": (["A"], False, False), "5": (["A"], False, False),
    }  # fmt: skip
    card = (out / "README.md").read_text()
    assert "2 under other labels, 2 in another split or fold" in card
    report = verify_dataset(out, jobs=1)
    assert report.count == 0 and len(report.warnings) >= 2
    assert "under other labels: " in report.warnings[-2]
    assert "no problem" not in list(report.lines())[-1]
    assert "2 warnings" in list(report.lines())[-1]


@pytest.mark.parametrize("full_from", [1, 4, 8, 15, 20, 26])
def test_a_full_disk_leaves_nothing_that_looks_finished(
    archive: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_from: int
) -> None:
    """Full while the plan is written, a tar, what is in it, the tables."""
    out = tmp_path / "birds"
    synced = 0

    def fsync_until_full(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced >= full_from:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_until_full)
        with pytest.raises(PrepError, match=r"No space left on device.*same command continues"):
            prepare_folder(archive, out, jobs=1)
    assert not (out / "index.parquet").exists() and not list(out.rglob("*.tmp"))
    prepare_folder(archive, out, jobs=1)
    assert digests(out) == digests(dataset)


@pytest.mark.parametrize(
    "options",
    [{"codec": "mp3"}, {"task": "guess"}, {"max_piece_s": 0.0}, {"max_broken": 2.0}, {"colour": 1}],
)
def test_impossible_options(archive: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PrepError, match=next(iter(options))):
        prepare_folder(archive, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
