"""Weights from any file we know, with what is needed to build the model that they fit.

Nothing is guessed: a file is one of the formats below or it is refused, and the model is built from
the numbers that travelled with the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dawnchorus.trainer.checkpoints import sharded_folder as shards
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub import adapters
from dawnchorus.trainer.hub.opening import (
    load_json,
    load_safetensors,
    load_torch,
    load_yaml,
    nonsense_refused,
    refuse_odd_tensors,
)

CHECKPOINT_FORMAT = 1
Kind = str
"""`run`, `checkpoint`, `export`; else whose file it is: `microsoft`, `espnet`, `avex`, ..."""
OURS = frozenset({"run", "checkpoint", "export"})
Which = Literal["auto", "best", "last"]

KNOWN = (
    "a run folder, a checkpoint of a run (.ckpt), an exported folder, an avex .safetensors with "
    "train_config.yaml beside it, or one of these: a Microsoft BEATs .pt, an EAT (.pt of fairseq "
    "or Hugging Face folder), a Bird-MAE or XenoMAE (Hugging Face folder), a torchvision or timm "
    "EfficientNet .pth, an AVES or BirdAVES .pt"
)


@dataclass
class Weights:
    """The content of one file, under our names."""

    kind: Kind
    file: Path
    """The file that holds the tensors."""
    encoder: dict[str, Any]
    """The `encoder` section of a recipe: `name`, architecture, front-end numbers."""
    state: dict[str, Tensor]
    """`encoder.*`, and `frontend.*` and `head.*` where the file has them."""
    labels: tuple[str, ...] | None = None
    pooling: str | None = None
    """How the tokens are pooled for the head, if the file says it."""
    recipe: dict[str, Any] | None = None
    averaged: bool = False
    """The tensors are the exponential moving average rather than the last step's."""
    step: int | None = None
    samples_seen: int | None = None
    notes: list[str] = field(default_factory=list)
    """Remarks for the user, for example that the head could not be used."""

    @property
    def run(self) -> Path | None:
        """Folder of the run that made them, where it is at hand."""
        if self.kind not in {"run", "checkpoint"}:
            return None
        folder = self.file.parent.parent
        return folder if (folder / "recipe.yaml").is_file() else None

    @property
    def source(self) -> str:
        """One phrase for logs."""
        parts = [str(self.file)]
        if self.step is not None:
            parts.append(f"step {self.step}")
        if self.averaged:
            parts.append("moving average")
        return ", ".join(parts)


def read_weights(path: str | Path, *, ema: bool = True, which: Which = "auto") -> Weights:
    """Read weights from any format we know.

    Args:
        path: see `KNOWN`.
        ema: take the moving average of the weights where the checkpoint has one.
        which: for a run folder: `best`, `last`, or `auto` (best where there is one, else last).

    Raises:
        CheckpointError: nothing there, not a known format, damaged, or of a newer format.
    """
    path = Path(path)
    with nonsense_refused(path):
        weights = _read(path, ema=ema, which=which)
        refuse_odd_tensors(weights.state, path)
    return weights


def _read(path: Path, *, ema: bool, which: Which) -> Weights:
    if path.is_dir():
        if (path / "checkpoints").is_dir():
            return _from_checkpoint(choose(path, which), ema=ema, kind="run")
        if (path / "config.json").is_file():
            return _from_export(path)
        if (path / "train_config.yaml").is_file():
            return _from_avex(_only_safetensors(path))
        if shards.is_folder(path):
            return _from_checkpoint(path, ema=ema, kind="checkpoint")
        raise CheckpointError(f"{path} holds no model. Give {KNOWN}")
    if not path.is_file():
        raise CheckpointError(f"there is nothing at {path}. Give {KNOWN}")
    if path.suffix == ".safetensors":
        if path.name == "model.safetensors" and (path.parent / "config.json").is_file():
            return _from_export(path.parent)
        return _from_avex(path)
    return _from_torch(path, ema=ema)


# --------------------------------------------------------------------------- our own


def choose(run: Path, which: Which) -> Path:
    """The checkpoint of a run folder. Raises CheckpointError: there is none."""
    folder = run / "checkpoints"
    names = ["best.ckpt", "last.ckpt"] if which == "auto" else [f"{which}.ckpt"]
    for name in names:
        if (folder / name).is_file() or shards.is_folder(folder / name):
            return folder / name
    there = sorted(p.name for p in folder.glob("*.ckpt"))
    raise CheckpointError(
        f"the run {run} has no {' or '.join(names)} in {folder} (there: "
        f"{', '.join(there) or 'nothing'}). Let it train until its first checkpoint, or give the "
        "checkpoint file itself"
    )


def _from_torch(path: Path, *, ema: bool) -> Weights:
    content = load_torch(path)
    if isinstance(content, Mapping) and "dawnchorus" in content:
        return _from_checkpoint(path, ema=ema, kind="checkpoint", content=content)
    if isinstance(content, Mapping):
        for from_torch in adapters.having("from_torch"):
            if foreign := from_torch(str(path), content):
                return _named(path, foreign, f"label_dict of {path}")
    keys = ", ".join(str(k) for k in list(content)[:8]) if isinstance(content, Mapping) else "-"
    raise CheckpointError(
        f"{path} is of no format we know (it holds a {type(content).__name__} with: {keys}). "
        f"Give {KNOWN}"
    )


def _from_checkpoint(
    path: Path, *, ema: bool, kind: Kind, content: Mapping[str, Any] | None = None
) -> Weights:
    content = checkpoint_content(path, load_torch(path) if content is None else content)
    about = content["dawnchorus"]
    recipe = dict(about["recipe"])
    tensors = dict(content["state_dict"])
    average = about.get("ema") if ema else None
    if average:
        stray = sorted(set(average) - set(tensors))
        if stray:
            raise CheckpointError(
                f"{path}: the moving average names tensors that the model does not have: "
                f"{some(stray)}. The file is damaged"
            )
        tensors |= average
    labels = about.get("labels")
    state = _model_part(tensors, head=bool(labels))
    return Weights(
        kind=kind,
        file=path,
        encoder=dict(recipe["encoder"]),
        state=state,
        labels=tuple(labels) if labels else None,
        pooling=(recipe.get("objective") or {}).get("pooling"),
        recipe=recipe,
        averaged=bool(average),
        step=about.get("step"),
        samples_seen=about.get("samples_seen"),
    )


def checkpoint_content(path: Path, content: Any) -> Mapping[str, Any]:
    """A checkpoint of this project, or CheckpointError."""
    about = content.get("dawnchorus") if isinstance(content, Mapping) else None
    if not isinstance(about, Mapping) or "state_dict" not in content:
        raise CheckpointError(
            f"{path} is no checkpoint of this project (no 'dawnchorus' and 'state_dict' in it). "
            f"Give {KNOWN}"
        )
    if about.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {about.get('format')!r}, this version reads "
            f"{CHECKPOINT_FORMAT}: install the version that wrote it"
        )
    return content  # type: ignore[no-any-return]


def _model_part(tensors: Mapping[str, Tensor], *, head: bool) -> dict[str, Tensor]:
    """Front end, encoder and head, without the objective's own tensors (tokenizer, predictor)."""
    state = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }
    for name in ("head.weight", "head.bias"):
        # Checkpoints from before December 2026 have the head under the objective.
        if head and f"objective.{name}" in tensors:
            state.setdefault(name, tensors[f"objective.{name}"])
    return state


def _from_export(folder: Path) -> Weights:
    where, tensors = folder / "config.json", folder / "model.safetensors"
    config = load_json(where)
    for from_hub in adapters.having("from_hub"):
        if foreign := from_hub(str(where), config, partial(load_safetensors, tensors)):
            return _named(tensors, foreign, str(where))
    if config.get("model_type") != "dawnchorus" or not isinstance(config.get("encoder"), dict):
        raise CheckpointError(
            f"{where} describes a {config.get('model_type')!r} model, not one exported by this "
            f"project. Give {KNOWN}"
        )
    labels: tuple[str, ...] | None = None
    if config.get("classification_head"):
        labels = names_in_order(config.get("id2label"), f"id2label of {where}")
    recipe_file = folder / "recipe.yaml"
    return Weights(
        kind="export",
        file=tensors,
        encoder=dict(config["encoder"]),
        state=load_safetensors(tensors),
        labels=labels,
        pooling=config.get("pooling"),
        recipe=load_yaml(recipe_file) if recipe_file.is_file() else None,
    )


# --------------------------------------------------------------------------- others'


def _named(path: Path, foreign: adapters.Foreign, where: str) -> Weights:
    """The content of another project's file; a head stays only if each output has a name."""
    weights = Weights(foreign.kind, path, foreign.encoder, foreign.state)
    weights.pooling, weights.notes = foreign.pooling, list(foreign.notes)
    if foreign.names:
        weights.labels = names_in_order(foreign.names, where)
    _drop_head_without_names(weights)
    return weights


def _from_avex(path: Path) -> Weights:
    config_file = path.parent / "train_config.yaml"
    if not config_file.is_file():
        raise CheckpointError(
            f"{path} carries no numbers of its architecture and there is no {config_file} beside "
            "it: put avex's train_config.yaml (with model_spec) into that folder"
        )
    spec = load_yaml(config_file).get("model_spec")
    spec = spec if isinstance(spec, dict) else {}
    state = load_safetensors(path)
    for from_avex in adapters.having("from_avex"):
        if foreign := from_avex(str(config_file), spec, state):
            label_map = path.parent / "label_map.json"
            foreign.names = load_json(label_map) if label_map.is_file() else None
            return _named(path, foreign, str(label_map))
    raise CheckpointError(
        f"{config_file}: model_spec.name is {spec.get('name')!r}; of avex's models only "
        f"{', '.join(adapters.FAMILIES)} can be read"
    )


def names_in_order(names: Any, where: str) -> tuple[str, ...]:
    """Names of a head's outputs, from whatever a file has for them.

    Args:
        names: a list, {index: name} or {name: index}; an index may be a text ("0").
        where: the file, for messages.

    Raises:
        CheckpointError: neither the keys nor the values count 0, 1, 2, …
    """
    if isinstance(names, list | tuple):
        return tuple(str(name) for name in names)
    if isinstance(names, Mapping):
        forward = [(_whole(index), str(name)) for index, name in names.items()]
        backward = [(_whole(index), str(name)) for name, index in names.items()]
        for pairs in (forward, backward):
            by_index = {index: name for index, name in pairs if index is not None}
            if len(by_index) == len(names) and set(by_index) == set(range(len(names))):
                return tuple(by_index[i] for i in range(len(names)))
    raise CheckpointError(f"{where}: the indices do not count 0, 1, 2, …, each for one name")


def _whole(value: object) -> int | None:
    """A whole number, also as text; None for anything else."""
    text = "" if isinstance(value, bool) else str(value).strip()
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else None


def _drop_head_without_names(weights: Weights) -> None:
    """Remove a head that lacks a name for any of its outputs: it would be of no use."""
    rows = weights.state.get("head.weight")
    names = weights.labels
    if rows is not None and names is not None and len(names) == rows.shape[0]:
        return
    if rows is not None:
        weights.notes.append(
            f"the head of {weights.file} was left out: it has {rows.shape[0]} outputs and "
            f"{len(names) if names else 'no'} names"
        )
    weights.labels = None
    for name in ("head.weight", "head.bias"):
        weights.state.pop(name, None)


def _only_safetensors(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise CheckpointError(
            f"{folder} holds {len(files)} .safetensors files beside train_config.yaml: give the "
            "path of the one to read"
        )
    return files[0]


def some(names: list[str], most: int = 10) -> str:
    """The first of many names, and how many there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
