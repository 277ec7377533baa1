"""A million clips: how long the index takes to open, and what it costs a rank and its workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CLIPS, PER_SHARD, SIZE, CLASSES = 1_000_000, 2000, 169_000, 10_000

# Private memory counts once for each process, shared memory once altogether: PSS adds up so.
PROGRAM = """
import json, multiprocessing, os, sys, time
import pyarrow.parquet, torch, torch.utils.data
from dawnchorus.trainer.data import module, index
def pss_mb(pid="self"):
    text = open(f"/proc/{pid}/smaps_rollup").read()
    return int(text.partition("Pss:")[2].split()[0]) / 1e3
from dawnchorus.trainer.data.config import DataConfig, SourceConfig
from dawnchorus.trainer.data.order import Shuffle
Shuffle(10**6, 1)[0]  # imports the shuffle library
before = pss_mb()
start = time.process_time()  # the wall is `make bench`'s: here others may be at work
opened = index.ShardIndex.open(sys.argv[1])
seconds = time.process_time() - start
alone = pss_mb() - before
assert len(opened) == 10**6 and opened.label_ids(12345).tolist() == [2345, 7]
assert opened.key(999_999) == "clip-00999999"
del opened
stream = module.TrainStream(
    DataConfig(train={"m": SourceConfig(path=sys.argv[1])}, window_s=0.1), seed=1
)
def idle(queue, done):
    stream.order.draws(0, 1000)  # what a worker does before it reads
    for clip in range(0, 10**6, 997):
        stream.sources[0].index.member(clip), stream.sources[0].label_ids(clip)
    queue.put(os.getpid())
    done.wait()
queue, done = multiprocessing.Queue(), multiprocessing.Event()
workers = [multiprocessing.Process(target=idle, args=(queue, done)) for _ in range(2)]
for worker in workers:
    worker.start()
pids = [queue.get() for _ in workers]
together = pss_mb() + sum(map(pss_mb, pids)) - before
done.set()
print(json.dumps({"seconds": seconds, "alone": alone, "together": together}))
"""


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("million")
    (root / "train").mkdir()
    step = SIZE + 2 * 512
    for shard in range(CLIPS // PER_SHARD):
        with (root / f"train/{shard:06d}.tar").open("wb") as file:
            file.truncate((PER_SHARD * step // 10240 + 1) * 10240)
    place = np.arange(CLIPS)
    shard_names = [f"train/{i:06d}.tar" for i in range(CLIPS // PER_SHARD)]
    labels = np.stack([place % CLASSES, np.full(CLIPS, 7)], axis=1).reshape(-1).astype(np.int32)
    offsets = np.arange(0, 2 * CLIPS + 1, 2, dtype=np.int32)

    def text(codes: np.ndarray, names: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names).cast(
            "string"
        )

    keys = pa.array([f"clip-{i:08d}" for i in range(CLIPS)])
    table = pa.table(
        {
            "key": keys,
            "split": text(place * 0, ["train"]),
            "shard": text(place // PER_SHARD, shard_names),
            "offset": place % PER_SHARD * step + 512,
            "size": np.full(CLIPS, SIZE),
            "codec": text(place * 0, ["flac"]),
            "sample_rate_hz": np.full(CLIPS, 16000, np.int32),
            "samples": np.full(CLIPS, 160_000),
            "label_ids": pa.ListArray.from_arrays(offsets, labels),
            "recording_id": keys,
            "group_id": text(place % 5003, [f"recordist {i}" for i in range(5003)]),
            "fold": text(place % 5, [str(i) for i in range(5)]),
        }
    )
    pq.write_table(table, root / "index.parquet")
    names = [{"id": i, "name": f"species {i:05d}"} for i in range(CLASSES)]
    (root / "labels.json").write_text(json.dumps({"version": 1, "labels": names}))
    return root


def test_a_million_clips_open_in_two_seconds_and_300_mb(million: Path) -> None:
    best: dict[str, float] = {}
    for _ in range(3):  # the best of three: other work on the machine must not decide
        output = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(million)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found = json.loads(output)
        best = {k: min(v, best.get(k, v)) for k, v in found.items()}
        if best["seconds"] < 2.0:
            break
    print(best)
    assert best["seconds"] < 2.0, best
    assert best["alone"] < 150, best
    assert best["together"] < 300, best
