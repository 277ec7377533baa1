"""A folder in a shared place is used only where it is this user's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dawnchorus.trainer.data.cache import BlockCache, default_cache_folder
from dawnchorus.trainer.private_folder import NotPrivate, private_folder

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to other users")
STRANGER = 54321


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = private_folder(tmp_path / "a" / "mine")
    finally:
        os.umask(before)
    assert mode(path) == 0o700
    assert private_folder(path) == path


def test_what_others_could_only_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o755)
    assert mode(private_folder(tmp_path / "mine")) == 0o700


@pytest.mark.parametrize("bits", [0o770, 0o777, 0o1777, 0o702])
def test_what_others_could_write_is_refused(bits: int, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(bits)
    with pytest.raises(NotPrivate, match="others may write into"):
        private_folder(tmp_path / "open")


def test_links_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name, what in (("link", "is a link"), ("dangling", "is a link"), ("file", "no")):
        with pytest.raises(NotPrivate, match=what):
            private_folder(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


@as_root
def test_another_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    with pytest.raises(NotPrivate, match=rf"belongs to another user \(uid {STRANGER}\)"):
        private_folder(tmp_path / "theirs")


# --------------------------------------------------------------------------- the cache


@as_root
def test_a_planted_block_is_not_read_and_a_planted_link_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = BlockCache(tmp_path / "cache", 10_000)
    mine.put("key", b"planted")
    precious = tmp_path / "precious"
    precious.write_text("17")
    (tmp_path / "cache/usage").unlink()
    (tmp_path / "cache/usage").symlink_to(precious)
    os.chown(tmp_path / "cache", STRANGER, STRANGER)
    cache = BlockCache(tmp_path / "cache", 10_000)
    assert cache.get("key") is None and "key" not in cache
    cache.put("other", b"mine")
    assert precious.read_text() == "17"
    assert not cache.path("other").exists()
    [line] = caplog.messages
    assert f"belongs to another user (uid {STRANGER})" in line and "without it" in line


@as_root
def test_the_usual_place_gives_way_to_one_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    theirs = tmp_path / "scratch" / f"dawnchorus-{os.getuid()}"
    theirs.mkdir(parents=True, mode=0o777)
    os.chown(theirs, STRANGER, STRANGER)
    found = default_cache_folder()
    assert found == tmp_path / "home" / "dawnchorus" and mode(found) == 0o700
    assert "not used as a cache" in caplog.text and str(theirs) in caplog.text


def test_a_folder_that_others_can_write_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    cache = BlockCache(tmp_path / "cache", 10_000)
    cache.put("key", b"data")
    assert cache.get("key") is None
    assert list((tmp_path / "cache").iterdir()) == []
