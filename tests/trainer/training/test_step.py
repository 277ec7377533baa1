"""What a step and a validation ask of the host and of the compiler, as on a GPU.

There is no GPU in most places where tests run. So the few switches that tell a GPU from a CPU are
set as on a GPU, and operations that would make the host wait there are errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from dawnchorus.trainer import binned_scores
from dawnchorus.trainer import ranking_metrics as metrics
from dawnchorus.trainer.data.module import TrainStream
from dawnchorus.trainer.encoders import beats
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.ranking_metrics import ScoreHistogram
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.training.assembly import build_model, resolve
from dawnchorus.trainer.training.layout import Topology
from dawnchorus.trainer.training.module import TrainingModule
from dawnchorus.trainer.training.run import _compile, _validation
from dawnchorus.trainer.training.validation import Validation

TINY = [
    "encoder=beats_tiny", "encoder.layers=3", "encoder.dim=32", "encoder.ffn_dim=64",
    "encoder.heads=2", "encoder.patch_dim=16", "encoder.conv_pos=16", "encoder.conv_pos_groups=4",
    "encoder.dropout=0.1", "data.window_s=2.0", "data.workers=0", "optim.warmup_steps=0",
    "train.accelerator=cpu", "train.global_batch=4", "train.micro_batch=4", "log.wandb=disabled",
    "train.validate_clips=6",
]  # fmt: skip
# These read a value on the host, or give an answer whose size is one.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive",
    "unique_dim", "bincount", "equal", "is_nonzero",
    "lift_fresh",  # torch.tensor([...]): copied from memory that the device cannot read by itself
}  # fmt: skip


class NoWaits(TorchDispatchMode):
    """Every operation that would make the host wait for a GPU is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        if name in ("index", "index_put_", "_index_put_impl_"):
            picks = [x for x in args[1] if x is not None]
            assert all(x.dtype != torch.bool for x in picks), "a mask as an index waits"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "eager_cpu", lambda x: False)
    for module in (binned_scores, metrics):
        monkeypatch.setattr(module, "looking_is_free", lambda tensor: False)


@pytest.fixture
def build(tone_dataset: Path) -> Callable[..., tuple[TrainingModule, Validation, TrainStream]]:
    def make(recipe: str, *overrides: str) -> tuple[TrainingModule, Validation, TrainStream]:
        import pytorch_lightning as pl

        data = [f"data.{kind}.tones.path={tone_dataset}" for kind in ("train", "valid", "noise")]
        resolved, _ = resolve(load_recipe(recipe, [*TINY, *data, *overrides]))
        noise = resolved.augment.noise_prob
        stream = TrainStream(resolved.data, seed=resolved.seed, noise_prob=noise)
        layout = Topology(rank=0, ranks=1, accumulate=1, micro=4)
        module = TrainingModule(resolved, *build_model(resolved, stream), layout)
        module.trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=10
        )
        module.configure_model()
        validation = _validation(resolved, stream, layout, False)
        assert validation is not None
        return module, validation, stream

    return make


RECIPES = [
    ("sl_beats_tiny", ["augment.mixup_prob=0.5", "augment.noise_prob=0.5",
                       "optim.head_only_steps=0", "optim.head_lr=null", "optim.ema_decay=0.9"]),
    ("sl_beats_tiny", ["objective.loss=softmax", "augment.mixup_prob=0.5"]),
    ("ssl_beats_tiny", ["objective.masks_per_clip=2", "augment.noise_prob=0.5"]),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "overrides"), RECIPES)
def test_nothing_in_a_step_or_a_validation_waits_for_the_device(
    build: Any, as_on_a_gpu: None, recipe: str, overrides: list[str]
) -> None:
    module, validation, stream = build(recipe, *overrides)
    optimizer = module.configure_optimizers()
    batch = stream[range(4)]
    module.train()
    with NoWaits():
        loss = module.training_step(batch, 0)
        loss.backward()
        module.on_before_optimizer_step(optimizer)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    optimizer.step()
    if module.ema is not None:
        with NoWaits():
            module.ema.update(module, 0)
    module.eval()
    sums: dict[str, torch.Tensor] = {}
    scorer = module.objective.scorer(module.model)
    batches = list(validation.loader)
    assert [int((b["length_B"] > 0).sum()) for b in batches] == [4, 2]
    with torch.no_grad(), NoWaits():
        for batch in batches:
            validation._add(module, batch, sums, scorer)
    figures = validation._reduced(module, sums, scorer)
    assert figures["loss"] > 0 and figures.get("clips", 6) == 6


@pytest.mark.parametrize("clean", [True, False])
def test_noise_reaches_the_encoder_and_the_targets_where_that_is_asked(
    build: Any, clean: bool
) -> None:
    given = [f"objective.clean_targets={str(clean).lower()}", "augment.noise_prob=1.0"]
    module, _, stream = build("ssl_beats_tiny", *given)
    batch = stream[range(4)]
    noisy, plain = (module.features(batch, augment=augment) for augment in (True, False))
    assert not torch.allclose(noisy.x, plain.x)
    if clean:
        assert noisy.clean is not None
        torch.testing.assert_close(noisy.clean, plain.x)
    else:
        assert noisy.clean is None
    assert plain.clean is None


def test_the_guard_finds_waits() -> None:
    mask = torch.tensor([True, False])
    for wait in (
        lambda: mask.any().item(), lambda: mask.nonzero(), lambda: torch.arange(2)[mask],
        lambda: torch.tensor([1.0]), lambda: mask.unique(), lambda: bool(mask[0]),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="waits"), NoWaits():
            wait()


def test_metrics_are_the_same_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(50, 7, generator=draw) * scale, torch.rand(50, 7, generator=draw) < 0.1)
        for scale in (0.1, 1.0, 400.0, 5.0)
    ]
    states = []
    for free in (True, False):
        for module in (binned_scores, metrics):
            monkeypatch.setattr(module, "looking_is_free", lambda tensor, free=free: free)
        histogram = ScoreHistogram(7)
        for score_BC, label_BC in batches:
            histogram.update(score_BC, label_BC.nonzero())
        states.append(histogram.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize(("recipe", "stacks"), [("sl_beats_tiny", 1), ("ssl_beats_tiny", 2)])
def test_one_static_graph_for_each_stack_in_training_and_one_in_validation(
    build: Any, as_on_a_gpu: None, recipe: str, stacks: int
) -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("eager")
    symbols: list[object] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        symbols.extend(x for x in inputs if not torch.is_tensor(x))
        return graphs(graph, inputs)

    more = ["optim.head_only_steps=0", "optim.head_lr=null"] if stacks == 1 else []
    module, validation, stream = build(recipe, *more)
    _compile(module, backend=backend)
    try:
        for _ in range(2):
            module.train()
            for step in range(2):
                module.training_step(stream[range(4 * step, 4 * step + 4)], step).backward()
            validation.run(module)  # of 6 clips in batches of 4
        assert graphs.frame_count == 2 * stacks
        assert not symbols, "a graph takes a length as an input: it is not static"
    finally:
        torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("recipe", "overrides"), RECIPES)
def test_cuda_itself_sees_no_wait(build: Any, recipe: str, overrides: list[str]) -> None:
    module, _, stream = build(recipe, *overrides)
    module = module.cuda().train()
    if module.ema is not None:
        module.ema.to("cuda")
    optimizer = module.configure_optimizers()
    batch = {k: v.cuda() if torch.is_tensor(v) else v for k, v in stream[range(4)].items()}
    for attempt in range(2):  # the first step sets libraries up, which may wait
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")
        try:
            module.training_step(batch, 0).backward()
            module.on_before_optimizer_step(optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_what_a_cpu_cannot_do_is_refused() -> None:
    own = ["data.train.a.path=x", "train.accelerator=cpu", "train.precision=fp16"]
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        resolve(load_recipe("ssl_beats_tiny", own))
