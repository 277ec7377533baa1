"""Opens files of strangers: no code runs, and nonsense is refused with a sentence.

A stranger's file can be wrong in any number, name and shape. None of that may end in a trace, fill
the memory, or give a model that is partly another one.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.checkpoints import sharded_folder as shards
from dawnchorus.trainer.errors import CheckpointError

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig

MOST_TEXT_BYTES = 64 * 2**20
"""Of a JSON or YAML file: ten times the names of all species that are known."""


@contextmanager
def nonsense_refused(where: str | Path) -> Iterator[None]:
    """Turn the errors that nonsense in a file leads to into a CheckpointError that names the file.

    Args:
        where: the file or folder.
    """
    try:
        yield
    # RecursionError, NotImplementedError and failed allocations are RuntimeErrors.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        line = (str(e).strip().splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{where}: a number, a name or a tensor in it makes no sense ({type(e).__name__}: "
            f"{line}). It is damaged, or was not made by the program whose names it has"
        ) from e


def refuse_odd_tensors(state: Mapping[Any, Any], where: str | Path) -> None:
    """Refuse what is no tensor under a name.

    Raises:
        CheckpointError: with the name.
    """
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{where}: {str(name)[:100]!r} is no tensor with a name ({type(value).__name__})"
            )


def refuse_larger(config: EncoderConfig, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Refuse numbers of a model far larger than its file, before memory is taken for it.

    Where only some tensors are missing, `importing.load_strictly` names them.

    Args:
        config: the encoder that the file describes.
        state: its tensors.
        where: the file.

    Raises:
        CheckpointError: with both sizes.
    """
    held = sum(tensor.numel() for tensor in state.values())
    if config.parameters > 2 * held + 10_000_000:
        raise CheckpointError(
            f"{where} describes an encoder of {config.parameters:,} parameters and holds {held:,} "
            "numbers: it is cut off or damaged, or its numbers are another model's"
        )


def load_torch(path: Path) -> Any:
    """The content of a file of `torch.save`, or of a sharded checkpoint; tensors and plain values.

    Raises:
        CheckpointError: it cannot be opened, is damaged, or holds other objects.
    """
    try:
        if path.is_dir():
            return shards.whole(shards.read(path, only=("dawnchorus", "state_dict")))
        # Mapped, so that an optimiser state three times the size of the weights is never read;
        # files from before torch 1.6 are no zip archives and cannot be.
        mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        _refuse_larger_tensors(content, path)
        return content
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror or error}") from None
    except Exception as error:  # whatever torch's zip reader or unpickler met in the file
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {first}). It is cut off, damaged, or "
            "holds objects other than tensors and plain values: copy it again or use another one"
        ) from None


def _refuse_larger_tensors(content: Any, path: Path) -> None:
    """Refuse tensors that are more than their bytes in the file.

    One of stride 0 or without values has a few bytes there and any size when it is used.
    """
    if isinstance(content, Mapping | list | tuple):
        for value in content.values() if isinstance(content, Mapping) else content:
            _refuse_larger_tensors(value, path)
    elif isinstance(content, Tensor):
        plain = content.layout == torch.strided and not content.is_quantized
        if not plain or content.is_meta:
            raise CheckpointError(
                f"{path} holds a tensor of another kind than plain ones ({content.layout}, "
                f"{content.dtype}, {content.device}); weights have none"
            )
        if content.numel() * content.itemsize > content.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path} holds a tensor of shape {tuple(content.shape)}, of more values than are "
                "stored. Save it again after tensor.contiguous()"
            )


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error}") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). It is cut off or damaged: copy it again"
        ) from None


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError."""
    return _mapping(path, json.loads, "JSON object")


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file, by the rules of recipes. Raises CheckpointError."""
    return _mapping(path, plain_yaml.load, "YAML mapping")


def _mapping(path: Path, parse: Callable[[str], Any], what: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_TEXT_BYTES:
            raise ValueError(f"it has more than {MOST_TEXT_BYTES:,} bytes")
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a {what}")
    return content
