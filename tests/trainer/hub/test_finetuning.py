"""The exported model in others' hands: trained with `Trainer`, in half precision, fed wrongly.

Shape legend: B clips, T samples, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.model import BioEncoder

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (extra: export)"
)

MakeRun = Callable[..., BioEncoder]
Load = Callable[..., Any]
SINGLE = {
    "problem_type": "single_label_classification", "num_labels": 5,
    "ignore_mismatched_sizes": True,
}  # fmt: skip
NO_DROPOUT = dict.fromkeys(
    ("dropout", "attention_dropout", "input_dropout", "layer_drop"), 0.0
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> Path:
    """A post-trained model of three labels."""
    root = tmp_path_factory.mktemp("with")
    make_run(root / "run", encoder=NO_DROPOUT)
    return export(root / "run", root / "out")


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> Path:
    """A model that was pre-trained only."""
    root = tmp_path_factory.mktemp("without")
    make_run(root / "run", labels=None)
    return export(root / "run", root / "out")


def load(folder: Path, **options: Any) -> Any:
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, **options)


def sound(clips: int = 4, samples: int = 9000) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))


# --------------------------------------------------------------------------- labels


def test_the_loss_is_that_of_training(folder: Path) -> None:
    model, wav_BT = load(folder), sound()
    assert model(wav_BT).loss is None
    target_BC = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]])
    out = model(wav_BT, labels=target_BC)
    p_BC = out.logits.double().sigmoid()
    by_hand = -(target_BC * p_BC.log() + (1 - target_BC) * (1 - p_BC).log()).mean()
    assert out.loss.item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert torch.equal(model(wav_BT, labels=target_BC, return_dict=False)[0], out.loss)


@pytest.mark.parametrize("pooling", ["mean_std", "mean_std_max"])
def test_a_head_on_more_than_the_mean_is_exported_with_its_pooling(
    tmp_path: Path, make_run: MakeRun, pooling: Any
) -> None:
    ours = make_run(tmp_path / "run", encoder=NO_DROPOUT, pooling=pooling)
    out = export(tmp_path / "run", tmp_path / "out")
    wav_BT, lengths = sound(), torch.tensor([9000, 7000, 5000, 9000])
    with torch.no_grad():
        expected = ours.logits(wav_BT, lengths)
        theirs = load(out).eval()(wav_BT, lengths=lengths)
        again = load_model(out).model
        torch.testing.assert_close(theirs.logits, expected)
        torch.testing.assert_close(again.logits(wav_BT, lengths), expected)
    assert again.pooling == pooling and theirs.pooler_output.shape[1] == ours.encoder.config.dim


def test_single_label_problems_take_class_numbers_or_shares(folder: Path) -> None:
    model, wav_BT = load(folder, **SINGLE).eval(), sound()
    number_B = torch.tensor([4, 0, 2, 2])
    out = model(wav_BT, labels=number_B)
    log_p_BC = out.logits.log_softmax(1)
    assert out.loss.item() == pytest.approx(-log_p_BC[range(4), number_B].mean().item(), abs=1e-6)
    one_hot_BC = F.one_hot(number_B, 5)
    torch.testing.assert_close(model(wav_BT, labels=one_hot_BC).loss, out.loss)
    one_hot_BC[0, 1] = 1
    shares = -(log_p_BC[0, [1, 4]].mean() + log_p_BC[range(1, 4), number_B[1:]].sum()) / 4
    assert model(wav_BT, labels=one_hot_BC).loss.item() == pytest.approx(shares.item(), abs=1e-6)


def test_labels_that_the_head_cannot_have_are_refused(folder: Path, headless: Path) -> None:
    model, wav_BT = load(folder), sound()
    for labels in (torch.tensor([0, 1, 2, 0]), torch.zeros(4, 5), torch.zeros(3, 3)):
        with pytest.raises(
            ValueError, match=r"multi_label_classification takes \[clips, classes\]"
        ):
            model(wav_BT, labels=labels)
    with pytest.raises(ValueError, match="this model has none: load it with"):
        load(headless)(wav_BT, labels=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="problem_type='regression'"):
        load(folder, problem_type="regression")(wav_BT, labels=torch.zeros(4, 3))


# --------------------------------------------------------------------------- Trainer


@pytest.mark.parametrize("kind", ["multi", "single"])
def test_trainer(kind: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed (extra: dev)")
    model = load(folder, **(SINGLE if kind == "single" else {}))
    classes = model.config.num_labels
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = [torch.tensor(i % classes) for i in range(8)]
    clips = [
        {"input_values": wav_T, "lengths": torch.tensor(9000 - 100 * i), "labels": label}
        for i, (wav_T, label) in enumerate(
            zip(
                sound(8),
                numbers if kind == "single" else [F.one_hot(n, classes) for n in numbers],
                strict=True,
            )
        )
    ]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            tmp_path, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2,
            gradient_checkpointing=True, use_cpu=True, report_to=[], save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=clips, eval_dataset=clips,
        compute_metrics=lambda seen: {"classes": seen.predictions.shape[1]},
    )  # fmt: skip
    earlier = trainer.evaluate()
    assert earlier["eval_classes"] == classes
    assert trainer.train().global_step == 2
    assert trainer.evaluate()["eval_loss"] < earlier["eval_loss"]
    assert model.is_gradient_checkpointing
    after = model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"frontend.window_W", "frontend.mel_SF"}


def test_recomputed_layers_have_the_same_gradients(folder: Path) -> None:
    gradients = []
    for recompute in (False, True):
        model = load(folder).train()
        if recompute:
            model.gradient_checkpointing_enable()
        model(sound(), labels=torch.eye(4, 3)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    model._set_gradient_checkpointing(False)
    assert not model.encoder.encoder.grad_checkpoint


# --------------------------------------------------------------------------- a head without weights


def test_a_head_without_weights_is_refused_unless_asked_for(
    folder: Path, headless: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing head\.weight.*ignore_mismatched_sizes=True"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"missing head\.bias, missing head\.weight"):
        load(headless, classification_head=True, num_labels=4)
    fresh = load(headless, classification_head=True, num_labels=4, ignore_mismatched_sizes=True)
    assert fresh(sound()).logits.shape == (4, 4)
    assert fresh.head.bias.abs().max() == 0


# --------------------------------------------------------------------------- precision and scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casting_a_loaded_model_leaves_the_front_end(folder: Path, dtype: torch.dtype) -> None:
    wav_BT = sound()
    whole, half = load(folder), load(folder).to(dtype)
    assert half.encoder.patch_embedding.weight.dtype == dtype
    assert torch.equal(half.frontend(wav_BT)[0], whole.frontend(wav_BT)[0])
    with torch.no_grad():
        difference = half(wav_BT).pooler_output - whole(wav_BT).pooler_output
    assert difference.abs().max() < 0.05


def test_16_bit_integers_are_scaled(folder: Path) -> None:
    model = load(folder)
    pcm_BT = (sound() * 32768).round().to(torch.int16)
    assert torch.equal(model(pcm_BT).pooler_output, model(pcm_BT.float() / 32768).pooler_output)


@pytest.mark.parametrize(
    ("wav_BT", "message"),
    [
        (sound() * 32768, "divide 16-bit samples by 32768"),
        ((sound() * 2**31).to(torch.int32), "float in .* or 16-bit integers"),
        (torch.zeros(2, 0), "without samples"),
        (torch.zeros(0, 100), "not .0, 100."),
    ],
)
def test_sound_that_is_none_is_refused(wav_BT: Tensor, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder)(wav_BT)


def test_clips_without_sound_are_refused(folder: Path) -> None:
    model, wav_BT = load(folder), sound(2)
    with pytest.raises(ValueError, match="lengths from 0 to 9000"):
        model(wav_BT, lengths=torch.tensor([9000, 0]))
    with pytest.raises(ValueError, match="lengths from 0 to 0"):
        model(wav_BT, attention_mask=torch.zeros(2, 9000))
    with pytest.raises(ValueError, match="to 9001 samples in a batch of 9000"):
        model(wav_BT, lengths=torch.tensor([9000, 9001]))
    with pytest.raises(ValueError, match="give one each"):
        model(wav_BT, lengths=torch.tensor([9000]))


def test_what_is_no_batch_of_sound_is_refused(folder: Path) -> None:
    model, wav_BT = load(folder), sound(2)
    for mask_BT in (torch.ones(2, 100), torch.ones(1, 9000), torch.ones(2)):
        with pytest.raises(ValueError, match=r"attention_mask of shape .* one value for each"):
            model(wav_BT, attention_mask=mask_BT)
    with pytest.raises(ValueError, match=r"are a ndarray: give a tensor \[clips, samples\]"):
        model(wav_BT.numpy())
    with pytest.raises(ValueError, match="are a list"):
        model(wav_BT.tolist())


# --------------------------------------------------------------------------- saved again, and long


def test_saved_again_it_keeps_card_licence_and_preprocessor(folder: Path, tmp_path: Path) -> None:
    kept = ("README.md", "LICENSE", "preprocessor_config.json", "data.json")
    load(folder).save_pretrained(tmp_path / "same")
    for name in kept:
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "same")
    assert extractor.sampling_rate == 16000
    # Again from there; what lies at the place stays; a trained model's card says so.
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/LICENSE").write_text("mine")
    load(tmp_path / "same").train().save_pretrained(tmp_path / "trained")
    assert (tmp_path / "trained/LICENSE").read_text() == "mine"
    card = (tmp_path / "trained/README.md").read_text()
    note = "\n**These weights were trained further.** What follows describes the model that this began with.\n"  # noqa: E501
    assert card.replace(note, "") == (folder / "README.md").read_text()
    assert card.startswith("---\n") and card.split("---\n", 2)[2].startswith(note)


def test_long_clips_get_a_warning(folder: Path) -> None:
    model = load(folder)
    seen: list[str] = []
    logger = transformers.logging.get_logger(type(model).__module__)
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    with torch.no_grad():
        model(torch.zeros(1, 59 * 16000))
        assert seen == []
        model(torch.zeros(1, 61 * 16000))
        model(torch.zeros(1, 61 * 16000))
    logger.removeHandler(handler)
    assert (
        len(seen) == 1
        and "61 s have 3,048 tokens. Attention over them needs about 0.1 GB" in seen[0]
    )
