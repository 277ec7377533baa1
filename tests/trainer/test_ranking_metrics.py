"""Against scikit-learn, on score distributions that break binned metrics."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from dawnchorus.trainer.ranking_metrics import ScoreHistogram

CLIPS, CLASSES = 4000, 40
RARE = CLASSES // 2


def scores(seed: int = 0, clips: int = CLIPS) -> tuple[Tensor, Tensor]:
    """Logits and labels: the first half of the classes has 1 to 3 positives, the rest many."""
    g = torch.Generator().manual_seed(seed)
    positives = torch.randint(1, 4, (CLASSES,), generator=g)
    positives[RARE:] = torch.randint(4, clips // 3, (CLASSES - RARE,), generator=g)
    label_BC = torch.zeros(clips, CLASSES, dtype=torch.bool)
    for c in range(CLASSES):
        label_BC[torch.randperm(clips, generator=g)[: positives[c]], c] = True
    logit_BC = torch.randn(clips, CLASSES, generator=g) * 1.5 - 7
    return logit_BC + label_BC * torch.rand(CLASSES, generator=g) * 8, label_BC


def feed(histogram: ScoreHistogram, logit_BC: Tensor, label_BC: Tensor, batch: int = 128) -> None:
    for i in range(0, len(logit_BC), batch):
        histogram.update(logit_BC[i : i + batch], label_BC[i : i + batch].nonzero())


def exact(logit_BC: Tensor, label_BC: Tensor) -> tuple[np.ndarray, np.ndarray]:
    y, s = label_BC.numpy(), logit_BC.double().numpy()
    ap = [average_precision_score(y[:, c], s[:, c]) for c in range(y.shape[1])]
    return np.array(ap), np.array([roc_auc_score(y[:, c], s[:, c]) for c in range(y.shape[1])])


def some_tied(x: Tensor) -> Tensor:
    chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < 0.3
    return torch.where(chosen, torch.tensor(-5.123), x)


DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "saturated high": lambda x: torch.logit(torch.sigmoid(6 * x + 30), eps=1e-6),
    "saturated both": lambda x: torch.logit(torch.sigmoid(8 * (x + 5)), eps=1e-7),
    "very wide": lambda x: 100 * x,
    "hardly trained": lambda x: -6.9 + 1e-3 * (x + 7),
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "few values": lambda x: x.round(),
    "all equal": lambda x: torch.full_like(x, -6.2146),
    "part equal": some_tied,
    "heavy tails": lambda x: torch.sinh(x + 7) - 7,
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_agrees_with_scikit_learn(name: str) -> None:
    logit_BC, label_BC = scores()
    logit_BC = DISTRIBUTIONS[name](logit_BC)
    histogram = ScoreHistogram(CLASSES)
    feed(histogram, logit_BC, label_BC)
    found, result = histogram.per_class(), histogram.compute()
    ap_C, auroc_C = exact(logit_BC, label_BC)
    assert result["map"] == pytest.approx(ap_C.mean(), abs=5e-4)
    assert result["auroc"] == pytest.approx(auroc_C.mean(), abs=5e-4)
    # Single classes too, the rare ones included.
    np.testing.assert_allclose(found.average_precision_P.numpy(), ap_C, atol=5e-3)
    np.testing.assert_allclose(found.auroc_P.numpy(), auroc_C, atol=5e-3)
    assert found.positives_P.tolist() == label_BC.sum(0).tolist()


def test_plain_binning_would_fail_where_this_holds() -> None:
    """What the design is for: 1024 fixed bins miss the classes that are hardly trained."""
    logit_BC, label_BC = scores()
    logit_BC = DISTRIBUTIONS["hardly trained"](logit_BC)
    binned = (logit_BC * 1024 / 32).round()
    ap_C, _ = exact(logit_BC, label_BC)
    assert exact(binned, label_BC)[0].mean() < ap_C.mean() - 0.1


def test_classes_without_positives_are_left_out_and_counted() -> None:
    logit_BC, label_BC = scores()
    label_BC[:, 3] = False
    label_BC[:, 5] = True  # no negative: average precision 1, no AUROC
    histogram = ScoreHistogram(CLASSES)
    feed(histogram, logit_BC, label_BC)
    keep = [c for c in range(CLASSES) if c != 3]
    ap_C, _ = exact(
        logit_BC[:, [c for c in keep if c != 5]], label_BC[:, [c for c in keep if c != 5]]
    )
    result, found = histogram.compute(), histogram.per_class()
    assert result["classes"] == CLASSES - 1
    assert found.class_P.tolist() == keep
    assert result["map"] == pytest.approx((ap_C.sum() + 1) / (CLASSES - 1), abs=1e-3)
    assert found.auroc_P.isnan().tolist() == [c == 5 for c in keep]
    assert np.isfinite(result["auroc"])


def test_top1_and_padding_and_repeated_labels() -> None:
    logit_BC = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 5.0], [9.0, 0.0, 0.0]])
    labels_P2 = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 1], [3, 2]])
    histogram = ScoreHistogram(3)
    histogram.update(logit_BC, labels_P2, valid_B=torch.tensor([True, True, True, False]))
    result = histogram.compute()
    assert result["clips"] == 3 and result["top1"] == 1.0  # clip 2 has no label, clip 3 is padding
    assert result["classes"] == 2
    assert histogram.per_class().positives_P.tolist() == [2, 1]
    histogram.update(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0, 2]]))
    assert histogram.compute()["top1"] == pytest.approx(2 / 3)


def test_padding_rows_may_come_first() -> None:
    logit_BC, label_BC = scores(clips=64)
    valid_B = torch.arange(64) >= 20
    padded, plain = ScoreHistogram(CLASSES), ScoreHistogram(CLASSES)
    padded.update(logit_BC, label_BC.nonzero(), valid_B)
    plain.update(logit_BC[20:], label_BC[20:].nonzero())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(padded.state_dict()[name], tensor), name


def test_nothing_seen_and_no_labels() -> None:
    histogram = ScoreHistogram(5)
    assert np.isnan(histogram.compute()["map"])
    histogram.update(torch.randn(4, 5), torch.zeros(0, 2, dtype=torch.int64))
    result = histogram.compute()
    assert result["classes"] == 0 and np.isnan(result["map"]) and np.isnan(result["top1"])


def test_broken_scores_are_counted() -> None:
    logit_BC, label_BC = scores(clips=64)
    logit_BC[3, 4], logit_BC[5, 6] = torch.nan, torch.inf
    histogram = ScoreHistogram(CLASSES)
    feed(histogram, logit_BC, label_BC)
    assert histogram.compute()["non_finite"] == 2


def test_batches_and_their_order_do_not_matter() -> None:
    """Also where a late clip widens the range of every class, so that all bins merge."""
    logit_BC, label_BC = scores()
    logit_BC[-1], logit_BC[-2] = 50.0, -300.0
    one, other = ScoreHistogram(CLASSES), ScoreHistogram(CLASSES)
    feed(one, logit_BC, label_BC)
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(1))
    feed(other, logit_BC[order], label_BC[order], batch=37)
    for name, tensor in one.state_dict().items():
        if name != "positives":
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert one.compute() == other.compute()


@pytest.mark.parametrize(("clips", "size"), [(1, 1000.0), (40, 1000.0), (2, np.inf), (2, np.nan)])
def test_absurd_scores_do_not_blur_the_others(clips: int, size: float) -> None:
    """A few clips that diverged; all other clips keep their ranks."""
    logit_BC, label_BC = scores()
    draw = torch.Generator().manual_seed(4)
    rows = torch.randperm(CLIPS, generator=draw)[:clips]
    sign = torch.where(torch.rand(clips, CLASSES, generator=draw) < 0.5, -1.0, 1.0)
    logit_BC[rows] = sign * size * (0.5 + torch.rand(clips, CLASSES, generator=draw))
    known_BC = logit_BC.nan_to_num(nan=-1023.0).clamp(-1023, 1023)
    histogram = ScoreHistogram(CLASSES)
    feed(histogram, logit_BC, label_BC)
    ap_C, auroc_C = exact(known_BC, label_BC)
    result = histogram.compute()
    assert result["map"] == pytest.approx(ap_C.mean(), abs=5e-4)
    assert result["auroc"] == pytest.approx(auroc_C.mean(), abs=5e-4)
    np.testing.assert_allclose(histogram.per_class().average_precision_P.numpy(), ap_C, atol=5e-3)


def test_ranks_hold_across_the_edges_of_the_inner_histogram() -> None:
    logit_BC, label_BC = scores()
    for shift, factor in ((-25.0, 1.0), (40.0, 1.0), (0.0, 9.0)):  # astride -32, astride 32, both
        moved = (logit_BC + shift) * factor
        histogram = ScoreHistogram(CLASSES)
        feed(histogram, moved, label_BC)
        ap_C, auroc_C = exact(moved, label_BC)
        found = histogram.per_class()
        np.testing.assert_allclose(found.average_precision_P.numpy(), ap_C, atol=5e-3)
        np.testing.assert_allclose(found.auroc_P.numpy(), auroc_C, atol=5e-3)
        assert histogram.compute()["map"] == pytest.approx(ap_C.mean(), abs=5e-4)


def test_classes_that_were_never_trained_are_reported_with_and_without() -> None:
    logit_BC, label_BC = scores()
    trained_C = torch.arange(CLASSES) % 4 > 0
    logit_BC[:, ~trained_C] = -20.0
    histogram = ScoreHistogram(CLASSES)
    feed(histogram, logit_BC, label_BC)
    result = histogram.compute(trained_C)
    ap_C, auroc_C = exact(logit_BC, label_BC)
    assert (result["classes"], result["classes_trained"]) == (CLASSES, int(trained_C.sum()))
    assert result["map"] == pytest.approx(ap_C.mean(), abs=5e-4)
    assert result["map_trained"] == pytest.approx(ap_C[trained_C.numpy()].mean(), abs=5e-4)
    assert result["auroc_trained"] == pytest.approx(auroc_C[trained_C.numpy()].mean(), abs=5e-4)
    assert "map_trained" not in histogram.compute()


def test_state_survives_a_file(tmp_path: Path) -> None:
    logit_BC, label_BC = scores()
    whole, first, second = (ScoreHistogram(CLASSES) for _ in range(3))
    feed(whole, logit_BC, label_BC)
    feed(first, logit_BC[:2000], label_BC[:2000])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    feed(second, logit_BC[2000:], label_BC[2000:])
    assert second.compute() == whole.compute()
    with pytest.raises(ValueError, match="does not fit"):
        ScoreHistogram(CLASSES + 1).load_state_dict(first.state_dict())


def test_refuses_what_it_cannot_count() -> None:
    with pytest.raises(ValueError, match="power of two"):
        ScoreHistogram(3, bins=1000)
    with pytest.raises(ValueError, match="for 3 classes"):
        ScoreHistogram(3).update(torch.zeros(2, 4), torch.zeros(0, 2, dtype=torch.int64))


RANK = """
import json, sys, torch, torch.distributed as dist
from dawnchorus.trainer.ranking_metrics import ScoreHistogram
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
data = torch.load(f"{folder}/scores.pt", weights_only=True)
# Unequal shares, and a class that only one of the ranks has positives of.
part = slice(0, 1300) if rank == 0 else slice(1300, None)
histogram = ScoreHistogram(data["logit"].shape[1])
logit, label = data["logit"][part], data["label"][part]
for i in range(0, len(logit), 100):
    histogram.update(logit[i:i + 100], label[i:i + 100].nonzero())
histogram.sync()
json.dump(histogram.compute(), open(f"{folder}/{rank}.json", "w"))
torch.save(histogram.state_dict(), f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.ddp
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    logit_BC, label_BC = scores()
    logit_BC[7] = 60.0  # rank 0 alone has the wide range
    logit_BC[2000:] -= 0.25
    label_BC[1300:, 0] = False
    torch.save({"logit": logit_BC, "label": label_BC}, tmp_path / "scores.pt")
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    whole = ScoreHistogram(CLASSES)
    feed(whole, logit_BC, label_BC)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1] == whole.compute()
    joined = torch.load(tmp_path / "0.pt", weights_only=True)
    for name in joined.keys() - {"positives"}:
        assert torch.equal(joined[name], whole.state_dict()[name]), name


MEMORY = """
import torch
from dawnchorus.trainer.ranking_metrics import ScoreHistogram
def peak_mb():
    # ru_maxrss would start at the parent's: it is inherited over fork and exec.
    with open("/proc/self/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith("VmHWM")) / 1024
g = torch.Generator().manual_seed(0)
classes, batch, clips = 10_000, 128, 12_800
pool = torch.randn(2 * batch, classes, generator=g) * 1.5 - 7
before = peak_mb()
histogram = ScoreHistogram(classes)
for i in range(0, clips, batch):
    rows = torch.randint(0, len(pool), (batch,), generator=g)
    labels = torch.stack(
        [torch.arange(batch).repeat(3), torch.randint(0, classes, (3 * batch,), generator=g)], 1)
    histogram.update(pool[rows], labels)
histogram.compute()
state = sum(t.numel() * t.element_size() for t in histogram.state_dict().values())
positives = histogram.state_dict()["positives"]
print(peak_mb(), peak_mb() - before, state / 1e6, positives.nbytes / len(positives))
"""


@pytest.mark.slow
def test_ten_thousand_classes_fit_in_a_gigabyte() -> None:
    """All classes, an eighth of the 100,000 clips: only the positives, 8 bytes each, grow on.

    (100,000 clips took 26 s on two cores and peaked at 0.71 GB, 0.50 GB of it torch itself.)
    """
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=500
    )
    total_mb, added_mb, state_mb, bytes_each = (float(v) for v in run.stdout.split())
    assert bytes_each == 8
    growth_mb = 3 * (100_000 - 12_800) * bytes_each * 4 / 1e6  # 4: what sorting them needs
    assert state_mb < 130
    assert added_mb < 300
    assert total_mb + growth_mb < 1000
