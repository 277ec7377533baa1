from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.objectives.tokenizers.random_projection import RandomProjectionTokenizer
from dawnchorus.trainer.objectives.tokenizers.random_projection_config import (
    RandomProjectionConfig,
)
from dawnchorus.trainer.objectives.tokenizers.usage import CodebookUsage, codebook_usage


def mel(clips: int = 3, frames: int = 100, seed: int = 0) -> Tensor:
    return torch.randn(clips, frames, 128, generator=torch.Generator().manual_seed(seed)) * 0.5


def test_codes_are_those_of_the_definition() -> None:
    """Written with convolution, norms and distances as the paper's figure has them, in float64."""
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig(codebook_size=64))
    mel_BTF = mel()
    kernel = tokenizer.patch_PK.double().view(512, 1, 16, 16)
    x = F.conv2d(mel_BTF.double()[:, None], kernel, stride=16)  # [B, P, time, frequency]
    assert x.shape[2:] == (6, 8)
    z = F.layer_norm(x.flatten(2).transpose(1, 2), (512,)) @ tokenizer.project_DP.double().T
    z = F.layer_norm(z, (256,))
    expected = torch.cdist(z, tokenizer.codebook_VD.double().expand(3, -1, -1)).argmin(2)
    code_BN = tokenizer(mel_BTF)
    assert code_BN.dtype == torch.int64 and torch.equal(code_BN, expected)
    assert len(code_BN.unique()) > 20


def test_weights_have_the_right_spread() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig())
    assert tokenizer.codebook_VD.shape == (1024, 256)
    assert float(tokenizer.codebook_VD.std()) == pytest.approx(1.0, rel=0.01)
    xavier_conv = torch.nn.init.xavier_normal_(torch.empty(512, 1, 16, 16)).std()
    assert float(tokenizer.patch_PK.std()) == pytest.approx(float(xavier_conv), rel=0.02)
    xavier = torch.nn.init.xavier_normal_(torch.empty(256, 512)).std()
    assert float(tokenizer.project_DP.std()) == pytest.approx(float(xavier), rel=0.02)


def test_time_major_grid_and_leftover_frames() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig())
    mel_BTF = mel(frames=40)
    code_BN = tokenizer(mel_BTF)
    assert code_BN.shape == (3, 2 * 8)
    changed = mel_BTF.clone()
    changed[:, 16:32, 32:48] = mel(frames=16, seed=5)[:, :, :16]  # time column 1, band 2
    changed[:, 32:] = 7.0  # fill no patch
    assert (tokenizer(changed) != code_BN).nonzero()[:, 1].unique().tolist() == [8 + 2]


def test_whitening_spreads_the_codes_over_patterns() -> None:
    # Patches of varied level and little pattern, as sound has them: most share a few codes.
    steps = torch.randn(64, 7, 1, 8, 1, generator=torch.Generator().manual_seed(2))
    flat = (0.1 * mel(64, 112).view(64, 7, 16, 8, 16) + steps).view(64, 112, 128)
    valid_BN = torch.ones(64, 56, dtype=torch.bool)
    perplexity = []
    for whiten in (0.0, 0.5, 1.0):
        tokenizer = RandomProjectionTokenizer(RandomProjectionConfig(whiten=whiten))
        tokenizer.fit([(flat[:32], valid_BN[:32])])
        perplexity.append(codebook_usage(tokenizer(flat[32:]), None, 1024).perplexity)
    assert perplexity[1] > 2 * perplexity[0]
    assert perplexity[2] > 5 * perplexity[0]


def test_what_was_fitted_travels_in_the_state() -> None:
    config = RandomProjectionConfig(whiten=0.75)
    fitted, loaded = RandomProjectionTokenizer(config), RandomProjectionTokenizer(config)
    mel_BTF = mel(8, 112)
    fitted.fit([(mel_BTF, torch.ones(8, 56, dtype=torch.bool))])
    assert not torch.equal(fitted(mel_BTF), loaded(mel_BTF))
    loaded.load_state_dict(fitted.state_dict())
    assert torch.equal(fitted(mel_BTF), loaded(mel_BTF))


def test_as_published_nothing_is_fitted() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig())
    before = tokenizer(mel())
    tokenizer.fit([(mel(8, 112), torch.ones(8, 56, dtype=torch.bool))])
    assert torch.equal(before, tokenizer(mel()))


def test_codes_do_not_depend_on_the_batch() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig(codebook_size=100))
    mel_BTF = mel(clips=12, frames=998)  # more patches than are compared at a time
    code_BN = tokenizer(mel_BTF)
    assert torch.equal(code_BN[7:8], tokenizer(mel_BTF[7:8]))


def test_seed_alone_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = RandomProjectionTokenizer(RandomProjectionConfig(seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = RandomProjectionTokenizer(RandomProjectionConfig(seed=3))
    other = RandomProjectionTokenizer(RandomProjectionConfig(seed=4))
    assert torch.equal(first(mel()), second(mel()))
    assert not torch.equal(first(mel()), other(mel()))


def test_nothing_trains_and_everything_is_saved() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig(seed=3))
    assert not list(tokenizer.parameters())
    assert set(tokenizer.state_dict()) == {
        "patch_PK", "project_DP", "codebook_VD", "mean_K", "whiten_KK",
    }  # fmt: skip
    other = RandomProjectionTokenizer(RandomProjectionConfig(seed=4))
    other.load_state_dict(tokenizer.state_dict())
    assert torch.equal(other(mel()), tokenizer(mel()))


def test_low_precision_training_leaves_the_codes_alone() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig())
    expected = tokenizer(mel())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer(mel()), expected)
    weights = tokenizer.codebook_VD.clone()
    for cast in (tokenizer.bfloat16(), tokenizer.half(), tokenizer.to(torch.float64)):
        assert cast.codebook_VD.dtype == torch.float32
        assert torch.equal(cast.codebook_VD, weights)
    assert torch.equal(tokenizer(mel()), expected)
    assert tokenizer.to("meta").codebook_VD.device.type == "meta"


def test_refuses_what_holds_no_patch() -> None:
    tokenizer = RandomProjectionTokenizer(RandomProjectionConfig())
    with pytest.raises(ValueError, match="at least 16 frames"):
        tokenizer(torch.zeros(1, 15, 128))
    with pytest.raises(ValueError, match="multiple of 16 mel bins"):
        tokenizer(torch.zeros(1, 16, 100))
    with pytest.raises(ValueError, match="codebook_size"):
        RandomProjectionConfig(codebook_size=1)


def test_usage_counts_valid_tokens() -> None:
    code_BN = torch.tensor([[0, 0, 1, 3], [2, 3, 3, 3]])
    valid_BN = torch.tensor([[True, True, True, True], [True, True, False, False]])
    usage = codebook_usage(code_BN, valid_BN, 6)
    assert usage.count_V.tolist() == [2, 1, 1, 2, 0, 0]
    assert (usage.tokens, usage.unique) == (6, 4)
    entropy = -(2 * (1 / 3) * math.log(1 / 3) + 2 * (1 / 6) * math.log(1 / 6))
    assert usage.entropy_nats == pytest.approx(entropy)
    assert usage.perplexity == pytest.approx(math.exp(entropy))
    assert codebook_usage(code_BN, None, 6).tokens == 8
    assert usage.as_dict()["codes"] == 6


def test_usage_at_the_ends() -> None:
    even = CodebookUsage(torch.full((8,), 5))
    assert even.perplexity == pytest.approx(8)
    assert CodebookUsage(torch.tensor([9, 0, 0])).perplexity == pytest.approx(1)
    assert CodebookUsage(torch.zeros(3, dtype=torch.int64)).entropy_nats == 0
