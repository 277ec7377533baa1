"""What the data tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dawnchorus.trainer.data.config import DataConfig, SourceConfig
from dawnchorus.trainer.data.index import Member, ShardIndex


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two batches are equal to the last bit."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)


@pytest.fixture(scope="session")
def same_batch() -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    return same


@pytest.fixture(scope="session")
def mixed_wavs() -> list[np.ndarray]:
    """30 noises of 0.2 s to 6 s, all different."""
    rng = np.random.default_rng(3)
    return [
        (2000 * rng.standard_normal(int(rng.uniform(3200, 96000)))).astype(np.int16)
        for _ in range(30)
    ]


@pytest.fixture(scope="session")
def short_and_long(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., Path],
    mixed_wavs: list[np.ndarray],
) -> Path:
    """FLAC clips of very different lengths, 5 labels, in 5 shards."""
    labels = [f"species {i}" for i in range(5)]
    clips = [
        {"wav": wav, "labels": [labels[j] for j in range(5) if i % (j + 2) == 0]}
        for i, wav in enumerate(mixed_wavs)
    ]
    root = tmp_path_factory.mktemp("mixed") / "mixed"
    return make_dataset(root, clips, labels, per_shard=6)


@pytest.fixture(scope="session")
def long_wav() -> np.ndarray:
    """40 s of noise with changing loudness, so that FLAC frames differ in size."""
    rng = np.random.default_rng(4)
    envelope = 20 + 3000 * (1 + np.sin(np.arange(40 * 16000) / 40000)) ** 2
    return (envelope * rng.standard_normal(40 * 16000) / 4).astype(np.int16)


@pytest.fixture(scope="session")
def long_pieces(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., Path],
    long_wav: np.ndarray,
) -> dict[str, Path]:
    """The long clip, twice in one shard, as FLAC and as WAV."""
    root = tmp_path_factory.mktemp("long")
    clips = [{"wav": long_wav}, {"wav": long_wav[::-1]}]
    return {
        codec: make_dataset(root / codec, clips, ["x"], codec=codec) for codec in ("flac", "wav")
    }


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a dataset, to damage it."""

    def copy(dataset: Path) -> Path:
        return Path(shutil.copytree(dataset, tmp_path / dataset.name))

    return copy


def damage_member(dataset: Path, clip: int) -> str:
    """Overwrite 200 bytes in the middle of a clip; returns the name of its member."""
    index = ShardIndex.open(dataset)
    member: Member = index.member(clip)
    with Path(member.path).open("r+b") as file:
        file.seek(member.offset + member.size // 2)
        file.write(bytes(200))
    return index.describe(clip)


@pytest.fixture(scope="session")
def damage() -> Callable[[Path, int], str]:
    return damage_member


@pytest.fixture(scope="session")
def configure() -> Callable[..., DataConfig]:
    """A config from folders: `configure({"a": path}, noise={...}, window_s=...)`."""

    def make(
        train: dict[str, Path],
        valid: dict[str, Path] | None = None,
        noise: dict[str, Path] | None = None,
        **others: Any,
    ) -> DataConfig:
        def sources(paths: dict[str, Path] | None) -> dict[str, SourceConfig]:
            return {name: SourceConfig(path=str(p)) for name, p in (paths or {}).items()}

        return DataConfig(
            train=sources(train), valid=sources(valid), noise=sources(noise), **others
        )

    return make
