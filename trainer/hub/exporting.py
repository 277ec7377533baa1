"""A run becomes a folder that is a complete Hugging Face model repository.

    <out>/model.safetensors          our names, for transformers and for `load_model`
    <out>/<repo>.safetensors         avex's names, with train_config.yaml (its model_spec)
    <out>/config.json                every number of encoder and front end, labels, auto_map
    <out>/modeling_dawnchorus.py     with the files of encoder, front end and pooling exactly as the
                                     trainer runs them; `parts.py` says which they are
    <out>/preprocessor_config.json   for transformers' feature extractor
    <out>/label_map.json             {name: index}; empty without a head
    <out>/recipe.yaml, data.json     recipe and data of the training, without paths
    <out>/README.md, CREDITS.md      the model card
    <out>/LICENSE                    licence of the code; the card has that of the weights

The folder appears whole or not at all: it is written beside its place, read back, then renamed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dawnchorus import trainer
from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub import adapters
from dawnchorus.trainer.hub.card import CardFacts, gather, merge_card, render
from dawnchorus.trainer.hub.card_config import CardConfig
from dawnchorus.trainer.hub.importing import build, whole_section
from dawnchorus.trainer.hub.opening import load_yaml
from dawnchorus.trainer.hub.place import MODELING, check_place, discard, put_in_place
from dawnchorus.trainer.hub.provenance import to_json
from dawnchorus.trainer.hub.reading import Which, read_weights
from dawnchorus.trainer.hub.shipping import parts_py, ship, shipped_files
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.public import places_in, public_recipe


def export(
    run: str | Path,
    out: str | Path,
    *,
    card: CardConfig | Mapping[str, Any] | None = None,
    which: Which = "auto",
    ema: bool = True,
    overwrite: bool = False,
    private: bool = False,
) -> Path:
    """Write a run as a Hugging Face model repository.

    Args:
        run: a run folder, or a checkpoint in the `checkpoints/` of one.
        out: the folder to make.
        card: fields of the card, which override the `card` section of the recipe. Without a
            `repo_id` the repository gets the name of the folder.
        which: checkpoint of a run folder: `best`, `last`, or `auto` (best, else last).
        ema: export the moving average of the weights if the checkpoint has one.
        overwrite: replace an earlier export at `out`, if its folder holds nothing else.
        private: export for one's own use, which needs no author, licence, credits or evaluation.
            The card lists what is missing, and the model refuses `push_to_hub`.

    Returns:
        The folder.

    Raises:
        CheckpointError: `run` holds nothing usable; required parts of the card are empty (all are
            listed); the licence contradicts the data's; `out` is in use or cannot be written.
        RecipeError: `card` has an unknown field.
    """
    out = Path(out)
    check_place(out, overwrite=overwrite)
    weights = read_weights(run, ema=ema, which=which)
    folder = weights.run
    if folder is None:
        raise CheckpointError(
            f"{run} is not a run of this project: only a run has the recipe, data and evaluation "
            "that the model card needs. Give a run folder (runs/NAME)"
        )
    weights.recipe = _with_latest_card(weights.recipe or {}, folder)
    merged = merge_card(weights.recipe, card, out.resolve().name)
    model = build(weights)
    weights.encoder = whole_section(weights)
    support = adapters.of_encoder(weights.encoder["name"], "avex_support")
    facts = gather(
        weights,
        folder,
        merged,
        model,
        avex="no"
        if support is None
        else support(weights.encoder, head=model.head is not None, pooling=model.pooling),
        private=private,
    )
    _write_whole(out, model, facts, places_in(facts.recipe) | {str(folder.resolve())})
    return out


def _write_whole(out: Path, model: BioEncoder, facts: CardFacts, places: set[str]) -> None:
    """Write the repository beside its place, read it back, and move it there.

    `places` are the folders and addresses that no file may name.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"{out.parent} cannot be written: {error}") from None
    try:
        write_repo(temporary, model, facts)
        _read_back(temporary, model)
        _refuse_places(temporary, places)
        put_in_place(temporary, out)
    except OSError as error:
        raise CheckpointError(
            f"the export to {out} failed ({error}); nothing was left there. Make room or choose "
            "another place"
        ) from None
    finally:
        discard(temporary)


# --------------------------------------------------------------------------- the files


def write_repo(folder: Path, model: BioEncoder, facts: CardFacts) -> None:
    """Write all files of the repository into an empty folder."""
    from safetensors.torch import save_file

    state = {name: _own(tensor) for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config_json(facts))
    _write_json(folder / "preprocessor_config.json", preprocessor_json(facts))
    labels = facts.labels or ()
    _write_json(folder / "label_map.json", {name: i for i, name in enumerate(labels)})
    modeling = Path(__file__).with_name(f"{MODELING}.py")
    for source in (modeling, *shipped_files(model)):
        ship(source, folder)
    (folder / "parts.py").write_text(parts_py(model), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        plain_yaml.dump(public_recipe(facts.recipe)), encoding="utf-8"
    )
    (folder / "data.json").write_text(to_json(facts.stages), encoding="utf-8")
    for name, text in render(facts).items():
        (folder / name).write_text(text, encoding="utf-8")
    if facts.avex != "no":
        write_avex = adapters.of_encoder(facts.encoder["name"], "write_avex")
        assert write_avex is not None
        write_avex(folder, state, facts)


def config_json(facts: CardFacts) -> dict[str, Any]:
    """Make `config.json`: the fields of `DawnchorusConfig`, and the place of the code."""
    labels = facts.labels or ()
    auto = {"AutoConfig": "DawnchorusConfig", "AutoModel": "DawnchorusModel"}
    if labels:
        auto["AutoModelForAudioClassification"] = "DawnchorusModel"
    config: dict[str, Any] = {
        "architectures": ["DawnchorusModel"],
        "auto_map": {name: f"{MODELING}.{target}" for name, target in auto.items()},
        "model_type": "dawnchorus",
        "dawnchorus_version": trainer.__version__,
        "dtype": "float32",
        "encoder": facts.encoder,
        "classification_head": bool(labels),
    }
    if facts.missing is not None:
        config["not_for_publication"] = facts.missing or ["it was exported with --private"]
    if labels:
        config["pooling"] = (facts.recipe.get("objective") or {}).get("pooling", "mean")
        kind = "single" if facts.scores == "softmax" else "multi"
        config["problem_type"] = f"{kind}_label_classification"
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
        config["label2id"] = {name: i for i, name in enumerate(labels)}
    return config


def preprocessor_json(facts: CardFacts) -> dict[str, Any]:
    """Make `preprocessor_config.json` for transformers' own waveform extractor.

    The extractor pads on the right and makes the mask. It normalises nothing, because the log-mel
    is part of the model.
    """
    window_s = (facts.recipe.get("data") or {}).get("window_s")
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": facts.encoder["sample_rate_hz"],
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": False,
        "return_attention_mask": True,
        "window_s": window_s,
    }


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor on the CPU that shares no memory, as safetensors requires."""
    return tensor.detach().cpu().contiguous().clone()


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


# --------------------------------------------------------------------------- the place


def _with_latest_card(recipe: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """The checkpoint's recipe, with the present `card` section of the run's `recipe.yaml`.

    People fill in the card when they publish, after the checkpoint was written.
    """
    card = load_yaml(run / "recipe.yaml").get("card")
    return {**recipe, "card": card} if card else dict(recipe)


def _refuse_places(folder: Path, places: set[str]) -> None:
    """Make sure that no text names a folder or a bucket of the run."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            continue
        text = path.read_text(encoding="utf-8")
        for place in sorted(places):
            if place in text:
                raise CheckpointError(
                    f"{path.name} would name {place}, which only concerns this machine: take it "
                    "out of the card's fields and of the names of datasets and runs"
                )


def _read_back(folder: Path, model: BioEncoder) -> None:
    """Make sure that the files on the disk hold exactly this model, bit by bit."""
    again = build(read_weights(folder))
    theirs = model.state_dict()
    for name, tensor in again.state_dict().items():
        if not torch.equal(tensor, theirs[name].cpu()):
            raise CheckpointError(f"{name} was not written as it is; the disk may be failing")
