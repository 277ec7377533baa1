from __future__ import annotations

import math

import pytest
import torch

from trainer.augment import add_noise, mixup
from trainer.augment_config import AugmentConfig


def power(wav: torch.Tensor) -> float:
    return float(wav.double().square().mean())


def test_noise_has_the_asked_power_over_the_valid_samples_only() -> None:
    generator = torch.Generator().manual_seed(0)
    length_B = torch.tensor([16000, 4000, 9000])
    wav_BT = 0.1 * torch.randn(3, 16000, generator=generator)
    for row, length in enumerate(length_B):
        wav_BT[row, length:] = 0.0
    noise_BT = 0.03 * torch.randn(3, 16000, generator=generator)
    snr_db_B = torch.tensor([-10.0, 0.0, 20.0])
    out_BT = add_noise(wav_BT, length_B, noise_BT, snr_db_B)
    for row, length in enumerate(length_B):
        added = (out_BT - wav_BT)[row]
        measured = 10 * math.log10(power(wav_BT[row, :length]) / power(added[:length]))
        assert measured == pytest.approx(float(snr_db_B[row]), abs=1e-3)
        assert not added[length:].any()


def test_loud_padding_does_not_count() -> None:
    wav_BT, noise_BT = torch.zeros(1, 2000), torch.zeros(1, 2000)
    wav_BT[:, :1000], noise_BT[:, :1000] = 0.5, 0.25
    noise_BT[:, 1000:] = 100.0
    out_BT = add_noise(wav_BT, torch.tensor([1000]), noise_BT, torch.tensor([0.0]))
    torch.testing.assert_close(out_BT[:, :1000], torch.full((1, 1000), 1.0))
    assert not out_BT[:, 1000:].any()


@pytest.mark.parametrize("case", ["silent clip", "silent noise", "no noise", "no samples"])
def test_where_there_is_no_ratio_the_clip_is_left_alone(case: str) -> None:
    wav_BT, noise_BT = torch.full((1, 800), 0.2), torch.full((1, 800), 0.3)
    length_B, snr_db_B = torch.tensor([800]), torch.tensor([5.0])
    if case == "silent clip":
        wav_BT = torch.zeros(1, 800)
    elif case == "silent noise":
        noise_BT = torch.zeros(1, 800)
    elif case == "no noise":
        snr_db_B = torch.tensor([math.inf])
    else:
        length_B = torch.tensor([0])
    out_BT = add_noise(wav_BT, length_B, noise_BT, snr_db_B)
    assert torch.equal(out_BT, wav_BT)


def test_noise_is_not_clipped() -> None:
    wav_BT, noise_BT = torch.full((1, 800), 0.9), torch.full((1, 800), 0.9)
    out_BT = add_noise(wav_BT, torch.tensor([800]), noise_BT, torch.tensor([-10.0]))
    assert float(out_BT.max()) == pytest.approx(0.9 * (1 + math.sqrt(10)), rel=1e-5)


def mix_many(
    config: AugmentConfig, batches: int, clips: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Own share and partner (-1: none) of every clip, read off clips that hold their own index.

    Clip i is a unit impulse at sample i, so that a mixed clip shows both shares.
    """
    generator = torch.Generator().manual_seed(1)
    wav_BT = torch.eye(clips)
    length_B = torch.full((clips,), clips)
    labels_P2 = torch.stack([torch.arange(clips)] * 2, 1)
    own, partner = [], []
    for _ in range(batches):
        out_BT, _, _ = mixup(wav_BT, length_B, labels_P2, config=config, generator=generator)
        share = out_BT.diagonal()
        other = out_BT - torch.diag(share)
        own.append(share)
        partner.append(torch.where(share < 1.0, other.argmax(1), -1))
        torch.testing.assert_close(out_BT.sum(1), torch.ones(clips))
    return torch.cat(own), torch.cat(partner)


def test_mixup_statistics() -> None:
    own, partner = mix_many(AugmentConfig(mixup_prob=0.3, mixup_alpha=0.4), batches=2000)
    mixed = partner >= 0
    # 16,000 clips: the standard error of the share is 0.0036.
    assert float(mixed.float().mean()) == pytest.approx(0.3, abs=0.015)
    shares = own[mixed]
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / (4 * 1.8), abs=0.01)
    index = torch.arange(8).repeat(2000)
    offset = ((partner - index) % 8)[mixed]
    frequency = torch.bincount(offset, minlength=8) / len(offset)
    assert frequency[0] == 0
    # One shift serves a batch, so 2000 draws decide: standard error 0.0078.
    torch.testing.assert_close(frequency[1:], torch.full((7,), 1 / 7), atol=0.035, rtol=0)


def test_whether_a_clip_is_mixed_does_not_depend_on_its_neighbours() -> None:
    _, partner = mix_many(AugmentConfig(mixup_prob=0.5), batches=2000)
    mixed = (partner >= 0).view(2000, 8).float()
    correlation = torch.corrcoef(mixed.t()) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.1


def test_mixup_unites_labels_and_lengths() -> None:
    generator = torch.Generator().manual_seed(3)
    wav_BT = torch.zeros(4, 100)
    length_B = torch.tensor([100, 20, 60, 40])
    for row, length in enumerate(length_B):
        wav_BT[row, :length] = float(row + 1)
    # Clip 2 has no label, clip 3 two of them, one shared with clip 0.
    labels_P2 = torch.tensor([[0, 5], [1, 6], [3, 5], [3, 9]])
    before = {row: {int(c) for r, c in labels_P2 if r == row} for row in range(4)}
    seen_mixed = 0
    for _ in range(50):
        out_BT, out_length_B, out_P2 = mixup(
            wav_BT, length_B, labels_P2, config=AugmentConfig(), generator=generator
        )
        after = {row: {int(c) for r, c in out_P2 if r == row} for row in range(4)}
        for row in range(4):
            if torch.equal(out_BT[row], wav_BT[row]):
                assert after[row] == before[row]
                assert out_length_B[row] == length_B[row]
                continue
            seen_mixed += 1
            partners = [
                p
                for p in range(4)
                if p != row
                and out_length_B[row] == max(length_B[row], length_B[p])
                and after[row] == before[row] | before[p]
            ]
            assert partners
            assert not out_BT[row, out_length_B[row] :].any()
    assert 50 < seen_mixed < 150


def test_mixup_never_or_always_and_lone_clips() -> None:
    wav_BT, length_B = torch.rand(3, 50), torch.tensor([50, 50, 50])
    labels_P2 = torch.zeros(0, 2, dtype=torch.int64)
    never = mixup(wav_BT, length_B, labels_P2, config=AugmentConfig(mixup_prob=0.0))
    assert torch.equal(never[0], wav_BT) and len(never[2]) == 0
    always = mixup(wav_BT, length_B, labels_P2, config=AugmentConfig(mixup_prob=1.0))
    assert (always[0] != wav_BT).any(1).all()
    lone = mixup(wav_BT[:1], length_B[:1], labels_P2, config=AugmentConfig(mixup_prob=1.0))
    assert torch.equal(lone[0], wav_BT[:1])


def test_the_same_generator_state_gives_the_same_mix() -> None:
    wav_BT, length_B = torch.rand(6, 50), torch.full((6,), 50)
    labels_P2 = torch.stack([torch.arange(6)] * 2, 1)
    runs = [
        mixup(
            wav_BT,
            length_B,
            labels_P2,
            config=AugmentConfig(),
            generator=torch.Generator().manual_seed(9),
        )
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    "fields", [{"noise_prob": 1.5}, {"snr_db": (20.0, -10.0)}, {"mixup_alpha": 0.0}]
)
def test_values_out_of_range_are_named(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        AugmentConfig(**fields)  # type: ignore[arg-type]
