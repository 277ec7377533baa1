"""Weights of strangers, wrong in any number, name or shape: refused with a sentence, no trace."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from foreign_models import (
    AUDIO,
    BIRD_MAE,
    ESPNET,
    HUB,
    SPEC,
    XENOMAE,
    XENOMAE_HEARS,
    bird_mae_folder,
    cfg,
    espnet_file,
    espnet_names,
    fairseq,
    hub,
    microsoft_cfg,
    microsoft_names,
    published,
    xenomae_folder,
)
from safetensors.torch import save_file
from torch import Tensor

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters.beats import state_to_avex
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.hub.objective_parts import read_part

pytestmark = pytest.mark.filterwarnings("ignore")
FAMILIES = ("run", "beats", "eat", "hubert", "efficientnet")
STATES = {"run": "state_dict", "beats": "model", "eat": "model"}
"""Under which key of a torch file the tensors are; the others are bare."""
FOLDERS = ("export", "eat hub", "avex beats", "avex eat", "avex efficientnet")
NUMBERS: list[Any] = [
    -1, 0, 0.5, 10**7, 10**12, 10**400, float("nan"), float("inf"), "12", "x" * 100, True, None,
    [], {}, [1, 2],
]  # fmt: skip


@pytest.fixture(scope="module")
def files(
    make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Family -> content of a torch file that loads."""
    folder = tmp_path_factory.mktemp("good") / "r"
    model = make_run(folder)
    run = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    torch.manual_seed(0)
    pictures = torchvision.models.efficientnet_b0(weights=None, num_classes=3)
    return {
        "run": run,
        "beats": {"cfg": microsoft_cfg(), "model": microsoft_names(model), "label_dict": None},
        "eat": {"cfg": cfg(), "model": fairseq()},
        "hubert": dict(published().state_dict()),
        "efficientnet": dict(pictures.state_dict()),
    }


def loads_or_is_refused(path: Path) -> str | None:
    """What is said of it, within a few seconds; None: it is loaded. Anything else is a failure."""
    started = time.monotonic()
    try:
        load_model(path)
    except CheckpointError as error:
        assert len(str(error)) < 5000
        return str(error)
    finally:
        assert time.monotonic() - started < 10
    return None


SPOILT: dict[str, Callable[[Tensor], Any]] = {
    "stretched": lambda t: torch.zeros(1).expand(10**9 // max(1, t[0:1].numel()), *t.shape[1:]),
    "sparse": lambda t: torch.sparse_coo_tensor([[0]], [1.0], (10**12,)),
    "meta": lambda t: torch.empty(t.shape, device="meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "complex": lambda t: t.to(torch.complex64),
    "whole": lambda t: t.long(),
    "truth": lambda t: t > 0,
    "not finite": lambda t: torch.full_like(t, float("nan")),
    "one number": lambda t: torch.tensor(1.0),
    "no number": lambda t: torch.zeros(0),
    "other shape": lambda t: torch.zeros(3, 1, 2, 1, 2),
    "text": lambda t: "weights",
    "nothing": lambda t: None,
    "list": lambda t: [t, t],
}


@pytest.mark.parametrize(
    ("family", "how"),
    [(family, how) for family in STATES for how in SPOILT]
    # They are judged alike; an EfficientNet is no small one.
    + [(family, how) for family in ("hubert", "efficientnet") for how in ("stretched", "text")],
)
def test_spoilt_tensors(
    family: str, how: str, tmp_path: Path, files: dict[str, dict[str, Any]]
) -> None:
    """Each of a few tensors of a file, those by which the family is known among them."""
    tensors = files[family].get(STATES.get(family, ""), files[family])
    needed = [k for k, t in tensors.items() if t.is_floating_point() and t.dim() > 1]
    if family == "run":
        needed = [k for k in needed if k.startswith("model.")]
    needed = [
        k for k in needed if not any(x in k for x in ("decoder", "relative_att", "classifier"))
    ]
    for number, name in enumerate(needed[:: len(needed) // 3]):
        content = copy.copy(files[family])
        state = {**tensors, name: SPOILT[how](tensors[name])}
        if family in STATES:
            content[STATES[family]] = state
        else:
            content = state
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        assert loads_or_is_refused(path) is not None, name


@pytest.mark.parametrize("family", FAMILIES[:-1])
def test_missing_keys(family: str, tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    tensors = files[family].get(STATES.get(family, ""), files[family])
    path = tmp_path / "x.pt"
    content = copy.copy(files[family])
    for name in list(tensors)[:: len(tensors) // 4]:
        state = {k: v for k, v in tensors.items() if k != name}
        if family in STATES:
            content[STATES[family]] = state
        else:
            content = state
        torch.save(content, path)
        loads_or_is_refused(path)
    for state in ({}, {1: torch.ones(1)}, [], "x", None):
        if family in STATES:
            torch.save({**files[family], STATES[family]: state}, path)
        else:
            torch.save(state, path)
        assert loads_or_is_refused(path) is not None


def numbers(tree: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values but tensors."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not isinstance(value, Tensor):
                yield (*where, key)
                yield from numbers(value, (*where, key))


def changed(tree: dict[str, Any], where: tuple[Any, ...], value: Any) -> dict[str, Any]:
    first, *rest = where
    return {**tree, first: changed(tree[first], tuple(rest), value) if rest else value}


@pytest.mark.parametrize("family", sorted(STATES))
def test_wrong_numbers(family: str, tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    content, path = files[family], tmp_path / "x.pt"
    for n, where in enumerate(numbers(content)):
        for value in NUMBERS[n % 8 :: 8]:
            torch.save(changed(content, where, value), path)
            loads_or_is_refused(path)


@pytest.mark.parametrize("kind", FOLDERS)
def test_wrong_numbers_in_folders(
    kind: str, tmp_path: Path, files: dict[str, dict[str, Any]], make_run: Callable[..., Any]
) -> None:
    """Exports, EAT's Hugging Face folder and avex's three families."""
    model = make_run(tmp_path / "r", labels=None)
    config = json.loads(json.dumps(files["run"]["dawnchorus"]["recipe"]["encoder"]))
    ours: dict[str, Any] = {
        "model_type": "dawnchorus", "encoder": config, "classification_head": True,
        "id2label": {"0": "a"}, "pooling": "mean",
    }  # fmt: skip
    spec: dict[str, Any] = {"name": "beats", "init_config": microsoft_cfg(), "audio_config": {}}
    effnet = {"name": "efficientnet", "efficientnet_variant": "b0", "audio_config": AUDIO}
    about, state = {
        "export": (ours, model.state_dict()),
        "eat hub": (HUB, hub()),
        "avex beats": (spec, state_to_avex(model.state_dict(), 2, head=False)),
        "avex eat": (SPEC, hub("backbone.")),
        "avex efficientnet": (effnet, {"model.features.0.0.weight": torch.ones(8, 3, 3, 3)}),
    }[kind]
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({k: t.contiguous() for k, t in state.items()}, folder / "model.safetensors")
    for n, where in enumerate(numbers(about)):
        for value in NUMBERS[n % 8 :: 8]:
            strange: Any = changed(about, where, value)
            if kind.startswith("avex"):
                text = yaml.safe_dump({"model_spec": strange})
                (folder / "train_config.yaml").write_text(text)
            else:
                (folder / "config.json").write_text(json.dumps(strange))
            loads_or_is_refused(folder)


@pytest.mark.parametrize("kind", ["bird mae", "xenomae", "its front end", "espnet"])
def test_wrong_numbers_of_the_mae_family_and_espnet(
    kind: str, tmp_path: Path, make_run: Callable[..., Any]
) -> None:
    about = {
        "bird mae": BIRD_MAE, "xenomae": XENOMAE, "its front end": XENOMAE_HEARS, "espnet": ESPNET,
    }[kind]  # fmt: skip
    folder = tmp_path / "folder"
    if kind == "espnet":
        state = espnet_names(make_run(tmp_path / "r", labels=None))
        path = espnet_file(folder, "whole", state, ESPNET)
        change = folder / "config.yaml"
    else:
        path = (bird_mae_folder if kind == "bird mae" else xenomae_folder)(folder)
        name = "preprocessor_config.json" if kind == "its front end" else "config.json"
        change = folder / name
    assert loads_or_is_refused(path) is None
    for n, where in enumerate(numbers(about)):
        for value in NUMBERS[n % 5 :: 5]:
            strange: Any = changed(about, where, value)
            if kind == "espnet":
                strange = {"encoder": "beats", "encoder_conf": {"beats_config": strange}}
            change.write_text(json.dumps(strange))
            loads_or_is_refused(path)


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_tensors_of_espnet(how: str, tmp_path: Path, make_run: Callable[..., Any]) -> None:
    state = espnet_names(make_run(tmp_path / "r", labels=None))
    name = "encoder.layers.0.fc1.weight"
    path = espnet_file(tmp_path / "e", "encoder", state | {name: SPOILT[how](state[name])}, ESPNET)
    assert loads_or_is_refused(path) is not None


def test_a_model_far_larger_than_its_file(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    """Said before the memory is taken: 100,000 layers would take minutes."""
    for number in ("encoder_layers", "encoder_ffn_embed_dim", "conv_pos"):
        content = changed(files["beats"], ("cfg", number), 99_999)
        torch.save(content, tmp_path / "x.pt")
        said = loads_or_is_refused(tmp_path / "x.pt")
        assert said is not None and ("parameters and holds" in said or "of another shape" in said)


def test_nests_and_loops(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    loop: dict[str, Any] = {"cfg": microsoft_cfg()}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    assert loads_or_is_refused(tmp_path / "loop.pt") is not None
    folder = tmp_path / "deep"
    folder.mkdir()
    text = '{"model_type": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (folder / "config.json").write_text(text)
    assert loads_or_is_refused(folder) is not None
    (folder / "config.json").unlink()
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    aliases = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    bomb = f"a0: &a0 [x, x]\n{aliases}\nmodel_spec: {{name: *a11}}\n"
    (folder / "train_config.yaml").write_text(bomb)
    assert "aliases" in str(loads_or_is_refused(folder))


def test_a_part_of_an_objective(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    """What a run learnt besides its encoder is a stranger's as well."""
    content = files["run"]
    spoilt = {"objective.tokenizer.codebook": torch.zeros(1).expand(10**9, 10**3)}
    for state in ({**content["state_dict"], **spoilt}, [], {3: torch.ones(1)}):
        torch.save({**content, "state_dict": state}, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError):
            read_part(tmp_path / "x.ckpt", "tokenizer")
    torch.save(content, tmp_path / "good.ckpt")
    assert set(read_part(tmp_path / "good.ckpt", "tokenizer")) == {"codebook"}


def test_all_of_them_load_as_they_are(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    for family, content in files.items():
        torch.save(content, tmp_path / f"{family}.pt")
        assert load_model(tmp_path / f"{family}.pt").model.sample_rate_hz == 16000
