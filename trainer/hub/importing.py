"""Loads models from any known file, and refuses those that do not fit exactly.

A tensor that is missing, left over or of another shape is an error that names it. A model that is
partly random would give plausible embeddings, so nobody would notice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import Encoder
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub import adapters
from dawnchorus.trainer.hub.opening import nonsense_refused, refuse_larger
from dawnchorus.trainer.hub.reading import OURS, Kind, Weights, Which, read_weights, some
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.pooling import Pooling, pooling_of
from dawnchorus.trainer.registry import ENCODERS


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to encode (in eval mode), and where it came from."""

    model: BioEncoder
    labels: tuple[str, ...] | None
    """Names of the head's outputs; None where there is no head."""
    recipe: dict[str, Any] | None
    """The resolved recipe of its training, if the file carries one."""
    source: str
    """One phrase for logs: file, step, whether it is the moving average."""
    kind: Kind
    weights: Weights
    """The weights as they were read (their tensors now belong to the model)."""


def load_model(
    path: str | Path, *, ema: bool = True, device: str | torch.device = "cpu", which: Which = "auto"
) -> LoadedModel:
    """Load a model from a run folder, a checkpoint, an exported folder, a Microsoft BEATs `.pt`,
    an EAT (fairseq's `.pt`, Hugging Face's folder), a Bird-MAE or XenoMAE (the latter), or an avex
    safetensors with its `train_config.yaml`.

    Args:
        path: the folder or file.
        ema: take the moving average of the weights where the checkpoint has one.
        device: where to put the model.
        which: for a run folder: `best`, `last`, or `auto` (best where there is one, else last).

    Raises:
        CheckpointError: missing, damaged or unknown file; tensors that do not fit the model.
    """
    weights = read_weights(path, ema=ema, which=which)
    model = build(weights)
    model.to(device).eval()
    return LoadedModel(
        model=model,
        labels=weights.labels,
        recipe=weights.recipe,
        source=weights.source,
        kind=weights.kind,
        weights=weights,
    )


def build(weights: Weights) -> BioEncoder:
    """The model that the weights describe, with the weights in it.

    Raises:
        CheckpointError: no such encoder, impossible numbers, or tensors that do not fit.
    """
    section = whole_section(weights)
    with nonsense_refused(weights.file):
        config = ENCODERS.config(section["name"])(**section)
        refuse_larger(config, weights.state, weights.file)
        pooling: Pooling = "mean"
        if weights.labels and "head.weight" in weights.state:
            width = weights.state["head.weight"].shape[1]
            try:
                pooling = "cls" if weights.pooling == "cls" else pooling_of(width, config.dim)
            except ValueError as error:
                raise CheckpointError(f"{weights.file}: the head does not fit: {error}") from None
        model = BioEncoder.from_config(section, weights.labels, pooling)
        load_strictly(model, _with_frontend(weights, model), str(weights.file))
    return model


def whole_section(weights: Weights) -> dict[str, Any]:
    """The `encoder` section of some weights with every field, so that two can be compared.

    Raises:
        CheckpointError: no such encoder, a field it does not have, or an impossible number.
    """
    try:
        config = ENCODERS.config(str(weights.encoder.get("name")))(**weights.encoder)
        return dataclasses.asdict(config)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{weights.file}: no model can be built from its encoder section: {error}"
        ) from None


def initialise_from(
    encoder: Encoder, path: str | Path, *, ema: bool = True, which: Which = "auto"
) -> Weights:
    """Start an encoder from earlier weights (`init_from` in a recipe); a head stays new.

    Args:
        encoder: the encoder to fill; its `config` must describe the same architecture and the same
            front end as the file. Dropout rates may differ.
        path: anything that `load_model` reads.
        ema: take the moving average of the weights where the checkpoint has one.
        which: for a run folder, which checkpoint.

    Returns:
        What was read, for the log (`.source`, `.notes`).

    Raises:
        CheckpointError: another architecture or front end (each differing field with both values),
            tensors that do not fit, or a damaged file. The encoder is untouched then.
    """
    weights = read_weights(path, ema=ema, which=which)
    check_same(dataclasses.asdict(encoder.config), whole_section(weights), str(path))
    inner = {
        name.removeprefix("encoder."): tensor
        for name, tensor in weights.state.items()
        if name.startswith("encoder.")
    }
    load_strictly(encoder, inner, str(weights.file))
    return weights


def initialise_pretrained(encoder: Encoder, which: str) -> None:
    """Start an encoder from weights that are fetched by their name (`encoder.pretrained`).

    Raises:
        CheckpointError: there are none for its numbers, or they cannot be fetched.
    """
    fetch = adapters.of_encoder(encoder.config.name, "pretrained")
    assert fetch is not None
    load_strictly(encoder, fetch(encoder.config, which), f"encoder.pretrained={which}")


def check_same(here: Mapping[str, Any], there: Mapping[str, Any], where: str) -> None:
    """Refuse weights of another architecture or front end.

    Args:
        here: the `encoder` section that is asked for.
        there: the one that the file was made with.
        where: the file, for the message.

    Raises:
        CheckpointError: with each differing field and both values.
    """
    if here["name"] != there["name"]:
        raise CheckpointError(
            f"{where} holds the encoder {there['name']!r}, and this recipe's is {here['name']!r}: "
            f"take encoder={there['name']}… or start from other weights (init_from)"
        )
    config = ENCODERS.config(here["name"])
    fields = [key for key in [*here, *there] if key not in config.training_only]
    different = [key for key in dict.fromkeys(fields) if not _equal(here.get(key), there.get(key))]
    if not different:
        return
    lines = "\n".join(
        f"  encoder.{key}: {there.get(key)!r} in the file, {here.get(key)!r} here"
        for key in different
    )
    overrides = " ".join(f"encoder.{key}={there[key]}" for key in different if key in there)
    what = " and ".join(
        name
        for name, found in (
            ("another architecture", any(key not in config.frontend_fields for key in different)),
            ("another front end", any(key in config.frontend_fields for key in different)),
        )
        if found
    )
    raise CheckpointError(
        f"{where} was made with {what}:\n{lines}\n"
        f"Take its numbers ({overrides}) or start from other weights (init_from)"
    )


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict of which every tensor must fit.

    Raises:
        CheckpointError: names every tensor that is missing, left over, of another shape or type,
            or not finite; the module is untouched then.
    """
    own = module.state_dict()
    problems = []
    missing = [name for name in own if name not in state]
    if missing:
        problems.append(f"missing: {some(missing)}")
    unexpected = [name for name in state if name not in own]
    if unexpected:
        problems.append(f"not part of the model: {some(unexpected)}")
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if shapes:
        problems.append(f"of another shape: {some(shapes)}")
    types = [
        f"{name} {state[name].dtype} instead of {own[name].dtype}"
        for name in own
        if name in state and state[name].is_floating_point() != own[name].is_floating_point()
    ]
    if types:
        problems.append(f"of another type: {some(types)}")
    broken = [
        name
        for name in own
        if name in state and state[name].is_floating_point() and not state[name].isfinite().all()
    ]
    if broken:
        problems.append(f"NaN or infinity: {some(broken)}")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CheckpointError(
            f"the tensors of {where} do not fit the model that it describes:\n{lines}\n"
            "It was made by another version or is damaged; nothing was loaded"
        )
    module.load_state_dict(dict(state))


def _with_frontend(weights: Weights, model: BioEncoder) -> dict[str, Tensor]:
    """Add front-end tensors from the config, because files of other projects hold none."""
    if weights.kind in OURS:
        return weights.state
    own = {f"frontend.{name}": tensor for name, tensor in model.frontend.state_dict().items()}
    return own | weights.state


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return list(a) == list(b)
    return bool(a == b)
