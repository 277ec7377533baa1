"""A window drawn in training has exactly the labels of the events in it.

Recordings are composed of calls over noise, with a selection table of Raven for each; the truth is
computed here, from the places where the calls were put.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.trainer.data.config import DataConfig, SourceConfig
from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.data.module import TrainStream, train_loader
from scripts.compose_annotated import compose as compose_real

RATE = 16000
SECONDS, WINDOW_S = 40, 2.0
CLASSES = ("chirp", "hum", "trill")
Truth = dict[str, list[tuple[float, float, str]]]


def compose(folder: Path) -> Truth:
    """Write recordings and their selection tables; return begin, end and label of every call."""
    rng = np.random.default_rng(1)
    truth: Truth = {}
    for number in range(4):
        wav_T = 0.01 * rng.standard_normal(SECONDS * RATE)
        calls = []
        for _ in range(6):
            length = int(rng.uniform(0.2, 4.0) * RATE)
            start = int(rng.integers(0, len(wav_T) - length))
            label = int(rng.integers(len(CLASSES)))
            time_L = np.arange(length) / RATE
            wav_T[start : start + length] += 0.3 * np.sin(2 * np.pi * 500 * (label + 1) * time_L)
            calls.append((start / RATE, (start + length) / RATE, CLASSES[label]))
        soundfile.write(folder / f"r{number}.wav", wav_T, RATE)
        lines = ["Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tSpecies"]
        lines += [
            f"{n}\tSpectrogram 1\t1\t{begin}\t{end}\t{name}"
            for n, (begin, end, name) in enumerate(calls, start=1)
        ]
        (folder / f"r{number}.Table.1.selections.txt").write_text("\n".join(lines) + "\n")
        truth[f"r{number}"] = calls
    return truth


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("strong")
    truth = compose(folder)
    prepare_folder(folder, folder / "out", annotations=folder, clip_s=10.0, jobs=1)
    return folder / "out", truth


def stream_of(out: Path) -> TrainStream:
    return TrainStream(
        DataConfig(train={"a": SourceConfig(path=str(out))}, window_s=WINDOW_S), seed=3
    )


def expected(calls: list[tuple[float, float, str]], first_s: float, last_s: float) -> set[str]:
    """The labels of a window by the rule: a fifth of the shorter of call and window."""
    found = set()
    for begin, end, name in calls:
        shared = min(end, last_s) - max(begin, first_s)
        if shared > 0 and shared >= 0.2 * min(end - begin, last_s - first_s) - 1e-6:
            found.add(name)
    return found


def assert_exact(stream: TrainStream, truth: Truth, count: int) -> tuple[int, int]:
    """Compare the labels of the first windows with the truth; return how many have none, and how
    many have others than their clip.
    """
    index = stream.sources[0].index
    starts = index.column("start_s")
    names = [Path(text).stem for text in index.column("recording_id")]
    names = [name.rpartition(":")[2] for name in names]
    positions = range(count)
    batch = stream[positions]
    drawn: list[set[str]] = [set() for _ in positions]
    for row, label in batch["labels_P2"].tolist():
        drawn[row].add(stream.labels.names[label])
    empty = differs = 0
    for row, draw in enumerate(stream.order.draws(0, len(positions))):
        clip = draw.clip
        room = int(index.samples_N[clip]) - stream.window_samples
        first_s = starts[clip] + int(draw.window_u * (room + 1)) / RATE
        wanted = expected(truth[names[clip]], first_s, first_s + WINDOW_S)
        assert drawn[row] == wanted, (row, names[clip], first_s)
        empty += not wanted
        whole = {stream.labels.names[i] for i in index.label_ids(clip)}
        differs += wanted != whole
    return empty, differs


def test_every_drawn_window_has_the_labels_of_its_events(prepared: tuple[Path, Truth]) -> None:
    out, truth = prepared
    stream = stream_of(out)
    empty, differs = assert_exact(stream, truth, 600)
    assert empty > 50 and differs > 100, "the windows must not be like their clips"


def test_real_sounds_over_noise(real_sound: Path, tmp_path: Path) -> None:
    if not (real_sound / "esc10" / "metadata.csv").is_file():
        pytest.skip(f"no real sound at {real_sound}")
    site = tmp_path / "site"
    count = compose_real(real_sound / "esc10", site, recordings=3, seconds=60.0, seed=0)
    truth: Truth = {}
    for table in site.glob("*.txt"):
        for line in table.read_text().splitlines()[1:]:
            cells = line.split("\t")
            call = (float(cells[3]), float(cells[4]), cells[6])
            truth.setdefault(Path(cells[5]).stem, []).append(call)
    assert sum(map(len, truth.values())) == count
    prepare_folder(site, tmp_path / "out", annotations=site, clip_s=10.0, jobs=1)
    assert_exact(stream_of(tmp_path / "out"), truth, 300)


def test_labels_follow_from_the_position_alone(prepared: tuple[Path, Truth]) -> None:
    out, _ = prepared
    whole = stream_of(out)[range(64)]
    pairs = {tuple(pair) for pair in whole["labels_P2"].tolist()}
    # Resumed at position 20, in smaller batches, by two ranks and a worker process.
    seen = set()
    for rank in range(2):
        loader = train_loader(stream_of(out), first_position=20, micro_batch=4, rank=rank,
                              world_size=2, workers=rank)  # fmt: skip
        for _, batch in zip(range(5), loader, strict=False):
            position_B = batch["position_B"].tolist()
            seen |= {(position_B[row], label) for row, label in batch["labels_P2"].tolist()}
    assert seen == {pair for pair in pairs if 20 <= pair[0] < 60} and len(seen) > 10


def test_validation_labels_are_those_of_the_first_window(prepared: tuple[Path, Truth]) -> None:
    out, truth = prepared
    source = SourceConfig(path=str(out))
    config = DataConfig(train={"a": source}, valid={"a": source}, window_s=WINDOW_S)
    stream = TrainStream(config)
    index = stream.valid.sources[0].index
    batch = stream.valid[range(len(index))]
    labels: list[set[str]] = [set() for _ in range(len(index))]
    for row, label in batch["labels_P2"].tolist():
        labels[row].add(stream.labels.names[label])
    starts, ids = index.column("start_s"), index.column("recording_id")
    for clip, name in enumerate(ids):
        stem = Path(name.rpartition(":")[2]).stem
        assert labels[clip] == expected(truth[stem], starts[clip], starts[clip] + WINDOW_S)


def test_classes_of_windows_count_as_present(prepared: tuple[Path, Truth]) -> None:
    index = ShardIndex.open(prepared[0])
    assert (index.label_counts() > 0).all() and len(index.labels) == len(CLASSES)
