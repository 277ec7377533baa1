"""EfficientNet against torchvision's, padded against alone, and what its batch norms remember.

Shape legend: B clips, T frames, F mel bins, N tokens, D channels.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dawnchorus.trainer.encoders.efficientnet import EfficientNet, Norm
from dawnchorus.trainer.encoders.efficientnet_config import EfficientNetConfig
from dawnchorus.trainer.hub.adapters.efficientnet import from_torch
from dawnchorus.trainer.training.optim import OptimConfig, param_groups

TINY: dict[str, Any] = {"width": 0.25, "depth": 0.4, "dim": 64}


def random_norms(network: nn.Module) -> nn.Module:
    """Batch norms that change what goes through them."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert tensor is not None
                    tensor.add_(0.3 * torch.rand_like(tensor))
    return network


def tiny(**changes: Any) -> EfficientNet:
    encoder = random_norms(EfficientNet(EfficientNetConfig(**TINY | changes)))
    assert isinstance(encoder, EfficientNet)
    return encoder


@pytest.mark.parametrize("variant", ["b0", "b1"])
def test_it_is_torchvision_s(variant: str) -> None:
    theirs = getattr(torchvision.models, f"efficientnet_{variant}")(weights=None)
    theirs = random_norms(theirs).eval()
    foreign = from_torch("file", theirs.state_dict())
    assert foreign is not None
    encoder = EfficientNet(EfficientNetConfig(**foreign.encoder)).eval()
    encoder.load_state_dict(
        {k.removeprefix("encoder."): t for k, t in foreign.state.items() if k[0] == "e"}
    )
    x_BTF = torch.rand(2, 171, 128)
    with torch.no_grad():
        map_BCFT = theirs.features(x_BTF.mT[:, None].repeat(1, 3, 1, 1))
        out = encoder(x_BTF, layers=True)
    close(out.tokens_BND, map_BCFT.permute(0, 3, 2, 1).flatten(1, 2))
    close(out.tokens_BND.mean(1), theirs.avgpool(map_BCFT).flatten(1))
    assert out.layers is not None and torch.equal(out.layers[-1], out.tokens_BND)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("looks", [True, False], ids=["cpu", "device"])
def test_a_padded_clip_gives_what_it_gives_alone(
    looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies behind it, in every layer; on a device nobody looks at the lengths."""
    encoder = tiny().eval()
    x_BTF = torch.rand(4, 200, 128)
    steps_B = torch.tensor([200, 97, 33, 3])
    x_BTF[torch.arange(200) >= steps_B[:, None]] = 7.0
    if not looks:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        out = encoder(x_BTF, steps_B, layers=True)
        monkeypatch.undo()
        assert out.layers is not None and len(out.layers) == len(encoder.blocks()) + 1
        for row, steps in enumerate(steps_B.tolist()):
            alone = encoder(x_BTF[row : row + 1, :steps], layers=True)
            assert bool(alone.valid_BN.all())
            for ours_BND, theirs_BND in zip(out.layers, alone.layers, strict=True):
                close(ours_BND[row, out.valid_BN[row]], theirs_BND[0])
    grid = encoder.grid(200)
    assert (grid.times, grid.bands, grid.tokens) == (7, 4, 28)
    assert grid.token_s == pytest.approx(0.32)
    assert out.valid_BN.sum(1).tolist() == [28, 16, 8, 4]


def test_statistics_are_those_of_the_clips_own_columns() -> None:
    norm, plain = Norm(3, act=False), nn.BatchNorm2d(3)
    x_BCFT = torch.randn(2, 3, 4, 10, requires_grad=True)
    own_B11T = (torch.arange(10) < torch.tensor([[10], [6]]))[:, None, None]
    out_BCFT = norm(x_BCFT, own_B11T)
    # The same numbers in another shape, without what is padding.
    theirs_1CR1 = plain(
        torch.cat([x_BCFT[0].flatten(1), x_BCFT[1, ..., :6].flatten(1)], 1)[None, ..., None]
    )
    ours_CR = torch.cat([out_BCFT[0].flatten(1), out_BCFT[1, ..., :6].flatten(1)], 1)
    close(ours_CR, theirs_1CR1[0, ..., 0], 1e-6)
    assert bool((out_BCFT[1, ..., 6:] == 0).all())
    for name in ("running_mean", "running_var"):
        close(getattr(norm, name), getattr(plain, name), 1e-6)
    weight_CR = torch.randn_like(ours_CR)
    mine, theirs = (
        torch.autograd.grad((z * weight_CR).sum(), x_BCFT, retain_graph=True)[0]
        for z in (ours_CR, theirs_1CR1[0, ..., 0])
    )
    close(mine, theirs, 1e-5)


def test_training_with_and_without_looking_at_the_lengths_is_the_same() -> None:
    encoder = tiny().train()
    other = copy.deepcopy(encoder)
    x_BTF, steps_B = torch.rand(3, 96, 128), torch.tensor([96, 96, 96])
    out = encoder(x_BTF, steps_B).tokens_BND
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        masked = other(x_BTF, steps_B).tokens_BND
    close(masked, out, 1e-4)
    for ours, theirs in zip(encoder.buffers(), other.buffers(), strict=True):
        close(ours, theirs)


def test_recomputed_stages_give_the_same_gradients() -> None:
    encoder = tiny().train()
    other = copy.deepcopy(encoder)
    other.grad_checkpoint = True
    x_BTF, steps_B = torch.rand(2, 64, 128), torch.tensor([64, 40])
    for network in (encoder, other):
        network(x_BTF, steps_B).tokens_BND.square().sum().backward()
    for ours, theirs in zip(encoder.parameters(), other.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        close(ours.grad, theirs.grad)


def test_drop_path_skips_whole_blocks_of_single_clips_in_training_only() -> None:
    encoder = tiny(drop_path=0.9, depth=1.0)
    x_BTF = torch.rand(1, 64, 128).expand(6, -1, -1)
    with torch.no_grad():
        quiet = encoder.eval()(x_BTF).tokens_BND
        close(quiet, quiet[:1].expand_as(quiet))
        torch.manual_seed(0)
        encoder.train()
        first, again = (encoder(x_BTF).tokens_BND for _ in range(2))
        torch.manual_seed(0)
        assert torch.equal(encoder(x_BTF).tokens_BND, first)
    assert not torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("numbers", [{}, {"depth": 1.1}, TINY], ids=["b0", "b1", "tiny"])
def test_costs_are_known_without_building_it(numbers: dict[str, Any]) -> None:
    config = EfficientNetConfig(**numbers)
    with torch.device("meta"):
        encoder = EfficientNet(config)
    each = [sum(p.numel() for p in block.parameters()) for block in encoder.blocks()]
    assert config.parameters == sum(p.numel() for p in encoder.parameters())
    assert (config.largest_block, config.blocks_parameters) == (max(each), sum(each))
    assert len(each) == config.layers


def test_operations_are_those_of_the_paper() -> None:
    """B0 is said to need 0.39 G multiply-adds for 224 x 224 pixels of three channels."""
    encoder = EfficientNet(EfficientNetConfig(mel_bins=224))
    second_and_third_channel = 2 * 2 * 9 * 32 * 112**2
    found = encoder.clip_flops(encoder.grid(224)) + second_and_third_channel
    assert found / 2 == pytest.approx(0.39e9, rel=0.03)


def test_deeper_stages_learn_faster() -> None:
    encoder = tiny()
    groups = param_groups(encoder, OptimConfig(lr=1.0, layer_decay=0.5), encoder)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    along = [{rate[id(p)] for p in block.parameters()} for block in encoder.blocks()]
    assert along == [{0.5 ** (len(along) - 1 - i)} for i in range(len(along))]
    assert {rate[id(p)] for p in (encoder.conv_stem.weight, encoder.bn1.weight)} == {0.5**8}


def test_a_model_in_bfloat16() -> None:
    encoder = tiny().eval()
    x_BTF, steps_B = torch.rand(2, 64, 128), torch.tensor([64, 40])
    with torch.no_grad():
        out = encoder(x_BTF, steps_B)
        half = copy.deepcopy(encoder).bfloat16()(x_BTF.bfloat16(), steps_B).tokens_BND
        assert half.dtype == torch.bfloat16
        close(half.float()[out.valid_BN], out.tokens_BND[out.valid_BN], 0.1)
