"""What every encoder keeps, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from contract.newcomers import forget, register
from contract.recipes import contract_recipe
from dawnchorus.trainer.encoders import base
from dawnchorus.trainer.encoders.base import Maskable, Stack
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.registry import ENCODERS
from dawnchorus.trainer.training.assembly import assemble
from dawnchorus.trainer.training.optim import param_groups
from dawnchorus.trainer.training.optim_config import OptimConfig


@pytest.fixture(autouse=True, scope="module")
def newcomers() -> Iterator[None]:
    register()
    yield
    forget()


@pytest.fixture(params=sorted(tiny.ENCODERS))
def model(request: pytest.FixtureRequest) -> BioEncoder:
    """The tiny encoder from its YAML, with a head, in eval mode."""
    torch.manual_seed(0)
    recipe = contract_recipe(request.param, "multilabel")
    return assemble(recipe, ("a", "b", "c"))[0].eval()


def sound(seconds: float, clips: int = 1, rate_hz: int = 16000) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return 0.1 * torch.randn(clips, int(seconds * rate_hz), generator=generator)


def test_there_is_a_row_for_every_encoder() -> None:
    assert set(tiny.ENCODERS) == set(ENCODERS.names())


def test_what_the_config_says_is_what_is_built(model: BioEncoder) -> None:
    encoder, config = model.encoder, model.encoder.config
    assert config.parameters == sum(p.numel() for p in encoder.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in encoder.blocks()]
    assert config.blocks_parameters == sum(blocks) and config.largest_block == max(blocks)
    assert config.title and config.summary() and config.tokens_text
    assert all(isinstance(x, str) for row in config.summary().items() for x in row)
    assert set(config.frontend_fields) <= set(vars(config))
    assert config.training_only <= set(vars(config))
    assert config.hop_s == pytest.approx(model.frontend.hop_s)
    assert config.maskable == isinstance(encoder, Maskable)
    assert ENCODERS.config(config.name) is type(config)


def test_a_clip_is_encoded_as_if_it_were_alone(model: BioEncoder) -> None:
    rate_hz = model.sample_rate_hz
    wav_BT = sound(2.0, 3, rate_hz)
    length_B = torch.tensor([2.0, 1.3, 0.7]).mul(rate_hz).long()
    together = model(wav_BT, length_B, layers=True)
    steps_B = model.frontend.steps_for(length_B)
    x, _ = model.frontend(wav_BT, length_B)
    grid = model.encoder.grid(x.shape[1])
    assert together.tokens_BND.shape == (3, grid.tokens, model.encoder.dim)
    assert torch.equal(together.valid_BN, model.encoder.valid(steps_B, grid))
    embedding_BD = model.embed(wav_BT, length_B, pooling="mean_std")
    for clip, length in enumerate(length_B.tolist()):
        alone = model(wav_BT[clip : clip + 1, :length], layers=True)
        valid_N = together.valid_BN[clip]
        own = alone.tokens_BND[alone.valid_BN]
        torch.testing.assert_close(together.tokens_BND[clip, valid_N], own, atol=2e-5, rtol=1e-4)
        vector = model.embed(wav_BT[clip : clip + 1, :length], pooling="mean_std")
        torch.testing.assert_close(embedding_BD[clip : clip + 1], vector, atol=2e-5, rtol=1e-4)
    # What lies behind a clip's end does not matter.
    for clip, length in enumerate(length_B.tolist()):
        wav_BT[clip, length:] = 1.0
    again = model(wav_BT, length_B)
    assert torch.equal(again.tokens_BND[again.valid_BN], together.tokens_BND[together.valid_BN])


def test_layers_are_the_input_and_the_output_of_every_block(model: BioEncoder) -> None:
    wav_BT = sound(1.0, 2, model.sample_rate_hz)
    layers = model(wav_BT, layers=True).layers
    assert layers is not None and len(layers) == len(model.encoder.blocks()) + 1
    assert model(wav_BT).layers is None
    pooled = model.embed(wav_BT, layer=1)
    assert pooled.shape == (2, layers[1].shape[-1]) and pooled.isfinite().all()


def test_autocast_waits_for_no_missing_kernels(
    model: BioEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU without bfloat16 kernels an encoder computes as if nobody had asked for them."""
    monkeypatch.setattr(base, "_cpu_has", lambda dtype: False)
    x, steps_B = model.frontend(sound(1.0, 2, model.sample_rate_hz))
    expected = model.encoder(x, steps_B)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.encoder(x, steps_B)
    assert torch.equal(out.tokens_BND[out.valid_BN], expected.tokens_BND[out.valid_BN])


def test_layer_decay_is_monotone_along_the_forward_pass(model: BioEncoder) -> None:
    """The rate grows from what runs first to what runs last."""
    encoder, order = model.encoder, []
    for part in encoder.modules():
        if any(True for _ in part.parameters(recurse=False)):
            part.register_forward_hook(lambda module, _, __: order.append(module))
    encoder(*model.frontend(sound(1.0, rate_hz=model.sample_rate_hz)))
    groups = param_groups(model, OptimConfig(layer_decay=0.5), encoder)
    scale = {id(p): group["scale"] for group in groups for p in group["params"]}
    in_blocks = [{id(p) for p in block.parameters()} for block in encoder.blocks()]
    assert len(in_blocks) > 1

    def scales_of(parameters: set[int]) -> set[float]:
        return {scale[p] for p in parameters if p in scale}

    of_block = [scales_of(parameters) for parameters in in_blocks]
    assert of_block == [{0.5 ** (len(in_blocks) - 1 - i)} for i in range(len(in_blocks))]
    in_tail = {id(p) for part in encoder.tail() for p in part.parameters()}
    assert scales_of(in_tail) <= {1.0}
    elsewhere = {id(p) for p in encoder.parameters()}.difference(in_tail, *in_blocks)
    assert scales_of(elsewhere) == {0.5 ** len(in_blocks)}
    # The blocks run in the order that they are named in, and the tail after them.
    ran = [
        i for module in order for i, parameters in enumerate(in_blocks)
        if any(id(p) in parameters for p in module.parameters(recurse=False))
    ]  # fmt: skip
    assert ran == sorted(ran) and set(ran) == set(range(len(in_blocks)))


def test_blocks_compile_and_change_nothing(model: BioEncoder) -> None:
    x, steps_B = model.frontend(sound(1.0, 2, model.sample_rate_hz))
    expected = model.encoder(x, steps_B)
    calls: list[nn.Module] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    torch._dynamo.reset()
    try:
        for block in model.encoder.blocks():
            block.compile(backend=backend, dynamic=False)
        out = model.encoder(x, steps_B)
    finally:
        torch._dynamo.reset()
    assert calls, "nothing of it was compiled"
    valid_BN = expected.valid_BN
    torch.testing.assert_close(
        out.tokens_BND[valid_BN], expected.tokens_BND[valid_BN], atol=1e-5, rtol=1e-4
    )


def test_stacks_name_each_block_once(model: BioEncoder) -> None:
    stacks = [part for part in model.modules() if isinstance(part, Stack)]
    blocks = {id(block) for part in stacks for block in part.blocks()}
    assert {id(block) for block in model.encoder.blocks()} == blocks
    inside = {id(part) for block in model.encoder.blocks() for part in block.modules()}
    assert {id(part) for stack in stacks for part in stack.gathered_alone()} <= inside


def test_work_grows_with_the_clip(model: BioEncoder) -> None:
    seconds = torch.tensor([[1.0], [2.0]]) * model.sample_rate_hz
    short, long = (
        model.encoder.grid(int(model.frontend.steps_for(samples.long()))) for samples in seconds
    )
    assert short.tokens < long.tokens
    assert 0 < model.encoder.clip_flops(short) < model.encoder.clip_flops(long)
    if model.encoder.config.maskable:
        kept = model.encoder.clip_flops(long, long.places // 4)
        assert kept < model.encoder.clip_flops(long)


def test_the_same_seed_of_a_step_drops_the_same(model: BioEncoder) -> None:
    x, steps_B = model.frontend(sound(1.0, 2, model.sample_rate_hz))
    model.train()
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        model.encoder.begin_step(11)
        outputs.append(model.encoder(x, steps_B))
    first, second = (out.tokens_BND[out.valid_BN] for out in outputs)
    assert torch.equal(first, second)


def test_hidden_places_do_not_reach_the_visible_ones(model: BioEncoder) -> None:
    encoder = model.encoder
    if not encoder.config.maskable:
        pytest.skip("this encoder cannot encode a part of a clip")
    assert isinstance(encoder, Maskable)
    x, _ = model.frontend(sound(2.0, 2, model.sample_rate_hz))
    grid = encoder.grid(x.shape[1])
    generator = torch.Generator().manual_seed(1)
    keep_BK = torch.rand(2, grid.places, generator=generator).argsort(1)[:, : grid.places // 4]
    keep_BK = keep_BK.sort(1).values
    first = encoder.encode_visible(x, keep_BK)
    assert first.shape == (2, grid.prefix + keep_BK.shape[1], encoder.dim)
    patch = encoder.config.patch
    changed = x.clone()
    for clip, kept in enumerate(keep_BK.tolist()):
        for place in set(range(grid.places)) - set(kept):
            t, band = divmod(place, grid.bands)
            rows, bins = slice(t * patch, (t + 1) * patch), slice(band * patch, (band + 1) * patch)
            changed[clip, rows, bins] = 9.0
    torch.testing.assert_close(encoder.encode_visible(changed, keep_BK), first)
    stack = encoder.stack(1, 2 * encoder.dim)
    x_BLD = torch.randn(2, grid.places, 2 * encoder.dim)
    valid_BL = torch.ones(2, grid.places, dtype=torch.bool)
    assert stack(x_BLD, valid_BL).shape == x_BLD.shape and len(stack.blocks()) == 1
