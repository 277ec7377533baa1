"""Small runs and datasets for the evaluation tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from threadpoolctl import threadpool_limits

from dawnchorus.trainer.evaluation.clips import Clips, open_clips
from dawnchorus.trainer.model import BioEncoder

TINY: dict[str, Any] = {
    "name": "beats", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2, "patch_dim": 32,
    "conv_pos": 16, "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 100,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other's core make small problems a hundred times slower."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def tiny_encoder() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Write a run folder with one checkpoint, to the letter of the format."""

    def write(folder: Path, *, seed: int = 7, diverged: bool = False, **recipe: Any) -> Path:
        encoder, labels = recipe.pop("encoder", TINY), recipe.pop("labels", None)
        pooling = recipe.pop("head_pooling", "mean")
        torch.manual_seed(seed)
        model = BioEncoder.from_config(encoder, labels, pooling)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            if diverged:  # finite weights, infinite activations
                next(model.encoder.parameters()).fill_(1e38)
        full = {"name": folder.name, "encoder": encoder, **recipe}
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(full))
        torch.save(
            {
                "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
                "dawnchorus": {
                    "format": 1, "recipe": full, "labels": labels, "samples_seen": 64, "step": 2,
                    "ema": None,
                },
            },
            folder / "checkpoints" / "last.ckpt",
        )  # fmt: skip
        return folder

    return write


@pytest.fixture
def make_clips(make_dataset: Callable[..., Path], tmp_path: Path) -> Callable[..., Clips]:
    """Clips of a few samples each, with the given labels, groups, folds and splits."""

    def make(rows: Sequence[dict[str, Any]], labels: Sequence[str], name: str = "set") -> Clips:
        wav = np.arange(64, dtype=np.int16)
        clips = [{"wav": wav, **row} for row in rows]
        return open_clips(make_dataset(tmp_path / name, clips, labels, per_shard=1000, codec="wav"))

    return make
