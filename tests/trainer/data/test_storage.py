from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from dawnchorus.trainer.data import storage
from dawnchorus.trainer.data.cache import BlockCache
from dawnchorus.trainer.data.config import DataConfig, RemoteConfig, SourceConfig
from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.data.module import TrainStream, train_loader, valid_loader
from dawnchorus.trainer.data.reader import ClipReader
from dawnchorus.trainer.data.remote import connect, version_of
from dawnchorus.trainer.errors import DataError

SECRET = "do-not-print-this-secret"
WINDOW = 32000


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(cache=str(tmp_path / "cache"), patience_s=20.0)


def windows(index: ShardIndex, remote: RemoteConfig, reader: ClipReader | None = None) -> list:
    """A few windows of every clip."""
    reader, found = reader or ClipReader(remote=remote), []
    for clip in range(len(index)):
        last = max(0, int(index.samples_N[clip]) - WINDOW)
        for start in sorted({0, last // 3, last}):
            out = np.empty(WINDOW, dtype=np.int16)
            reader.read_window(index.member(clip), start, out)
            found.append(out)
    return found


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------ the same as from disk


@pytest.mark.parametrize("blocks", [False, True])
def test_windows_are_those_of_the_local_dataset(
    object_store: Any, long_pieces: dict[str, Path], short_and_long: Path, remote: RemoteConfig,
    monkeypatch: pytest.MonkeyPatch, blocks: bool,
) -> None:  # fmt: skip
    if blocks:  # as of members of more than 4 MiB
        monkeypatch.setattr(storage, "_WHOLE", 1 << 17)
        monkeypatch.setattr(storage, "_BLOCK", 50_000)
    for name, path in (long_pieces | {"short": short_and_long}).items():
        far = ShardIndex.open(object_store.upload(path, name), remote=remote)
        near = ShardIndex.open(path)
        assert far.digest == near.digest
        assert (far.remote, near.remote) == (True, False)
        expected = windows(near, remote)
        object_store.gets.clear()
        assert equal(windows(far, remote), expected)
        asked = len(object_store.tars())
        assert asked == len(far) if not blocks else asked >= len(far)
        assert equal(windows(far, remote), expected)
        assert len(object_store.tars()) == asked, "the second time, all is in the cache"
        assert equal(windows(far, RemoteConfig(cache_gb=0)), expected)


def streams(url: str, path: Path, remote: RemoteConfig, **others: Any) -> list[TrainStream]:
    return [
        TrainStream(
            DataConfig(
                train={"a": SourceConfig(path=p)}, valid={"a": SourceConfig(path=p)},
                noise={"n": SourceConfig(path=p)}, window_s=1.0, remote=remote, **others,
            ),
            seed=5,
            noise_prob=0.5,
        )
        for p in (url, str(path))
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_local_dataset(
    object_store: Any, short_and_long: Path, remote: RemoteConfig, same_batch: Any, workers: int
) -> None:
    url = object_store.upload(short_and_long, "d")
    far, near = streams(url, short_and_long, remote)
    assert far.describe_sources()[0]["path"] == url
    assert far.digests == near.digests
    loaders = [
        iter(train_loader(s, first_position=7, micro_batch=6, workers=workers)) for s in (far, near)
    ]
    for _ in range(8):
        assert same_batch(*(next(loader) for loader in loaders))
    del loaders
    # Each clip was fetched once but for two workers at the same moment.
    fetched = len(object_store.tars())
    assert fetched <= 30 if not workers else fetched <= 60
    pairs = [valid_loader(s, micro_batch=40) for s in (far, near)]
    for a, b in zip(*pairs, strict=True):  # type: ignore[arg-type]
        assert same_batch(a, b)


def test_the_clips_of_a_batch_are_fetched_at_once_and_once(
    object_store: Any, short_and_long: Path
) -> None:
    stream, _ = streams(
        object_store.upload(short_and_long, "d"), short_and_long, RemoteConfig(cache_gb=0)
    )
    object_store.gets.clear()
    stream.valid[range(30)]
    assert len(object_store.tars()) == 30
    names = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("remote") for name in names)


def test_a_reader_travels_to_another_process(
    object_store: Any, short_and_long: Path, remote: RemoteConfig
) -> None:
    index = ShardIndex.open(object_store.upload(short_and_long, "d"), remote=remote)
    reader = ClipReader(remote=remote)
    expected = windows(index, remote, reader)
    again, index = pickle.loads(pickle.dumps((reader, index)))
    shutil.rmtree(str(remote.cache))
    assert equal(windows(index, remote, again), expected)


# ------------------------------------------------------------------ the cache


def test_tables_are_copied_once_per_version(
    object_store: Any, short_and_long: Path, remote: RemoteConfig
) -> None:
    url = object_store.upload(short_and_long, "d")
    first = ShardIndex.open(url, remote=remote)
    asked = len(object_store.gets)
    assert ShardIndex.open(url + "/", remote=remote).root == first.root
    assert len(object_store.gets) == asked
    (first.root / "index.parquet").write_bytes(b"cut")
    assert len(ShardIndex.open(url, remote=remote)) == len(first)
    object_store.put(f"{url}/labels.json", (short_and_long / "labels.json").read_bytes() + b"\n")
    assert ShardIndex.open(url, remote=remote).root != first.root


def test_damaged_entries_are_fetched_again(
    object_store: Any, short_and_long: Path, remote: RemoteConfig
) -> None:
    index = ShardIndex.open(object_store.upload(short_and_long, "d"), remote=remote)
    expected = windows(index, remote)
    files = [p for p in (Path(str(remote.cache)) / "blocks").rglob("*") if p.is_file()]
    assert len(files) == 30
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].write_bytes(b"")
    content = bytearray(files[2].read_bytes())
    content[len(content) // 2] ^= 1
    files[2].write_bytes(content)
    object_store.gets.clear()
    assert equal(windows(index, remote), expected)
    assert len(object_store.tars()) == 3


def test_a_cache_that_cannot_be_written_stops_nobody(
    object_store: Any, short_and_long: Path, remote: RemoteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    index = ShardIndex.open(object_store.upload(short_and_long, "d"), remote=remote)
    (Path(str(remote.cache)) / "blocks").write_text("in the way")
    assert equal(windows(index, remote), windows(ShardIndex.open(short_and_long), remote))
    assert caplog.text.count("cannot be used") == 1


_PROCESS = """
import hashlib, sys
import numpy as np
from dawnchorus.trainer.data.config import RemoteConfig
from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.data.reader import ClipReader
remote = RemoteConfig(cache=sys.argv[2], cache_gb=float(sys.argv[3]))
index, reader = ShardIndex.open(sys.argv[1], remote=remote), ClipReader(remote=remote)
digest, out = hashlib.sha256(), np.empty(32000, dtype=np.int16)
for _ in range(3):
    for clip in range(len(index)):
        reader.read_window(index.member(clip), 0, out)
        digest.update(out.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_processes_share_a_cache_and_keep_its_limit(
    object_store: Any, short_and_long: Path, tmp_path: Path
) -> None:
    url, limit = object_store.upload(short_and_long, "d"), 500_000
    command = [sys.executable, "-c", _PROCESS, url, str(tmp_path / "c"), str(limit / 1e9)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         cwd=Path(__file__).resolve().parents[3])
        for _ in range(2)
    ]  # fmt: skip
    sizes, cache = [], tmp_path / "c"
    while any(p.poll() is None for p in both):
        cache.mkdir(exist_ok=True)
        with FileLock(f"{cache}/usage.lock"):  # else one is counted that makes room for another
            sizes.append(sum(entry.size for entry in BlockCache(cache, limit).entries()))
        time.sleep(0.01)
    answers = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""
    assert max(sizes) <= limit
    assert object_store.gets.count("d/index.parquet") == 1
    assert not list(tmp_path.glob("c/**/*.partial"))


# ------------------------------------------------------------------ when something goes wrong


def test_a_server_that_stumbles_is_asked_again(
    object_store: Any, short_and_long: Path, remote: RemoteConfig
) -> None:
    index = ShardIndex.open(object_store.upload(short_and_long, "d"), remote=remote)
    object_store.fail, object_store.cut = 3, 3
    assert equal(windows(index, remote), windows(ShardIndex.open(short_and_long), remote))
    assert object_store.fail == object_store.cut == 0


def test_a_server_that_is_away_for_a_moment_is_waited_for(
    object_store: Any, short_and_long: Path, remote: RemoteConfig
) -> None:
    index = ShardIndex.open(object_store.upload(short_and_long, "d"), remote=remote)
    object_store.stop()
    timer = threading.Timer(1.0, object_store.start)
    timer.start()
    assert equal(windows(index, remote), windows(ShardIndex.open(short_and_long), remote))
    timer.join()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_stays_away_ends_the_run_with_a_plain_message(
    object_store: Any, long_pieces: dict[str, Path], tmp_path: Path, workers: int
) -> None:
    url = object_store.upload(long_pieces["flac"], "d")
    remote = RemoteConfig(cache=str(tmp_path / "c"), patience_s=0.5)
    stream, _ = streams(url, long_pieces["flac"], remote)
    object_store.stop()
    try:
        loader = train_loader(stream, first_position=0, micro_batch=2, workers=workers)
        with pytest.raises(DataError, match=rf"{url}/train/000000.tar.*tried for 0.5 s") as told:
            next(iter(loader))
        assert SECRET not in str(told.value)
        with pytest.raises(DataError, match=f"cannot read {url}: "):
            ShardIndex.open(url, remote=remote)
    finally:
        object_store.start()


@pytest.mark.parametrize("blocks", [False, True])
def test_a_tar_that_changed_on_the_server_is_not_mixed_in(
    object_store: Any, long_pieces: dict[str, Path], remote: RemoteConfig,
    monkeypatch: pytest.MonkeyPatch, blocks: bool,
) -> None:  # fmt: skip
    if blocks:  # where the error has to find its way through libsndfile
        monkeypatch.setattr(storage, "_WHOLE", 0)
    url = object_store.upload(long_pieces["flac"], "d")
    index = ShardIndex.open(url, remote=remote)
    tar = long_pieces["flac"] / "train/000000.tar"
    object_store.put(f"{url}/train/000000.tar", tar.read_bytes() + bytes(10240))
    out = np.empty(WINDOW, dtype=np.int16)
    with pytest.raises(DataError, match=r"000000.tar was changed on the server"):
        ClipReader(remote=remote).read_window(index.member(0), 100_000, out)


def test_other_stores_are_looked_at_again(
    short_and_long: Path, remote: RemoteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem, root = connect("memory://birds/d", os.getpid())
    filesystem.put(str(short_and_long), root, recursive=True)
    index = ShardIndex.open("memory://birds/d", remote=remote)
    expected = windows(ShardIndex.open(short_and_long), remote)
    assert equal(windows(index, remote), expected)
    path = f"{root}/{index.shards[0]}"
    filesystem.pipe(path, filesystem.cat(path))
    assert version_of(filesystem.info(path)) != index.member(0).version
    assert equal(windows(index, remote), expected), "what the cache holds is the old version"
    shutil.rmtree(Path(str(remote.cache)) / "blocks")
    with pytest.raises(DataError, match=r"was changed on the server"):
        windows(index, remote)
    filesystem.rm(root, recursive=True)


def test_what_is_not_there_is_named(
    object_store: Any, short_and_long: Path, remote: RemoteConfig, tmp_path: Path
) -> None:
    url = object_store.upload(short_and_long, "birds")
    for wrong in (url[:-1], url + "/nothing", "s3://no-such-bucket-here/birds"):
        with pytest.raises(DataError, match=f"there is no(thing at)? {wrong}: check the path"):
            ShardIndex.open(wrong, remote=remote)
    (tmp_path / "half").mkdir()
    (tmp_path / "half/labels.json").write_text("{}")
    half = object_store.upload(tmp_path / "half", "half")
    with pytest.raises(DataError, match=f"{half} has no index.parquet"):
        ShardIndex.open(half, remote=remote)
    key = f"birds/{ShardIndex.open(short_and_long).shards[2]}"
    object_store.client().delete_object(Bucket=object_store.bucket, Key=key)
    with pytest.raises(DataError, match=f"shard {url}/train/000002.tar is missing"):
        ShardIndex.open(url, remote=remote)


def test_wrong_or_no_credentials_are_told_at_once_and_never_shown(
    object_store: Any, short_and_long: Path, remote: RemoteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    url = object_store.upload(short_and_long, "d")
    object_store.denied = True
    with pytest.raises(DataError, match="check the credentials") as told:
        ShardIndex.open(url, remote=remote)
    assert SECRET not in str(told.value)
    object_store.denied = False
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    connect.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="check the credentials"):
        ShardIndex.open(url, remote=remote)


@pytest.mark.parametrize(
    "url",
    [f"s3://me:{SECRET}@bucket/d", f"s3://bucket/d?signed={SECRET}", f"https://{SECRET}@host/d"],
)
def test_a_secret_in_a_path_is_refused_and_not_repeated(url: str) -> None:
    from dawnchorus.trainer.errors import RecipeError
    from dawnchorus.trainer.recipe import load_recipe

    with pytest.raises(DataError, match="may not hold a password") as told:
        ShardIndex.open(url)
    assert SECRET not in str(told.value)
    with pytest.raises(RecipeError, match="may not hold a password") as told:
        load_recipe("ssl_beats_tiny", [f"data.train.mine.path='{url}'"])
    assert SECRET not in str(told.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # fsspec.registry is also the name of a mapping within the package.
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    connect.cache_clear()
    with pytest.raises(DataError, match=r'pip install "dawnchorus\[s3\]"'):
        ShardIndex.open("s3://bucket/d")
    with pytest.raises(DataError, match="Protocol not known"):
        ShardIndex.open("nonsense://bucket/d")
