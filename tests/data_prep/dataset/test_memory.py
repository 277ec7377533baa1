"""The preparation's memory does not grow with the recordings, but for a few bytes of each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dawnchorus.data_prep.dataset import row_store as rows
from dawnchorus.data_prep.dataset import same_audio as twice
from dawnchorus.data_prep.dataset import sums as gather
from dawnchorus.data_prep.dataset import write_tables as tables
from dawnchorus.data_prep.dataset.plan import PLAN, Plan, plan_shards, write_plan
from dawnchorus.data_prep.dataset.row_store import RowStore, scan, shared_keys
from dawnchorus.data_prep.dataset.work_folder import WORK
from dawnchorus.data_prep.dataset.write_shard import ShardResult, ShardSummary, result_name
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.trainer.progress import Progress

PER_SHARD = 200
# For each recording more. A recording as Python objects takes 3,000; the rest is the allocator's
# noise, which does not grow.
BYTES = 1_000
REPO = Path(__file__).resolve().parents[3]


class Many:
    """A table that exists only while it is read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Recording]:
        for i in range(self.count):
            yield Recording(
                id=f"xc:{i}", source="xc", source_id=str(i), path=f"audio/XC{i}.mp3",
                url=f"https://example.org/{i}/download", recordist=f"Person {i % 97}",
                attribution=f"Person {i % 97}, XC{i}", licence_url="CC0", duration_s=10.0,
                labels=(Label(f"Genus species{i % 50}", "species", ids=(("gbif", str(i)),)),),
                group_id=f"Person {i % 97}|52.50,13.40|{i % 28}",
            )  # fmt: skip


def make_plan(count: int, work: Path) -> None:
    recordings = Many(count)
    found = scan(recordings, Path("nowhere"), b"", Progress())
    shards, members_R = plan_shards(
        found.splits,
        np.frombuffer(found.split, np.int32),
        np.frombuffer(found.group, np.uint64),
        np.array(found.seconds),
        bytes_per_second=1.0,
        shard_bytes=10.0 * PER_SHARD,
        seed=0,
    )
    settings = {"sample_rate_hz": 16000, "codec": "flac", "name": "x", "max_piece_s": 60, "seed": 0}
    write_plan(
        recordings, work, fingerprint=found.digest, options=settings, shards=shards,
        members_R=members_R, shared_R=shared_keys(found), size_R=np.full(len(found.seconds), 1000),
    )  # fmt: skip


def write_results(out: Path) -> Plan:
    """What the workers would have written, every tenth recording rejected."""
    plan = Plan.read(out / WORK / PLAN)
    members_R = np.load(plan.folder / "members.npy")
    with RowStore(plan.folder) as store:
        for shard in plan.shards:
            result = ShardResult(ShardSummary(shard.path, "0" * 64, 10240, 1))
            for number in members_R[shard.start : shard.stop].tolist():
                if number % 10 == 0:
                    result.summary.rejected.append(
                        {"recording": number, "reason": "corrupt", "detail": f"at {number}"}
                    )
                    continue
                recording = store[number]
                result.kept.append(
                    {"recording": number, "id": recording.id, "group_id": recording.group_id,
                     "fold": None, "foreground": recording.names("foreground"), "background": [],
                     "licence_url": "CC0", "recordist": recording.recordist,
                     "attribution": recording.attribution, "codec": "mp3",
                     "pcm_sha1": f"{number:040x}"}
                    | dict.fromkeys(gather.FACTS, 1)
                )  # fmt: skip
                result.clips.append({"recording": number, "key": f"{number}_0000", "offset": 512,
                                     "size": 99, "samples": 160000, "start_s": 0.0})  # fmt: skip
            result.write(out / WORK / result_name(shard.path))
    return plan


def main(count: int, out: Path) -> None:
    """Plan and write the tables of `count` recordings; print the process's peak memory in MB."""
    rows._CHUNK = 100
    tables.RECORDING_ROWS = tables.INDEX_ROWS = twice._BATCH = 200
    (out / WORK).mkdir(parents=True)
    make_plan(count, out / WORK)
    tables.write_tables(write_results(out), out)
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1e3)


def test_memory_of_planning_and_of_the_tables(tmp_path: Path) -> None:
    few, many = 1_000, 11_000
    peaks_mb = []
    for count in (few, many):
        done = subprocess.run(
            [sys.executable, __file__, str(count), str(tmp_path / str(count))],
            capture_output=True, text=True, cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks_mb.append(float(done.stdout))
    assert (peaks_mb[1] - peaks_mb[0]) * 1e6 / (many - few) < BYTES


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
