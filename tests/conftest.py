"""Fixtures shared by all tests: small real datasets, and the real sound where it is at hand."""

from __future__ import annotations

import atexit
import io
import json
import os
import random
import shutil
import signal
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

# The same inputs in every run: what decides over a change must not throw dice. To search for new
# ones, `pytest --hypothesis-profile=default`; what it finds becomes an `@example`.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

# Test processes side by side share the cores, as do the programs they start: where each has as many
# threads as there are cores, they spin while they wait for each other (a test of 2 s took 7).
if _processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    _threads = max(1, (os.cpu_count() or 1) // _processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# transformers imports an exported model's code from a folder of its own, by the folder's name: test
# runs side by side would find each other's.
if "HF_MODULES_CACHE" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="hf-modules-")

    def _remove(folder: str = os.environ["HF_MODULES_CACHE"], owner: int = os.getpid()) -> None:
        if os.getpid() == owner:  # not a process that a test has forked
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(_remove)

REPO = Path(__file__).resolve().parents[1]
REAL_SOUND = Path(os.environ.get("CHORUS_REAL_SOUND", REPO.parent / "shared" / "data"))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes give no name: what a library packs differs from second to second (the time in gzip's
    header), and two processes that list other tests run none."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def same_dice() -> None:
    """A test draws the same numbers whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    """A run that trains in this process blocks signals, which programs started later inherit."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture(scope="session")
def real_sound() -> Path:
    """Folder with `esc10/` and `xc_birds/`; tests that want it are skipped where it is absent."""
    if not (REAL_SOUND / "esc10" / "metadata.csv").is_file():
        pytest.skip(f"no real sound at {REAL_SOUND} (set CHORUS_REAL_SOUND to a folder with esc10)")
    return REAL_SOUND


@pytest.fixture(scope="session")
def avex_python() -> Path:
    """Python of the environment that holds avex; tests are skipped where it was not made."""
    python = REPO / ".venv-avex" / "bin" / "python"
    if not python.is_file():
        if os.environ.get("REQUIRE_AVEX"):
            pytest.fail(f"REQUIRE_AVEX is set, but there is no {python}")
        pytest.skip("no .venv-avex: `make test-avex` makes it (scripts/avex_env.sh)")
    return python


def write_dataset(
    root: Path,
    clips: Sequence[dict[str, object]],
    labels: Sequence[str],
    *,
    per_shard: int = 8,
    codec: str = "flac",
    rate_hz: int = 16000,
) -> Path:
    """Write a dataset to the letter of the format (docs/data.md) without using `data_prep`.

    Each clip: `wav` (int16, mono), `labels` (names), optionally `group`, `fold`, `split`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile as sf
    import webdataset as wds

    rows = []
    by_split: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        by_split.setdefault(str(clip.get("split", "train")), []).append(i)
    for split, members in by_split.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for s in range(0, len(members), per_shard):
            shard = f"{split}/{s // per_shard:06d}.tar"
            with wds.TarWriter(str(root / shard), encoder=False) as tar:
                for i in members[s : s + per_shard]:
                    wav = np.asarray(clips[i]["wav"], dtype=np.int16)
                    buffer = io.BytesIO()
                    sf.write(buffer, wav, rate_hz, format=codec.upper(), subtype="PCM_16")
                    names = list(clips[i].get("labels", []))  # type: ignore[call-overload]
                    record = {"id": f"test:{i}", "labels": [{"name": n} for n in names]}
                    tar.write(
                        {
                            "__key__": f"clip-{i:06d}",
                            codec: buffer.getvalue(),
                            "json": json.dumps(record).encode(),
                        }
                    )
            import tarfile

            with tarfile.open(root / shard) as tar_in:
                for member in tar_in:
                    if not member.name.endswith(codec):
                        continue
                    i = int(member.name.split(".")[0].split("-")[1])
                    names = list(clips[i].get("labels", []))  # type: ignore[call-overload]
                    rows.append(
                        {
                            "key": f"clip-{i:06d}",
                            "split": split,
                            "shard": shard,
                            "offset": member.offset_data,
                            "size": member.size,
                            "codec": codec,
                            "sample_rate_hz": rate_hz,
                            "samples": len(np.asarray(clips[i]["wav"])),
                            "label_ids": [labels.index(n) for n in names],
                            "background_ids": [],
                            "recording_id": f"test:{i}",
                            "start_s": 0.0,
                            "group_id": str(clips[i].get("group", f"g{i}")),
                            "fold": None if clips[i].get("fold") is None else str(clips[i]["fold"]),
                            "licence_id": 0,
                        }
                    )
    schema = pa.schema(
        [
            ("key", pa.string()), ("split", pa.string()), ("shard", pa.string()),
            ("offset", pa.int64()), ("size", pa.int64()), ("codec", pa.string()),
            ("sample_rate_hz", pa.int32()), ("samples", pa.int64()),
            ("label_ids", pa.list_(pa.int32())), ("background_ids", pa.list_(pa.int32())),
            ("recording_id", pa.string()), ("start_s", pa.float64()), ("group_id", pa.string()),
            ("fold", pa.string()), ("licence_id", pa.int32()),
        ]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / "index.parquet")
    (root / "labels.json").write_text(
        json.dumps({"version": 1, "labels": [{"id": i, "name": n} for i, n in enumerate(labels)]})
    )
    pq.write_table(
        pa.table(
            {
                "licence_id": pa.array([0], pa.int32()), "licence_url": ["https://creativecommons.org/publicdomain/zero/1.0/"],
                "recordist": ["test"], "attribution": [""], "clips": [len(rows)],
                "hours": [sum(r["samples"] for r in rows) / rate_hz / 3600],
            }
        ),
        root / "licences.parquet",
    )  # fmt: skip
    (root / "stats.json").write_text(
        json.dumps({"name": root.name, "clips": len(rows), "sample_rate_hz": rate_hz})
    )
    return root


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """`write_dataset`, as a fixture."""
    return write_dataset


def tone_clips(
    count: int, *, classes: int = 4, seconds: float = 3.0, seed: int = 0, folds: int = 4
) -> tuple[list[dict[str, object]], list[str]]:
    """`count` clips of `classes` kinds of tone in noise, with labels, groups and folds."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    clips: list[dict[str, object]] = []
    for i in range(count):
        kind = i % classes
        tone = np.sin(2 * np.pi * (500.0 * (kind + 1) + rng.uniform(-50, 50)) * time)
        wav = 8000 * tone * (rng.random() + 0.2) + 500 * rng.standard_normal(time.size)
        clips.append(
            {
                "wav": np.clip(wav, -32768, 32767).astype(np.int16),
                "labels": [f"tone_{kind}"],
                "group": f"g{i // classes}",
                "fold": (i // classes) % folds,
            }
        )
    return clips, [f"tone_{k}" for k in range(classes)]


@pytest.fixture(scope="session")
def make_tones() -> Callable[..., tuple[list[dict[str, object]], list[str]]]:
    """`tone_clips`, as a fixture."""
    return tone_clips


@pytest.fixture(scope="session")
def tone_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 three-second clips, 4 classes, 4 folds, split `train`."""
    clips, labels = tone_clips(48)
    return write_dataset(tmp_path_factory.mktemp("tones") / "tones", clips, labels)


def flat_leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(path, leaf) of nested dicts and lists."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat_leaves(value, f"{prefix}.{key}")
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from flat_leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, tree


def same_training_state(a: dict, b: dict) -> bool:
    """Weights, optimiser state and moving average of two checkpoints are equal bit for bit."""
    for part in ("state_dict", "optimizer_states"):
        left, right = dict(flat_leaves(a[part])), dict(flat_leaves(b[part]))
        assert left.keys() == right.keys()
        for key, value in left.items():
            same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
            assert same, f"{part}{key} differs"
    left, right = (dict(flat_leaves(x["dawnchorus"]["ema"])) for x in (a, b))
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
        assert same, f"ema{key} differs"
    return True


@pytest.fixture(scope="session")
def same_state() -> Callable[[dict, dict], bool]:
    """`same_training_state`, as a fixture."""
    return same_training_state


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local S3 server of its own (tests/object_store.py), which the environment points at."""
    from object_store import ObjectStore, forget_connections  # moto takes a second to import

    store = ObjectStore()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    forget_connections()
    yield store
    store.stop()
    forget_connections()


def change_a_byte_of_a_tensor(path: Path) -> None:
    """In the middle of the largest one; between the members nothing reads what stands there."""
    with zipfile.ZipFile(path) as archive:
        tensors = (info for info in archive.infolist() if "/data/" in info.filename)
        member = max(tensors, key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    start = member.header_offset
    name, extra = struct.unpack_from("<HH", data, start + 26)  # of the local header
    data[start + 30 + name + extra + member.file_size // 2] ^= 255
    path.write_bytes(data)


@pytest.fixture(scope="session")
def damage_tensor() -> Callable[[Path], None]:
    """Change a byte of a tensor in a file of torch.save."""
    return change_a_byte_of_a_tensor
