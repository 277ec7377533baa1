from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from dawnchorus.trainer.augment import add_noise, mixup
from dawnchorus.trainer.augment_config import AugmentConfig
from dawnchorus.trainer.seeds import mix_seeds


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


def keys(clips: int, seed: int = 0) -> torch.Tensor:
    return mix_seeds(seed, torch.arange(clips))


def mix_many(config: AugmentConfig, clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Own share of every clip, and whether its partner is mixed into it.

    The clips of a pair are the two unit vectors, so that a mixed clip shows both shares.
    """
    wav_BT = torch.eye(2).repeat(clips // 2, 1)
    length_B, labels_P2 = torch.full((clips,), 2), torch.zeros(0, 2, dtype=torch.int64)
    out_BT, _, _ = mixup(wav_BT, length_B, labels_P2, keys(clips), config=config)
    torch.testing.assert_close(out_BT.sum(1), torch.ones(clips))
    own_B = (out_BT * wav_BT).sum(1)
    return own_B, own_B < 1.0


@pytest.mark.parametrize("alpha", [0.2, 0.4, 0.5, 1.0, 4.0])
def test_mixup_statistics(alpha: float) -> None:
    own, mixed = mix_many(AugmentConfig(mixup_prob=0.3, mixup_alpha=alpha), 16_000)
    # 16,000 clips: the standard error is 0.0036. Of shares near 1 a few are 1 in float32.
    assert float(mixed.float().mean()) == pytest.approx(0.3, abs=0.025)
    shares = own[mixed].double().numpy()
    assert stats.kstest(shares, "beta", (alpha, alpha)).statistic < 0.03


def test_whether_a_clip_is_mixed_does_not_depend_on_its_neighbours() -> None:
    _, mixed = mix_many(AugmentConfig(mixup_prob=0.5), 16_000)
    correlation = torch.corrcoef(mixed.view(2000, 8).float().t()) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.1


def test_a_pair_is_mixed_alike_in_every_batch() -> None:
    wav_BT, length_B = torch.rand(8, 50), torch.full((8,), 50)
    labels_P2 = torch.stack([torch.arange(8)] * 2, 1)
    config = AugmentConfig(mixup_prob=0.8)
    whole = mixup(wav_BT, length_B, labels_P2, keys(8), config=config)
    assert not torch.equal(whole[0], wav_BT)
    for first in (0, 2, 6):
        rows = slice(first, first + 2)
        own_P2 = labels_P2[rows] - torch.tensor([first, 0])
        part = mixup(wav_BT[rows], length_B[rows], own_P2, keys(8)[rows], config=config)
        assert torch.equal(part[0], whole[0][rows])
        mine = {(int(r) + first, int(c)) for r, c in part[2]}
        assert mine == {(int(r), int(c)) for r, c in whole[2] if first <= r < first + 2}


def test_mixup_unites_labels_and_lengths() -> None:
    wav_BT = torch.zeros(4, 100)
    length_B = torch.tensor([100, 20, 60, 40])
    for row, length in enumerate(length_B):
        wav_BT[row, :length] = float(row + 1)
    # Clip 2 has no label, clip 3 two of them, one shared with clip 0.
    labels_P2 = torch.tensor([[0, 5], [1, 6], [3, 5], [3, 9]])
    before = {row: {int(c) for r, c in labels_P2 if r == row} for row in range(4)}
    seen_mixed = 0
    for seed in range(50):
        out_BT, out_length_B, out_P2 = mixup(
            wav_BT, length_B, labels_P2, keys(4, seed), config=AugmentConfig()
        )
        after = {row: {int(c) for r, c in out_P2 if r == row} for row in range(4)}
        for row, partner in enumerate((1, 0, 3, 2)):
            if torch.equal(out_BT[row], wav_BT[row]):
                assert after[row] == before[row]
                assert out_length_B[row] == length_B[row]
                continue
            seen_mixed += 1
            assert out_length_B[row] == max(length_B[row], length_B[partner])
            assert after[row] == before[row] | before[partner]
            assert not out_BT[row, out_length_B[row] :].any()
    assert 50 < seen_mixed < 150


def test_mixup_never_or_always_and_odd_batches() -> None:
    wav_BT, length_B = torch.rand(4, 50), torch.full((4,), 50)
    labels_P2 = torch.zeros(0, 2, dtype=torch.int64)
    never = mixup(wav_BT, length_B, labels_P2, keys(4), config=AugmentConfig(mixup_prob=0.0))
    assert torch.equal(never[0], wav_BT) and len(never[2]) == 0
    always = mixup(wav_BT, length_B, labels_P2, keys(4), config=AugmentConfig(mixup_prob=1.0))
    assert (always[0] != wav_BT).any(1).all()
    with pytest.raises(ValueError, match="whole pairs"):
        mixup(wav_BT[:3], length_B[:3], labels_P2, keys(3), config=AugmentConfig())


@pytest.mark.parametrize(
    "fields", [{"noise_prob": 1.5}, {"snr_db": (20.0, -10.0)}, {"mixup_alpha": 0.0}]
)
def test_values_out_of_range_are_named(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        AugmentConfig(**fields)  # type: ignore[arg-type]
