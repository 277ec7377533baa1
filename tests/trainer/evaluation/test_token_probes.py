"""Probes on tokens: their formulas spelled out, what they find, padding, memory, real encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.evaluation.benchmark import evaluate
from dawnchorus.trainer.evaluation.config import load_config
from dawnchorus.trainer.evaluation.probes import token_fitting
from dawnchorus.trainer.evaluation.probes.attentive import LayerAttention, OneQuery
from dawnchorus.trainer.evaluation.probes.attentive_config import (
    AttentiveConfig,
    AttentiveLayersConfig,
)
from dawnchorus.trainer.evaluation.probes.base import ProbeResult
from dawnchorus.trainer.evaluation.probes.fitting import Job, job_seed
from dawnchorus.trainer.evaluation.probes.linear import Linear
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.probes.prototypes import LayerPrototypes, greatest_cosine
from dawnchorus.trainer.evaluation.probes.prototypes_config import PrototypesConfig
from dawnchorus.trainer.evaluation.splits import Fold
from dawnchorus.trainer.evaluation.tokens import TokenShape, TokenSource
from dawnchorus.trainer.registry import PROBES

L, T, D, C = 3, 14, 16, 4


class Table(TokenSource):
    """Tokens in memory."""

    def __init__(self, tok_NLTD: Tensor, count_N: Tensor, prefix: int = 0) -> None:
        clips, layers, tokens, dim = tok_NLTD.shape
        self.tokens, self.count = tok_NLTD, count_N
        self.shape = TokenShape(clips, layers, tokens, dim, (dim,) * layers, prefix)

    def read(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        counts = self.count[rows]
        longest = int(counts.max())
        valid = torch.arange(longest) < counts[:, None]
        tokens = self.tokens[rows, :, :longest].masked_fill(~valid[:, None, :, None], 0)
        return tokens.half(), valid


def hidden_call(clips: int = 120, prefix: int = 0, seed: int = 0) -> tuple[Table, Any]:
    """In each clip one short token pattern tells the class, somewhere, in layer 1 only, and the
    opposite pattern stands beside it: the mean of the tokens says nothing.
    """
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(clips) % C
    tokens = torch.randn(clips, L, T, D, generator=draw)
    count = torch.randint(9, T + 1, (clips,), generator=draw)
    call = torch.randn(C, D, generator=torch.Generator().manual_seed(9)) * 3
    for n in range(clips):
        place = prefix + int(torch.randint(0, 8 - prefix, (1,), generator=draw))
        tokens[n, 1, place] = call[truth[n]]
        tokens[n, 1, place + 1] = -call[truth[n]]
    return Table(tokens, count, prefix), np.eye(C, dtype=bool)[truth.numpy()]


def split(clips: int = 120, valid: int = 24) -> Fold:
    order = np.random.default_rng(5).permutation(clips)
    return Fold("a", order[40 + valid :], order[40 : 40 + valid], order[:40])


QUICK: dict[str, Any] = {
    "attentive_layers": AttentiveLayersConfig(
        learning_rate=1e-2, epochs=14, warmup_epochs=1, dropout=0.1
    ),
    "prototypes": PrototypesConfig(steps=120, batch_size=32, learning_rate=0.02, per_class=3),
}


def measured(config: Any, source: Any, hot: Any, fold: Fold, **options: Any) -> ProbeResult:
    probe = PROBES.thing(config.name)(config)
    return probe.measure(source, hot, [fold], **({"multi_label": False} | options))


@pytest.fixture(params=[0, 1], ids=["no CLS", "CLS"])
def prefix(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# ------------------------------------------------------------------ formulas


def batch(prefix: int) -> tuple[Tensor, Tensor, TokenShape]:
    source, _ = hidden_call(6, prefix)
    tokens, valid = source.read(np.arange(6))
    assert not valid.all()
    return tokens.float(), valid, source.shape


def test_one_query_attends_as_written_down(prefix: int) -> None:
    tokens, valid, shape = batch(prefix)
    torch.manual_seed(0)
    module = OneQuery(shape, C, AttentiveConfig(heads=12)).eval()
    assert module.heads == 8  # the greatest below 12 that divides 16
    for b in range(len(tokens)):
        x = tokens[b, -1, prefix:][valid[b, prefix:]]
        keys, values = x @ module.key.weight.T, x @ module.value.weight.T
        found = []
        for h in range(8):
            part = slice(2 * h, 2 * h + 2)
            share = (keys[:, part] @ module.query_D[part] / 2**0.5).softmax(0)
            found.append(share @ values[:, part])
        expected = module.classifier(module.norm(torch.cat(found)))
        logit = module(tokens[b : b + 1], valid[b : b + 1])[0]
        torch.testing.assert_close(logit, expected, atol=1e-5, rtol=1e-5)


def test_layer_attention_is_torchs_multihead_attention() -> None:
    tokens, valid, shape = batch(0)
    torch.manual_seed(0)
    module = LayerAttention(shape, C, AttentiveLayersConfig()).eval()
    with torch.no_grad():
        module.mix_L.copy_(torch.tensor([0.3, 1.0, -0.5]))
        for bias in (module.qkv.bias, module.out.bias):
            bias.normal_()
    theirs = nn.MultiheadAttention(D, 8, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(module.qkv.weight)
        theirs.in_proj_bias.copy_(module.qkv.bias)
        theirs.out_proj.weight.copy_(module.out.weight)
        theirs.out_proj.bias.copy_(module.out.bias)
    mixed = torch.einsum("l,bltd->btd", module.mix_L.softmax(0), tokens)
    found, _ = theirs(mixed, mixed, mixed, key_padding_mask=~valid)
    after = module.norm(mixed + found)
    mean = torch.stack([after[b][valid[b]].mean(0) for b in range(len(after))])
    torch.testing.assert_close(module(tokens, valid), module.classifier(mean), atol=1e-5, rtol=1e-5)


def naive_cosine(tokens: Tensor, valid: Tensor, prototypes: Tensor) -> Tensor:
    cos = F.cosine_similarity(tokens[:, :, None], prototypes[None, None], dim=-1)
    return cos.masked_fill(~valid[..., None], -2.0).amax(1)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_greatest_cosine_and_its_gradients_do_not_depend_on_chunks(chunk: int) -> None:
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randn(3, 7, D, generator=draw, dtype=torch.float64)
    prototypes = torch.randn(13, D, generator=draw, dtype=torch.float64)
    valid = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    weight = torch.randn(3, 13, generator=draw, dtype=torch.float64)
    grads = []
    for function in (lambda t, p: greatest_cosine(t, valid, p, chunk),
                     lambda t, p: naive_cosine(t, valid, p)):  # fmt: skip
        t, p = tokens.clone().requires_grad_(), prototypes.clone().requires_grad_()
        found = function(t, p)
        (found * weight).sum().backward()
        grads.append((found.detach(), t.grad, p.grad))
    for ours, naive in zip(*grads, strict=True):
        torch.testing.assert_close(ours, naive, atol=1e-12, rtol=1e-10)


def test_prototypes_as_written_down(prefix: int) -> None:
    """y_c = sum_k W_ck max_n cos(z_n, v_ck) + b_c; z_n = h_n - h_CLS (or less the mean)."""
    tokens, valid, shape = batch(prefix)
    torch.manual_seed(0)
    module = LayerPrototypes(shape, C, PrototypesConfig(per_class=3, chunk=5))
    with torch.no_grad():
        for parameter in (module.mix_L, module.gain_LD, module.shift_LD):
            parameter.add_(torch.randn_like(parameter))
    for b in range(len(tokens)):
        x = tokens[b][:, valid[b]]
        normed = F.layer_norm(x, (D,)) * module.gain_LD[:, None] + module.shift_LD[:, None]
        h = torch.einsum("l,ltd->td", module.mix_L.softmax(0), normed)
        z = h[1:] - h[0] if prefix else h - h.mean(0)
        expected = []
        for c in range(C):
            alike = [
                max(F.cosine_similarity(z_n, v, dim=0) for z_n in z)
                for v in module.proto_PD[3 * c : 3 * c + 3]
            ]
            expected.append(module.mixer_CK[c] @ torch.stack(alike) + module.bias_C[c])
        logit = module(tokens[b : b + 1], valid[b : b + 1])[0]
        torch.testing.assert_close(logit, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["attentive", "attentive_layers", "prototypes"])
def test_padding_and_neighbours_change_nothing(kind: str, prefix: int) -> None:
    tokens, valid, shape = batch(prefix)
    torch.manual_seed(0)
    config = PROBES.config(kind)()
    module = PROBES.thing(kind)(config).build(shape, C).eval()  # type: ignore[attr-defined]
    together = module(tokens, valid)
    for b in range(len(tokens)):
        own = int(valid[b].sum())
        alone = module(tokens[b : b + 1, :, :own], valid[b : b + 1, :own])
        torch.testing.assert_close(together[b], alone[0], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ fitting


@pytest.mark.parametrize("kind", [*QUICK, "attentive"])
def test_a_call_that_the_mean_does_not_show_is_found(kind: str, prefix: int) -> None:
    source, hot = hidden_call(240, prefix)
    fold = split(240)
    if kind == "attentive":
        config: Any = AttentiveConfig(learning_rate=1e-2, epochs=40)
        # It reads one layer: here the one that knows.
        source = Table(source.tokens[:, 1:2], source.count, prefix)
    else:
        config = QUICK[kind]
    result = measured(config, source, hot, fold)
    tokens, valid = source.read(np.arange(240))
    mean = torch.einsum("nltd,nt->nld", tokens.float(), valid.float()) / valid.sum(1)[:, None, None]
    linear = LinearConfig(epochs=60, learning_rate=1e-2)
    by_mean = Linear(linear).measure(mean.numpy(), hot, [fold], multi_label=False)
    assert by_mean.test_SF.mean() < 0.6
    assert result.test_SF.mean() > 0.7
    assert (result.epoch_SF is not None) and (result.epoch_SF > 0).all()
    if kind != "attentive":
        assert result.layer_weights is not None and np.argmax(result.layer_weights) == 1


def test_a_fit_is_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed, spelled out: the same start, order, schedule and choice of the epoch."""
    source, hot = hidden_call(60)
    fold = split(60, 12)
    fold = Fold("a", fold.train, fold.valid, fold.test[:8])
    config = AttentiveConfig(epochs=4, batch_size=5, warmup_epochs=1, learning_rate=3e-3)
    monkeypatch.setattr(token_fitting, "PORTION_BYTES", 2 * 4 * L * T * D)  # 2 clips at a time
    result = measured(config, source, hot, fold)
    seed = job_seed(Job(0, 2, fold.train, fold.valid))
    torch.manual_seed(seed)
    module = OneQuery(source.shape, C, config)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=3e-4)
    truth = torch.from_numpy(hot.argmax(1))
    best, step, steps = (-1.0, 0.0, 0, 0.0), 0, 2
    assert -(-len(fold.train) // 5) == steps
    for epoch in range(1, 5):
        order = fold.train[torch.randperm(len(fold.train), generator=generator).numpy()]
        for rows in (order[:5], order[5:]):
            turn = np.pi * (step - steps) / (4 * steps - steps)
            rate = 3e-3 * ((step + 1) / 2 if step < 2 else 0.01 + 0.99 * (1 + np.cos(turn)) / 2)
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            tokens, valid = source.read(rows)
            F.cross_entropy(module(tokens.float(), valid), truth[rows]).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 2.0)
            optimiser.step()
            step += 1
        with torch.no_grad():
            tokens, valid = source.read(np.arange(60))
            logit = module(tokens.float(), valid)
        right = (logit.argmax(1) == truth).double().numpy()
        loss = F.cross_entropy(logit[fold.valid], truth[fold.valid]).item()
        now = (right[fold.valid].mean(), -loss, epoch, right[fold.test].mean())
        best = max(best, now)
    assert result.valid_SF[2, 0] == pytest.approx(best[0])
    assert result.epoch_SF is not None and result.epoch_SF[2, 0] == best[2]
    assert result.test_SF[2, 0] == pytest.approx(best[3])


def test_figures_follow_from_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    source, hot = hidden_call(80)
    hot |= np.roll(hot, 1, axis=1) & (np.arange(80) % 3 == 0)[:, None]
    fold, config = split(80), AttentiveLayersConfig(epochs=2, warmup_epochs=0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = measured(config, source, hot, fold, multi_label=True)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = measured(config, source, hot, fold, multi_label=True)
    assert first.score_SNC is not None and second.score_SNC is not None
    np.testing.assert_array_equal(first.score_SNC, second.score_SNC)
    assert (first.score_SNC[0] != first.score_SNC[1]).any() and first.noise_floor is not None
    # Without dropout, how many clips go through at once changes rounding only.
    config = PrototypesConfig(steps=6, batch_size=16, per_class=2)
    whole = measured(config, source, hot, fold, multi_label=True)
    monkeypatch.setattr(token_fitting, "PORTION_BYTES", 4 * 4 * L * T * D)
    parts = measured(config, source, hot, fold, multi_label=True)
    assert whole.score_SNC is not None and parts.score_SNC is not None
    np.testing.assert_allclose(whole.score_SNC, parts.score_SNC, atol=1e-3)


def test_standardised_tokens_are_those_of_a_standardised_source() -> None:
    source, hot = hidden_call(90)
    source.tokens = source.tokens * torch.logspace(-2, 2, D) + 5
    source.tokens[..., 3] = 7.0
    fold, config = split(90), AttentiveConfig(epochs=3, standardise=True)
    ours = measured(config, source, hot, fold, multi_label=True)
    tokens, valid = source.read(fold.train)
    seen = tokens.transpose(1, 2)[valid].double()
    std, mean = torch.std_mean(seen, 0, correction=0)
    std[:, 3] = 1
    scaled = (source.tokens.half().double() - mean[:, None]) / std[:, None]

    class Exact(Table):
        def read(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            _, valid = super().read(rows)
            tokens = self.tokens[rows, :, : valid.shape[1]]
            return tokens.masked_fill(~valid[:, None, :, None], 0).float(), valid

    exact = Exact(scaled, source.count)
    plain = measured(AttentiveConfig(epochs=3), exact, hot, fold, multi_label=True)
    assert ours.score_SNC is not None and plain.score_SNC is not None
    np.testing.assert_allclose(ours.score_SNC, plain.score_SNC, atol=1e-3)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


def test_ten_thousand_classes_take_the_memory_of_a_chunk() -> None:
    shape = TokenShape(4, 1, 248, 8, (8,), 0)
    module = LayerPrototypes(shape, 10_000, PrototypesConfig())
    tokens, valid = torch.randn(2, 1, 248, 8), torch.ones(2, 248, dtype=torch.bool)
    with Largest() as seen:
        logit = module(tokens, valid)
        torch.autograd.backward(logit.sum())
    # All cosines at once would be 2 x 248 x 200,000 numbers, 397 MB; a chunk of them is 8 MB, and
    # as large are the prototypes with their gradient.
    assert logit.shape == (2, 10_000)
    assert seen.bytes <= 4 * 2 * 248 * 4096 + 1024


# ------------------------------------------------------------------ real encoders

ENCODERS: dict[str, dict[str, Any]] = {
    "beats": {},
    "vit": {"encoder": {"name": "vit", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2}},
    "efficientnet": {"encoder": {"name": "efficientnet", "depth": 0.25, "dim": 48}},
}
FEW = {
    "attentive": ["probe.epochs=2"],
    "attentive_layers": ["probe.epochs=2", "probe.warmup_epochs=1"],
    "layer_mix": ["probe.epochs=2", "probe.warmup_epochs=1"],
    "mlp": ["probe.epochs=2", "probe.warmup_epochs=1", "probe.hidden=[8]"],
    "prototypes": ["probe.steps=2", "probe.per_class=2"],
}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]
) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("runs")
    yield {name: write_run(root / name, **recipe) for name, recipe in ENCODERS.items()}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("probe", FEW)
def test_every_probe_takes_every_kind_of_encoder(
    probe: str, encoder: str, runs: dict[str, Path], tone_dataset: Path
) -> None:
    config = load_config(
        [f"data={tone_dataset}", f"probe.name={probe}", *FEW[probe], "test_folds=[0]",
         "retrieval.enabled=false", "clustering.enabled=false", "device=cpu", "tokens.stride=2",
         "baselines.random_init=false"],
        "fast",
    )  # fmt: skip
    result = evaluate(runs[encoder], config)
    for row in result["rows"]:
        assert row["probe"]["name"] == probe and 0 <= row["probe"]["mean"] <= 1
        assert row["probe"]["noise_floor"] is not None
    model = result["rows"][-1]["probe"]
    if probe in ("layer_mix", "attentive_layers", "prototypes"):
        blocks = len(model["layer_weights"]) - (probe == "layer_mix")  # and what enters the first
        assert blocks == (2 if encoder != "efficientnet" else 8)
        assert len(result["rows"][0]["probe"]["layer_weights"]) == 1  # log-mel has no layers


def test_token_probes_say_what_they_cannot_do(runs: dict[str, Path], tone_dataset: Path) -> None:
    with pytest.raises(RecipeError, match=r"prototypes reads the tokens of one window"):
        load_config(["data=x", "probe.name=prototypes", "long_clips=mean"])
    with pytest.raises(RecipeError, match=r"tokens.layers is empty"):
        load_config(["data=x", "tokens.layers=[]"])
    words = [f"data={tone_dataset}", "probe.name=prototypes", "tokens.layers=[1,9]"]
    with pytest.raises(RecipeError, match=r"tokens.layers=\[1, 9\]: .*has no layer of one of"):
        evaluate(runs["beats"], load_config([*words, "baselines.logmel=false"], "fast"))


def test_all_layers_with_a_probe_on_tokens(runs: dict[str, Path], tone_dataset: Path) -> None:
    words = [f"data={tone_dataset}", "probe.name=prototypes", "probe.steps=2", "layer=all",
             "test_folds=[0]", "baselines.logmel=false", "clustering.enabled=false"]  # fmt: skip
    result = evaluate(runs["vit"], load_config(words, "fast"))
    assert [("probe" in row, row["layer"]) for row in result["layers"]] == [
        (False, 0), (False, 1), (False, 2)
    ]  # fmt: skip
    assert result["rows"][-1]["probe"]["name"] == "prototypes"
    assert not list((runs["vit"] / "evaluation" / "cache").glob("*.tmp"))
    files = (runs["vit"] / "evaluation" / "cache").glob("model-*.tokens.npy")
    assert next(files).stat().st_size > 48 * 2 * 32
