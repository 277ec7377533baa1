"""Masked tokens whose targets an earlier run learnt, or Microsoft did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.recipes import contract_recipe
from safetensors.torch import load_file

from dawnchorus.slurm.estimate import estimate
from dawnchorus.trainer.checkpoints.checkpoint import load
from dawnchorus.trainer.errors import CheckpointError, ChorusError, RecipeError
from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.hub.objective_parts import read_part
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.masked_tokens import MaskedTokens
from dawnchorus.trainer.objectives.tokenizer_distillation import TokenizerDistillation
from dawnchorus.trainer.objectives.tokenizers.learned import LearnedTokenizer
from dawnchorus.trainer.recipe_data import missing_inputs
from dawnchorus.trainer.training.assembly import assemble
from dawnchorus.trainer.training.run import run

RELEASED = Path(__file__).parents[1] / "hub" / "fixtures"
CALM = ["encoder.dropout=0.1", "encoder.layer_drop=0.3"]


@pytest.fixture(scope="module")
def trained(tone_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished tokenizer run of an encoder: its folder."""
    folder = tmp_path_factory.mktemp("tokenizers")

    def train(encoder: str) -> Path:
        if not (folder / encoder).is_dir():
            recipe = contract_recipe(
                encoder, "tokenizer_distillation", f"runs={folder}", f"name={encoder}",
                "train.max_steps=2", data=tone_dataset,
            )  # fmt: skip
            run(recipe)
        return folder / encoder

    return train


def second_iteration(encoder: str, path: Path | str, *more: str, data: Path | None = None) -> Any:
    return contract_recipe(
        encoder, "masked_tokens", "objective.tokenizer.name=learned",
        f"objective.tokenizer.path={path}", "objective.tokenizer.codebook_size=16", *more,
        data=data,
    )  # fmt: skip


def features(model: Any) -> FeatureBatch:
    wav_BT = 0.1 * torch.randn(3, 32000, generator=torch.Generator().manual_seed(1))
    x, steps_B = model.frontend(wav_BT, torch.tensor([32000, 20000, 32000]))
    return FeatureBatch(x, steps_B, key_B=torch.arange(3))


@pytest.mark.parametrize("encoder", ["beats", "vit"])
def test_labels_are_the_codes_of_the_tokenizer_s_run(
    encoder: str, trained: Callable[[str], Path], tone_dataset: Path
) -> None:
    folder = trained(encoder)
    model, objective = assemble(second_iteration(encoder, folder))
    assert isinstance(objective, MaskedTokens)
    assert isinstance(objective.tokenizer, LearnedTokenizer)
    # The tokenizer's run as training left it, every tensor of it.
    recipe = contract_recipe(encoder, "tokenizer_distillation", data=tone_dataset)
    theirs, distilled = assemble(recipe)
    assert isinstance(distilled, TokenizerDistillation)
    state = load(folder / "checkpoints" / "last.ckpt")["state_dict"]
    theirs.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("model.")})
    distilled.load_state_dict({k[10:]: v for k, v in state.items() if k.startswith("objective.")})
    theirs.eval(), distilled.eval()
    batch = features(model)
    panels = distilled.look(batch, theirs)
    objective.train()
    code_BN = objective.tokenizer(batch.x, batch.steps_B)
    grid = model.encoder.grid(batch.x.shape[1])
    valid_BN = model.encoder.valid(batch.steps_B, grid)[:, grid.prefix :]
    for row, (codes, _) in enumerate(panels):
        assert code_BN[row, valid_BN[row]].tolist() == codes.code_N.tolist()
    assert len(code_BN[valid_BN].unique()) > 1
    # Each from the whole clip, whatever is masked; and nothing of it drops or learns.
    before = {name: t.clone() for name, t in objective.tokenizer.state_dict().items()}
    out = objective.step(batch, model)
    out.loss_sum.backward()
    assert all(torch.equal(t, before[k]) for k, t in objective.tokenizer.state_dict().items())
    assert all(p.grad is None for p in objective.tokenizer.parameters())
    with torch.no_grad():
        mask_BN = objective.inspect(batch, model.encoder)
    assert torch.equal(mask_BN["code_BN"], code_BN)
    few = "objective.tokenizer.codebook_size=16"
    plain = assemble(contract_recipe(encoder, "masked_tokens", few))[1]
    extra = objective.flops(model, grid) - plain.flops(model, grid) + plain.tokenizer.flops(grid)
    assert extra > model.encoder.clip_flops(grid)


def test_it_trains_continues_and_leaves_without_its_tokenizer(
    trained: Callable[[str], Path],
    tone_dataset: Path,
    tmp_path: Path,
    same_state: Callable[[Any, Any], bool],
) -> None:
    recipe = second_iteration(
        "beats", trained("beats"), f"runs={tmp_path}", "name=second", *CALM, data=tone_dataset
    )
    folder = run(recipe)
    checkpoints = folder / "checkpoints"
    straight = load(checkpoints / "step_000000004.ckpt")
    assert "objective.tokenizer.quantizer.codebook_VE" in straight["state_dict"]
    assert not any("tokenizer" in name for name in straight["dawnchorus"]["ema"])
    for name in ("step_000000004.ckpt", "last.ckpt", "best.ckpt"):
        (checkpoints / name).unlink()
    run(recipe)
    assert same_state(straight, load(checkpoints / "step_000000004.ckpt"))
    out = export(folder, tmp_path / "out", private=True)
    exported = load_file(out / "model.safetensors")
    assert not [name for name in exported if "tokenizer" in name or "quantizer" in name]
    # An export of a tokenizer's run is its encoder; its quantizer is in the run alone.
    other = export(trained("beats"), tmp_path / "other", private=True)
    with pytest.raises(CheckpointError, match=r"holds no quantizer.*Give the run folder"):
        read_part(other, "quantizer")


def test_encoder_and_quantizer_are_of_the_same_checkpoint(
    trained: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(trained("beats"), tmp_path / "run", symlinks=True)
    best = folder / "checkpoints" / "best.ckpt"
    content = load(folder / "checkpoints" / "last.ckpt")
    names = ("model.encoder.layer_norm.bias", "objective.quantizer.project.0.bias")
    for name in names:
        content["state_dict"][name] += 1.0
    best.unlink(missing_ok=True)
    torch.save(dict(content), best)
    _, objective = assemble(second_iteration("beats", folder))
    tokenizer = objective.tokenizer
    assert torch.equal(tokenizer.encoder.layer_norm.bias, content["state_dict"][names[0]])
    assert torch.equal(tokenizer.quantizer.project[0].bias, content["state_dict"][names[1]])


def test_what_does_not_fit_is_refused(
    trained: Callable[[str], Path], tone_dataset: Path, tmp_path: Path
) -> None:
    folder = trained("beats")

    def told(*more: str, path: Path = folder, encoder: str = "beats") -> str:
        with pytest.raises(ChorusError) as caught:
            assemble(second_iteration(encoder, path, *more))
        return str(caught.value)

    assert "codebook_size is 32" in (text := told("objective.tokenizer.codebook_size=32"))
    assert "set it to 16" in text
    assert "mel_std is 6.55582 there and 5.0 in encoder.mel_std" in told("encoder.mel_std=5.0")
    assert "objective.tokenizer.path" in told(encoder="vit")
    first = run(
        contract_recipe(
            "beats",
            "masked_tokens",
            f"runs={tmp_path}",
            "name=first",
            "train.max_steps=1",
            data=tone_dataset,
        )
    )
    assert "holds no quantizer" in told(path=first)
    spoilt = tmp_path / "spoilt.ckpt"
    for name, change in (
        ("codebook_VE", lambda t: t * 0.5), ("project.0.bias", lambda t: t + torch.nan),
        ("project.2.weight", lambda t: t[:3]),
    ):  # fmt: skip
        content = dict(load(folder / "checkpoints" / "last.ckpt"))
        key = f"objective.quantizer.{name}"
        content["state_dict"][key] = change(content["state_dict"][key]).clone()
        torch.save(content, spoilt)
        assert "objective.tokenizer.path" in told(path=spoilt), name
    with pytest.raises(RecipeError, match="path"):
        contract_recipe("beats", "masked_tokens", "objective.tokenizer.name=learned")


def test_what_is_not_there_is_missed_before_a_job_and_its_memory_is_counted(
    trained: Callable[[str], Path], tone_dataset: Path
) -> None:
    gone = second_iteration("beats", "runs/gone", data=tone_dataset)
    missed = [line for line in missing_inputs(gone) if "gone" in line]
    assert missed == ["objective.tokenizer.path: runs/gone does not exist"]
    assert missing_inputs(gone, later={"objective.tokenizer.path"}) == []
    there = second_iteration("beats", trained("beats"), data=tone_dataset)
    assert missing_inputs(there) == []
    few = "objective.tokenizer.codebook_size=16"
    plain = contract_recipe("beats", "masked_tokens", few, data=tone_dataset)
    more = estimate(there, 1).state_gb - estimate(plain, 1).state_gb
    assert more == pytest.approx(4e-9 * there.encoder.parameters)


# ------------------------------------------------------------------ Microsoft's


def released(path: Path | str = RELEASED / "tokenizer.pt", *more: str) -> Any:
    """A second iteration of a small BEATs with its codes."""
    return second_iteration("beats", path, "objective.tokenizer.codebook_size=48", *more)


def test_microsoft_s_tokenizer_gives_microsoft_s_codes() -> None:
    model, objective = assemble(released())
    known = load_file(RELEASED / "tokenizer_codes.safetensors")
    x, _ = model.frontend(known["wav"].float() / 32768)
    code_BN = objective.tokenizer(x)
    # Their log-mel and ours differ in the last digits, so a tie may fall either way.
    clear_BN = known["margin"] > 1e-3
    assert clear_BN.float().mean() > 0.9
    assert torch.equal(code_BN[clear_BN], known["code"].long()[clear_BN])
    assert (code_BN == known["code"]).float().mean() > 0.99
    assert len(code_BN.unique()) > 20
    loaded = load_model(RELEASED / "tokenizer.pt")
    assert loaded.kind == "microsoft" and "is a tokenizer" in loaded.weights.notes[0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c: c["model"].pop("quantize_layer.2.bias"), "quantize_layer.2.bias is missing"),
        (lambda c: c["model"].pop("quantize.embedding.weight"), "embedding.weight is missing"),
        (lambda c: c["model"].update({"quantize.x": torch.ones(1)}), "quantize.x is not known"),
        (lambda c: c["cfg"].update(quant_n=1024), r"\(48, 16\), by cfg it would be \(1024, 16\)"),
        (lambda c: c["cfg"].update(deep_norm=False), "deep_norm is False"),
        (lambda c: c["cfg"].update(encoder_layers=3), "do not fit"),
        (lambda c: c["model"]["quantize.embedding.weight"].zero_(), "was not trained"),
        (lambda c: c["model"]["quantize_layer.0.bias"].fill_(torch.nan), "NaN or infinity"),
        (lambda c: [c["model"].pop(k) for k in list(c["model"]) if k.startswith("quantize")],
         "holds no quantizer"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_tokenizer_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], told: str
) -> None:
    content = torch.load(RELEASED / "tokenizer.pt", weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=told):
        assemble(released(tmp_path / "odd.pt"))


def test_codes_of_another_front_end_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"mel_mean is 15.41663 there and 15.2913"):
        assemble(released(RELEASED / "tokenizer.pt", "encoder.mel_mean=15.2913"))
