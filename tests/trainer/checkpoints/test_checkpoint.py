"""Checkpoints appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch

from dawnchorus.trainer.checkpoints.checkpoint import CheckpointFolder, load, save
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.files import whole_path


def state(step: int) -> dict[str, object]:
    return {"state_dict": {"w": torch.full((4,), float(step))}, "dawnchorus": {"step": step}}


def test_round_trip_is_weights_only(tmp_path: Path) -> None:
    save(tmp_path / "a.ckpt", state(3))
    assert load(tmp_path / "a.ckpt")["dawnchorus"] == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_failed_write_leaves_the_file_before_and_no_remains(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save(path, state(1))

    with pytest.raises(OSError, match="No space"), whole_path(path) as beside:
        beside.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert load(path)["dawnchorus"] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"this machine does not let tests mount: {done.stderr.decode().strip()}")
    try:
        save(mount / "a.ckpt", state(1))
        large = state(2) | {"weights": torch.randn(1_000_000)}
        with pytest.raises(CheckpointError, match="make room"):
            save(mount / "a.ckpt", large)
        assert load(mount / "a.ckpt")["dawnchorus"] == {"step": 1}
        assert [p.name for p in mount.iterdir()] == ["a.ckpt"]
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_retention_and_the_link_to_the_newest(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_every=4)
    for step in (2, 4, 6, 8, 10):
        save(folder.at_step(step), state(step))
        folder.tidy()
    assert folder.steps() == [4, 8, 10]
    assert (folder.path / "last.ckpt").resolve() == folder.at_step(10).resolve()


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder.at_step(1), state(1))
    save(folder.at_step(2), state(2))
    data = folder.at_step(2).read_bytes()
    folder.at_step(2).write_bytes(data[: len(data) // 2])
    path, complaints = folder.newest_readable()
    assert path == folder.at_step(1)
    assert len(complaints) == 1 and "step_000000002" in complaints[0]


def test_a_changed_byte_in_the_weights_is_found(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        save(folder.at_step(step), {"w": torch.full((100_000,), float(step))} | state(step))
    data = bytearray(folder.at_step(2).read_bytes())
    data[len(data) // 2] ^= 1
    folder.at_step(2).write_bytes(data)
    path, complaints = folder.newest_readable()
    assert path == folder.at_step(1)
    assert len(complaints) == 1 and "damaged" in complaints[0]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    for name in ("other.ckpt", "text.ckpt", "absent.ckpt"):
        with pytest.raises(CheckpointError, match=name):
            load(tmp_path / name)
