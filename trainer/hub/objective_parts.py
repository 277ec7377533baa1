"""Reads what an objective trained besides the encoder: a quantizer, say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dawnchorus.trainer.checkpoints import sharded_folder as shards
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub import adapters
from dawnchorus.trainer.hub.opening import load_torch, nonsense_refused, refuse_odd_tensors
from dawnchorus.trainer.hub.reading import checkpoint_content, choose


def read_part(path: str | Path, name: str) -> dict[str, Tensor]:
    """Read a part of an objective, of the step and the average that `load_model` reads.

    Args:
        path: a run folder, a checkpoint, or a file of another project that has such a part.
        name: which part: the first word of its tensors' names (`quantizer`, say).

    Returns:
        The tensors, without the part's name.

    Raises:
        CheckpointError: nothing is there that can be read, or it has no such part.
    """
    path = Path(path)
    with nonsense_refused(path):
        part = _read(path, name)
        refuse_odd_tensors(part, path)
    return part


def _read(path: Path, name: str) -> dict[str, Tensor]:
    if path.is_dir() and (path / "checkpoints").is_dir():
        path = choose(path, "auto")
    missing = CheckpointError(
        f"{path} holds no {name}: it is not of an objective that trains one, or it was exported, "
        "and an export has the encoder alone. Give the run folder or a checkpoint of the training"
    )
    if path.suffix == ".safetensors" or (path.is_dir() and not shards.is_folder(path)):
        raise missing
    content = load_torch(path)
    if isinstance(content, Mapping) and "dawnchorus" not in content:
        for from_torch in adapters.having("from_torch"):
            if foreign := from_torch(str(path), content):
                if name not in foreign.parts:
                    raise missing
                return dict(foreign.parts[name])
    content = checkpoint_content(path, content)
    tensors = {**content["state_dict"], **(content["dawnchorus"].get("ema") or {})}
    prefix = f"objective.{name}."
    part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if not part:
        raise missing
    return part
