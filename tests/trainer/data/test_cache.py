from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dawnchorus.trainer.data.cache import BlockCache, default_cache_folder

HEAD = 16


def used(cache: BlockCache) -> int:
    return sum(entry.size for entry in cache.entries())


def test_the_least_recently_used_go_first_and_the_limit_holds(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10 * (1000 + HEAD))
    for i in range(10):
        cache.put(f"k{i}", bytes([i]) * 1000)
        os.utime(cache.path(f"k{i}"), (i, i))
    assert used(cache) == cache.limit
    assert cache.get("k0") == bytes(1000)
    cache.put("new", b"x" * 1000)
    assert "k0" in cache and "new" in cache
    assert ("k1" not in cache and "k2" not in cache) or used(cache) <= 0.9 * cache.limit + 1016
    assert used(cache) <= cache.limit
    for i in range(200):
        cache.put(f"more {i}", bytes(37 * i % 3000))
        assert used(cache) <= cache.limit


def test_it_survives_a_restart_and_lost_counts(tmp_path: Path) -> None:
    limit = 5 * (1000 + HEAD)
    for i in range(4):
        BlockCache(tmp_path, limit).put(f"k{i}", bytes(1000))
    (tmp_path / "usage").unlink()
    for i in range(4, 9):
        BlockCache(tmp_path, limit).put(f"k{i}", bytes([i]) * 1000)
        assert used(BlockCache(tmp_path, limit)) <= limit
    assert BlockCache(tmp_path, limit).get("k8") == bytes([8]) * 1000
    (tmp_path / "usage").write_text("not a number")
    BlockCache(tmp_path, limit).put("k9", b"9")
    assert BlockCache(tmp_path, limit).get("k9") == b"9"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 3000)
    cache.put("a", bytes(1000))
    folder = cache.path("a").parent
    (folder / "old.partial").write_bytes(bytes(500))
    (folder / "young.partial").write_bytes(bytes(500))
    os.utime(folder / "old.partial", (0, time.time() - 7200))
    cache.put("b", bytes(2500))
    assert not (folder / "old.partial").exists()
    assert (folder / "young.partial").exists()


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 100)
    cache.put("a", b"1")
    cache.put("big", bytes(1000))
    assert cache.get("big") is None
    assert cache.get("a") == b"1"


def test_the_usual_place_is_the_scratch_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_cache_folder().parent == tmp_path
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache_folder() == tmp_path / "x" / "dawnchorus"


def test_what_another_process_is_writing_takes_its_room(tmp_path: Path) -> None:
    """A sweep must not forget what was promised and is not there yet."""
    cache, folder = BlockCache(tmp_path, 1000), tmp_path / "blocks" / "ab"
    folder.mkdir(parents=True)
    unfinished = cache._reserve(400, folder)
    assert unfinished is not None
    for i in range(8):
        cache.put(f"k{i}", bytes(100))
        assert sum(entry.size for entry in cache.entries()) <= 1000
    assert unfinished.stat().st_size == 400 and "k7" in cache
    cache.put("large", bytes(700))
    assert "large" not in cache and unfinished.exists()
    cache.put("small", bytes(100))
    assert "small" in cache
