"""Tokens of clips: what a file holds, how large it may be, how much memory reading takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.evaluation.clips import Clips, open_clips
from dawnchorus.trainer.evaluation.embed import LogMelStatistics
from dawnchorus.trainer.evaluation.tokens import (
    GIB,
    LiveTokens,
    TokenFile,
    make_room,
    open_tokens,
    write_tokens,
)
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.pooling import pool

ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2},
    "efficientnet": {"name": "efficientnet", "depth": 0.25, "dim": 48},
    "hubert": {
        "name": "hubert", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2, "conv_dim": 16,
        "conv_pos": 16, "conv_pos_groups": 4,
    },
}  # fmt: skip
WINDOW = 16000


@pytest.fixture(scope="module")
def clips(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Seven clips of noise, .3 to 1.4 s; the window is 1 s."""
    rng = np.random.default_rng(3)
    rows = [
        {"wav": (3000 * rng.standard_normal(n)).astype(np.int16), "labels": [label]}
        for n, label in zip((9000, 16000, 4800, 22400, 11000, 16000, 7000), "abababa", strict=True)
    ]
    folder = make_dataset(tmp_path_factory.mktemp("noise") / "set", rows, ["a", "b"])
    return open_clips(folder)


@pytest.fixture(params=["beats", *ENCODERS])
def model(request: pytest.FixtureRequest, tiny_encoder: dict[str, Any]) -> BioEncoder:
    torch.manual_seed(0)
    return BioEncoder.from_config(ENCODERS.get(request.param, tiny_encoder)).eval()


def live(model: Any, clips: Clips, **options: Any) -> LiveTokens:
    return LiveTokens(model, clips, window=WINDOW, batch_size=3, **options)


def test_a_file_holds_each_clips_own_tokens(
    model: BioEncoder, clips: Clips, tmp_path: Path
) -> None:
    """The reference: every clip alone through the encoder, without a file, padding or batches."""
    source = live(model, clips, layers="blocks")
    write_tokens(tmp_path / "a.tokens.npy", source)
    file = TokenFile(tmp_path / "a.tokens.npy")
    assert file.shape == source.shape and file.shape.clips == len(clips) == 7
    rows = np.array([5, 2, 0])
    found, valid = file.read(rows)
    assert found.dtype == torch.float16
    again, valid_again = source.read(rows)
    assert torch.equal(valid, valid_again)
    torch.testing.assert_close(found, again, atol=2e-2, rtol=2e-3)
    for i, row in enumerate(rows):
        samples = min(int(clips.samples_N[row]), WINDOW)
        wav = torch.from_numpy(clips.read(int(row), 0, samples)).float()[None] / 32768
        with torch.inference_mode():
            out = model(wav, torch.tensor([samples]), layers=True)
        own = int(out.valid_BN.sum())
        assert valid[i].sum() == own and not found[i, :, own:].any()
        for layer, expected in enumerate(out.layers[1:]):
            width = expected.shape[-1]
            torch.testing.assert_close(
                found[i, layer, :own, :width].float(), expected[0, :own], atol=2e-2, rtol=2e-3
            )
            assert not found[i, layer, :, width:].any() and file.shape.widths[layer] == width
    assert file.shape.prefix == model.encoder.grid(64).prefix


def test_the_mean_of_the_last_tokens_is_the_pooled_embedding(
    model: BioEncoder, clips: Clips
) -> None:
    rows = np.arange(7)
    tokens, valid = live(model, clips).read(rows)
    wav = np.zeros((7, WINDOW), np.int16)
    for row in rows:
        cut = clips.read(int(row), 0, min(int(clips.samples_N[row]), WINDOW))
        wav[row, : len(cut)] = cut
    samples = torch.from_numpy(np.minimum(clips.samples_N, WINDOW))
    with torch.inference_mode():
        expected = model.embed(torch.from_numpy(wav).float() / 32768, samples)
    pooled = pool(tokens[:, 0].float(), valid)
    torch.testing.assert_close(pooled, expected, atol=5e-3, rtol=5e-3)


def test_a_stride_keeps_whole_columns_and_the_tokens_in_front(
    model: BioEncoder, clips: Clips
) -> None:
    rows = np.array([1])
    every, _ = live(model, clips).read(rows)
    third, valid = live(model, clips, stride=3).read(rows)
    grid = model.encoder.grid(model.frontend(torch.zeros(1, WINDOW), None)[0].shape[1])
    kept = [*range(grid.prefix)]
    for t in range(0, grid.times, 3):
        kept += [grid.prefix + grid.bands * t + f for f in range(grid.bands)]
    assert torch.equal(third, every[:, :, kept]) and bool(valid.all())


def test_frames_of_log_mel_are_tokens_too(clips: Clips) -> None:
    source = live(LogMelStatistics().eval(), clips, stride=4)
    tokens, valid = source.read(np.array([2, 1]))
    assert source.shape.dim == 128 and source.shape.prefix == 0
    assert tokens.shape[:2] == (2, 1) and valid.sum(1).tolist() == [7, 25]


def test_the_size_is_said_first_and_kept_to(
    clips: Clips, tiny_encoder: dict[str, Any], tmp_path: Path
) -> None:
    model, path = BioEncoder.from_config(tiny_encoder).eval(), tmp_path / "cache" / "x.tokens.npy"
    said: list[str] = []

    def say(text: str) -> None:
        said.append(f"{text} ({'file' if path.exists() else 'no file'})")

    def opened(place: Path | None = path, gib: float = 1.0) -> Any:
        return open_tokens(lambda: live(model, clips), place, limit_gib=gib, say=say)

    refused = opened(gib=1e-6)
    assert isinstance(refused, LiveTokens) and not path.exists()
    assert "more than tokens.limit_gib" in said[0] and "encoded again" in said[0]
    made = opened()
    assert isinstance(made, TokenFile) and said[1].endswith("(no file)")
    assert "7 clips x 1 layers x 48 tokens x 32 channels, 0.00 GiB" in said[1]
    assert path.stat().st_size - made.offset == made.shape.bytes
    # The second time it is there, and the encoder is not needed.
    again = open_tokens(lambda: pytest.fail("encoded again"), path, limit_gib=1, say=said.append)
    rows = np.arange(7)
    assert torch.equal(again.read(rows)[0], made.read(rows)[0]) and len(said) == 2
    # A deleted file can still be read by the one who has it open.
    path.unlink()
    assert torch.equal(again.read(rows)[0], made.read(rows)[0])
    before = sorted(tmp_path.rglob("*"))
    temporary = opened(None)
    assert isinstance(temporary, TokenFile) and sorted(tmp_path.rglob("*")) == before
    assert torch.equal(temporary.read(rows)[0], made.read(rows)[0])
    torch.testing.assert_close(refused.read(rows)[0], made.read(rows)[0], atol=1e-2, rtol=1e-3)


def test_old_files_make_room_for_new_ones(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        file = tmp_path / f"{name}.tokens.npy"
        file.write_bytes(bytes(1000))
        file.with_suffix(".npz").write_bytes(b"x")
        os.utime(file, (1e9 - age, 1e9 - age))
    (tmp_path / "embeddings.npy").write_bytes(bytes(5000))
    make_room(tmp_path, 1000, 3000 / GIB)
    left = {file.name.partition(".")[0] for file in tmp_path.iterdir()}
    assert left == {"new", "older", "embeddings"} and len(list(tmp_path.iterdir())) == 5


def test_tokens_that_are_no_numbers_leave_no_file(
    clips: Clips, tiny_encoder: dict[str, Any], tmp_path: Path
) -> None:
    model = BioEncoder.from_config(tiny_encoder).eval()
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(1e38)
    with pytest.raises(CheckpointError, match="the tokens of all 7 clips are NaN or infinite"):
        open_tokens(lambda: live(model, clips), tmp_path / "a.tokens.npy", limit_gib=1)
    assert not list(tmp_path.iterdir())


READ_ALL = """
import resource, sys
from pathlib import Path
import numpy as np
from dawnchorus.trainer.evaluation.tokens import TokenFile
file = TokenFile(Path(sys.argv[1]))
file.read(np.arange(8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, file.shape.clips, 8):
    file.read(np.arange(start, min(start + 8, file.shape.clips)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_reading_takes_the_memory_of_a_batch_not_of_the_file(tmp_path: Path) -> None:
    shape = (2048, 4, 60, 64)  # 63 MB
    path = tmp_path / "a.tokens.npy"
    np.lib.format.open_memmap(path, "w+", np.float16, shape).flush()
    np.savez(path.with_suffix(".npz"), count_N=np.full(2048, 60), widths=[64] * 4, prefix=0)
    command = [sys.executable, "-c", READ_ALL, str(path)]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # One batch is 0.25 MB; a map that is kept would count with all its 63 MB.
    assert grown_kib < 8 * 1024
