"""Masked prediction of units against a second implementation, its spans, its units.

Shape legend: B clips, T samples, N tokens, V units.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from dawnchorus.trainer.encoders.base import Grid
from dawnchorus.trainer.encoders.hubert import Hubert
from dawnchorus.trainer.encoders.hubert_config import HubertConfig
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.base import Context, FeatureBatch
from dawnchorus.trainer.objectives.masked_units import MaskedUnits, cover_spans
from dawnchorus.trainer.objectives.masked_units_config import MaskedUnitsConfig, UnitsConfig
from dawnchorus.trainer.objectives.units import Mfcc
from dawnchorus.trainer.panels import TokenPanel
from dawnchorus.trainer.recipe import load_recipe

TINY: dict[str, Any] = {
    "layers": 2, "dim": 32, "ffn_dim": 48, "heads": 2, "conv_dim": 16, "conv_pos": 16,
    "conv_pos_groups": 4, "dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0,
    "layer_drop": 0.0,
}  # fmt: skip
LENGTHS = (9600, 6000, 4000, 400)


@dataclass
class Plain:
    """A model, as an objective sees it."""

    encoder: Hubert
    head: None = None
    labels: None = None


@pytest.fixture
def model() -> Plain:
    return Plain(Hubert(HubertConfig(**TINY)))


def batch(seed: int = 0) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed)
    steps_B = torch.tensor(LENGTHS)
    wav_BT = 0.1 * torch.randn(len(LENGTHS), max(LENGTHS), generator=generator)
    wav_BT = wav_BT * torch.linspace(0.1, 1, wav_BT.shape[1])
    wav_BT[torch.arange(wav_BT.shape[1]) >= steps_B[:, None]] = 0.0
    key_B = torch.randint(2**62, steps_B.shape, generator=generator)
    return FeatureBatch(wav_BT, steps_B, key_B=key_B)


def objective(model: Plain, **changes: Any) -> MaskedUnits:
    config = MaskedUnitsConfig(units=UnitsConfig(codes=6), width=8, **changes)
    made = MaskedUnits.build(config, model, Context())
    made.prepare(model, [batch()])
    return made


def part(whole: FeatureBatch, row: int) -> FeatureBatch:
    steps = int(whole.steps_B[row])
    assert whole.key_B is not None
    at = slice(row, row + 1)
    return FeatureBatch(whole.x[at, :steps], whole.steps_B[at], key_B=whole.key_B[at])


# ------------------------------------------------------------------ the loss


def second_implementation(made: MaskedUnits, model: Plain, whole: FeatureBatch) -> Tensor:
    """HuBERT's loss as its paper and torchaudio's recipe write it, clip by clip and token by token.

    Spans and units are taken from the objective: the formula of the loss is what is compared.
    """
    encoder, total = model.encoder, torch.zeros(())
    for row in range(len(whole.steps_B)):
        clip = part(whole, row)
        stem_1NC, _ = encoder.feature_extractor(clip.x, None)  # torchaudio's own, unpadded
        token_1ND = encoder.encoder.feature_projection(stem_1NC)
        tokens = token_1ND.shape[1]
        valid_1N = torch.ones(1, tokens, dtype=torch.bool)
        cover_1N = cover_spans(valid_1N, 0.8, 10, clip.keys())
        hidden = [n for n in range(tokens) if cover_1N[0, n]]
        rows = [made.cover_D if n in hidden else token_1ND[0, n] for n in range(tokens)]
        out_ND = encoder.encoder.transformer(torch.stack(rows)[None])[0]
        unit_1N = made.clusters(made.features(clip.x, clip.steps_B, encoder.grid(clip.x.shape[1])))
        for n in range(tokens):
            h_E = made.project.weight @ out_ND[n] + made.project.bias
            cosine_V = torch.stack([h_E @ e_E / (h_E.norm() * e_E.norm()) for e_E in made.unit_VE])
            nll = (cosine_V / 0.1).logsumexp(0) - cosine_V[unit_1N[0, n]] / 0.1
            total = total + (nll if n in hidden else made.config.unmasked_weight * nll)
        total = total + made.config.stem_penalty * stem_1NC.square().mean() * len(hidden)
    return total


def test_loss_and_gradients_are_those_of_a_second_implementation(model: Plain) -> None:
    made = objective(model, unmasked_weight=0.3)
    other, theirs = copy.deepcopy((made, model))
    whole = batch()
    out = made.step(whole, model)
    expected = second_implementation(other, theirs, whole)
    torch.testing.assert_close(out.loss_sum, expected, rtol=1e-5, atol=1e-4)
    (out.loss_sum / out.count).backward()
    (expected / out.count).backward()
    for ours, reference in ((made, other), (model.encoder, theirs.encoder)):
        for (name, mine), his in zip(ours.named_parameters(), reference.parameters(), strict=True):
            assert mine.grad is not None and his.grad is not None, name
            torch.testing.assert_close(mine.grad, his.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_micro_batches_add_up_and_padding_rows_do_not_count(model: Plain) -> None:
    made, whole = objective(model), batch()
    with torch.no_grad():
        out = made.step(whole, model)
        alone = [made.step(part(whole, row), model) for row in range(len(LENGTHS))]
        whole.real_B = torch.tensor([True, False, True, False])
        some = made.step(whole, model)
    total = sum(float(x.loss_sum) for x in alone)
    assert float(out.loss_sum) == pytest.approx(total, rel=1e-5)
    assert int(out.count) == sum(int(x.count) for x in alone)
    assert float(some.loss_sum) == pytest.approx(
        float(alone[0].loss_sum + alone[2].loss_sum), rel=1e-5
    )
    for name in ("masked_accuracy", "unigram_nll"):
        assert float(out.logs[name][0]) == pytest.approx(
            sum(float(x.logs[name][0]) for x in alone), rel=1e-5
        )


def test_it_learns(model: Plain) -> None:
    """Units that a frame of sound tells are found behind hidden tokens too where sound is slow."""
    made = objective(model)
    time = torch.arange(8000) / 16000
    pitch_B = torch.tensor([200.0, 600.0, 1500.0, 4000.0])
    wav_BT = 0.3 * (2 * torch.pi * pitch_B[:, None] * time).sin()
    whole = FeatureBatch(wav_BT, torch.full((4,), 8000), key_B=torch.arange(4))
    made.prepare(model, [whole])
    optimizer = torch.optim.Adam([*model.encoder.parameters(), *made.parameters()], 3e-3)
    losses = []
    for _ in range(40):
        out = made.step(whole, model)
        loss = out.loss_sum / out.count
        losses.append(float(out.logs["masked_nll"][0] / out.count))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = float(out.logs["unigram_nll"][0] / out.count)
    assert losses[-1] < 0.7 * floor, (losses[::8], floor)


# ------------------------------------------------------------------ the spans


def test_spans() -> None:
    valid_BN = torch.arange(500) < torch.tensor([[500]] * 200 + [[37]] * 50 + [[3]] * 50 + [[1]])
    key_B = torch.randint(2**62, (len(valid_BN),))
    cover_BN = cover_spans(valid_BN, 0.8, 10, key_B)
    assert not (cover_BN & ~valid_BN).any() and bool(cover_BN.any(1).all())
    # 40 spans of 10 among 491 places without replacement: a token is hidden unless none of the ten
    # places before it is chosen.
    share = 1 - torch.tensor([1 - 40 / (491 - i) for i in range(10)]).prod()
    assert float(cover_BN[:200, 20:480].float().mean()) == pytest.approx(float(share), abs=0.01)
    runs = [
        len(run) for row in cover_BN[:200].tolist()
        for run in "".join(".x"[hidden] for hidden in row).split(".") if run
    ]  # fmt: skip
    assert min(runs) >= 10
    assert bool((valid_BN & ~cover_BN)[200:250].any(1).all())
    again = cover_spans(valid_BN[5:6, :500], 0.8, 10, key_B[5:6])
    assert torch.equal(again, cover_BN[5:6])
    short = cover_spans(valid_BN[210:211, :37], 0.8, 10, key_B[210:211])
    assert torch.equal(short, cover_BN[210:211, :37])


# ------------------------------------------------------------------ the units


def test_mfcc_are_kaldi_s_and_a_padded_clip_s_those_it_has_alone() -> None:
    whole, grid = batch(), Hubert(HubertConfig(**TINY)).grid(max(LENGTHS))
    found_BND = Mfcc(16000)(whole.x, whole.steps_B, grid)
    for row, samples in enumerate(LENGTHS[:3]):
        wav_1T = whole.x[row : row + 1, :samples]
        mfcc_CT = kaldi.mfcc(wav_1T * 2**15, sample_frequency=16000).T
        first_CT = compute_deltas(mfcc_CT)
        theirs_TD = torch.cat([mfcc_CT, first_CT, compute_deltas(first_CT)]).T[::2]
        tokens = (samples - 400) // 320 + 1
        torch.testing.assert_close(found_BND[row, :tokens], theirs_TD[:tokens], atol=2e-3, rtol=0)


def test_units_are_found_again_and_kept(model: Plain) -> None:
    made, again = objective(model), objective(model)
    assert torch.equal(made.clusters.centre_VD, again.clusters.centre_VD)
    other = MaskedUnits.build(made.config, model, Context())
    other.load_state_dict(made.state_dict())
    grid = model.encoder.grid(max(LENGTHS))
    whole = batch(1)
    assert torch.equal(other._units(whole, grid), made._units(whole, grid))
    # By hand: the nearest centre.
    feature_BND = made.features(whole.x, whole.steps_B, grid)
    distance_BNV = torch.cdist(feature_BND, made.clusters.centre_VD[None])
    assert torch.equal(made._units(whole, grid), distance_BNV.argmin(-1))
    figures = made.prepare(model, [whole])
    assert figures["codes_used"] == 6 and figures["perplexity"] > 2
    assert float(made.share_V.sum()) == pytest.approx(1.0)
    with pytest.raises(RecipeError, match=r"objective.units.codes=6: .* too few"):
        made.prepare(model, [part(whole, 3)])


def test_a_layer_of_an_earlier_encoder(model: Plain) -> None:
    teacher = Hubert(HubertConfig(**TINY | {"layers": 3, "dropout": 0.5}))
    config = MaskedUnitsConfig(units=UnitsConfig(codes=6, path="runs/x", layer=2), width=8)
    context = Context(load_encoder=lambda path: teacher)
    made = MaskedUnits.build(config, model, context)
    made.train()
    whole = batch()
    made.prepare(model, [whole])
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    out = made.step(whole, model)
    assert torch.equal(made.step(whole, model).loss_sum, out.loss_sum)  # the teacher drops nothing
    out.loss_sum.backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    grid = model.encoder.grid(max(LENGTHS))
    with torch.no_grad():
        layers = teacher.eval()(whole.x, whole.steps_B, layers=True).layers
    assert layers is not None
    assert torch.equal(made._units(whole, grid), made.clusters(layers[2]))
    far = MaskedUnitsConfig(units=UnitsConfig(codes=6, path="runs/x", layer=4))
    with pytest.raises(RecipeError, match=r"objective.units.layer=4.*has 3"):
        MaskedUnits.build(far, model, context)
    model.encoder.config = HubertConfig(**TINY | {"sample_rate_hz": 32000})
    with pytest.raises(RecipeError, match="hears something else"):
        MaskedUnits.build(config, model, context)


def test_what_people_look_at(model: Plain) -> None:
    made, whole = objective(model), batch()
    panels = made.look(whole, model)
    for row, samples in enumerate(LENGTHS):
        (panel,) = panels[row]
        assert isinstance(panel, TokenPanel)
        assert panel.times == (samples - 400) // 320 + 1 and panel.token_s == pytest.approx(0.02)
        assert panel.mask_N is not None and panel.mask_N.any()


def test_costs(model: Plain) -> None:
    made = objective(model)
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert made.config.parameters(model.encoder.config, 0) == trained
    grid = Grid(49, token_s=0.02)
    assert made.flops(model, grid) > 3 * model.encoder.clip_flops(grid)


def test_other_encoders_are_refused_with_the_reason(tmp_path: Path) -> None:
    data = f"data.train.main.path={tmp_path}"
    with pytest.raises(RecipeError, match=r"hides spans.*BEATs.*cannot"):
        load_recipe("ssl_beats_tiny", ["objective=masked_units", data])
    assert load_recipe("ssl_hubert_tiny", [data]).objective.name == "masked_units"
