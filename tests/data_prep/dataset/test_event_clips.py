"""Recordings with events become clips whose labels are those of what is heard in them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.dataset.build import build_dataset
from dawnchorus.data_prep.dataset.options import BuildOptions
from dawnchorus.data_prep.dataset.verify import verify_dataset
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.describe import describe_dataset
from dawnchorus.data_prep.table.recording import Event, Label, Recording, from_row, to_row
from dawnchorus.data_prep.table.recording_table import read_recordings, write_table

RATE = 16000
X, Y, Z = Label("x"), Label("y"), Label("z")
# 23 s: x in the first window, y across two borders, a box without a name, z above 8 kHz.
EVENTS = (
    Event(1.0, 2.0, 100, 2000, "x"), Event(4.5, 10.5, None, None, "y"),
    Event(15.5, 15.6, None, None, ""), Event(16.0, 16.1, 9000, 20000, "z"),
)  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 28), ("b", 7), ("c", 3)):
        wav = 0.1 * rng.standard_normal(RATE * seconds)
        soundfile.write(folder / f"{name}.wav", wav, RATE)
    return folder


def recordings() -> list[Recording]:
    shared: dict[str, Any] = {"source": "s", "group_id": "g"}
    return [
        Recording(id="s:a", source_id="a", path="a.wav", labels=(X, Y, Z), events=EVENTS, **shared),
        Recording(id="s:b", source_id="b", path="b.wav", labels=(X,), **shared),
        Recording(id="s:c", source_id="c", path="c.wav", events=(), **shared),
    ]


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.read_table(out / "index.parquet").to_pylist()}


def records(out: Path) -> Iterator[dict[str, Any]]:
    for path in out.glob("*/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    yield json.load(tar.extractfile(member))  # type: ignore[arg-type]


def test_windows_labels_negatives_and_what_is_left_out(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stats = build_dataset(recordings(), sounds, out, BuildOptions(jobs=1))
    rows = rows_of(out)
    # y covers 0.5 s of the first and of the third window: 10 % of the shorter, too little. The
    # third has nothing else and is left out, as is the fourth, with the nameless box and z.
    found = {k: (r["start_s"], r["label_ids"], r["event_ids"]) for k, r in rows.items()}
    assert found == {
        "a_0000": (0.0, [0], [0, 1]), "a_0001": (5.0, [1], [1]),
        "a_0002": (20.0, [], []), "a_0003": (23.0, [], []),
        "b_0000": (0.0, [0], None), "c_0000": (0.0, [], []),
    }  # fmt: skip
    assert rows["a_0001"]["event_start_s"] == [-0.5] and rows["a_0001"]["event_end_s"] == [5.5]
    strong = stats["strong"]
    assert (strong["negatives"], strong["empty"], strong["unsure"]) == (3, 3, 2)
    assert strong["unlabelled"] == 1 and strong["events"]["z"]["above_nyquist"] == 1
    assert stats["clips_per_label"] == {"x": 2, "y": 1, "z": 0}
    assert json.loads((out / "labels.json").read_text())["strong"] == {
        "least_overlap": 0.2, "least_overlap_s": None,
    }  # fmt: skip
    by_key = {record["key"]: record for record in records(out)}
    assert [e["label"] for e in by_key["a_0000"]["events"]] == ["x", "y"]
    assert by_key["a_0000"]["labels"][0]["name"] == "x" and by_key["a_0000"]["strong"]
    assert by_key["b_0000"]["events"] == [] and not by_key["b_0000"]["strong"]
    report = verify_dataset(out, jobs=1)
    assert not report.problems and not any("negatives" in text for text in report.warnings)
    assert describe_dataset(out)["strong"] == strong
    card = (out / "README.md").read_text()
    assert "Negatives: 3 clips" in card and "z: 1 of 1 events lie above 8 kHz" in card


def test_clips_around_events_shares_and_rules(sounds: Path, tmp_path: Path) -> None:
    around = BuildOptions(jobs=1, clips_at="events", clip_s=2.0, empty_share=0.0)
    build_dataset(recordings()[:1], sounds, tmp_path / "a", around)
    found = sorted((r["start_s"], r["label_ids"]) for r in rows_of(tmp_path / "a").values())
    assert found == [(0.5, [0]), (6.5, [1])]
    (warning,) = [t for t in verify_dataset(tmp_path / "a").warnings if "negatives" in t]
    assert "none" in warning
    seconds = BuildOptions(jobs=1, least_overlap_s=0.5, hop_s=2.5)
    build_dataset(recordings()[:1], sounds, tmp_path / "b", seconds)
    found = sorted((r["start_s"], r["label_ids"]) for r in rows_of(tmp_path / "b").values())
    assert found[:5] == [(0.0, [0, 1]), (2.5, [1]), (5.0, [1]), (7.5, [1]), (10.0, [1])]
    assert json.loads((tmp_path / "b" / "labels.json").read_text())["task"] == "detection"
    build_dataset(recordings()[:1], sounds, tmp_path / "c",
                  BuildOptions(jobs=1, hop_s=0.1, empty_share=0.5))  # fmt: skip
    strong = json.loads((tmp_path / "c" / "stats.json").read_text())["strong"]
    assert 0.3 < strong["negatives"] / strong["empty"] < 0.7


def test_verify_finds_wrong_events(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_dataset(recordings(), sounds, out, BuildOptions(jobs=1))
    table = pq.read_table(out / "index.parquet")
    rows = table.to_pylist()
    row = next(row for row in rows if row["key"] == "a_0001")
    row["event_end_s"] = [0.6]
    changed = table.from_pylist(rows, schema=table.schema)
    pq.write_table(changed, out / "index.parquet")
    assert any("events are" in problem.what for problem in verify_dataset(out).problems)


def test_datasets_without_events_are_as_before(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stats = build_dataset(recordings()[1:2], sounds, out, BuildOptions(jobs=1))
    assert "strong" not in stats and "clip_s" not in stats["options"]
    assert "event_ids" not in pq.read_schema(out / "index.parquet").names
    assert "events" not in next(records(out))


def test_tables_keep_events(tmp_path: Path) -> None:
    write_table(iter(recordings()), tmp_path)
    assert [r.events for r in read_recordings(tmp_path)] == [EVENTS, None, ()]
    assert from_row(to_row(recordings()[0])) == recordings()[0]


def test_events_get_the_new_names_of_their_labels(tmp_path: Path) -> None:
    events = (Event(1, 2, label="Great Tit"), Event(2, 3))
    given = replace(recordings()[0], labels=(Label("Great Tit", "species"),), events=events)
    write_table(iter([given]), tmp_path / "t")
    overrides = tmp_path / "names.csv"
    overrides.write_text("name,use\nGreat Tit,Parus major\n")
    command = ["labels", str(tmp_path / "t"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(prep_app, [*command, "--overrides", str(overrides)])
    assert done.exit_code == 0, done.output
    (found,) = read_recordings(tmp_path / "o")
    assert [event.label for event in found.events or ()] == ["Parus major", ""]


@pytest.mark.parametrize("event", [Event(2, 1, label="x"), Event(1, 2, label="q"), Event(-1, 2)])
def test_impossible_events_are_refused(sounds: Path, tmp_path: Path, event: Event) -> None:
    bad = replace(recordings()[0], events=(event,))
    with pytest.raises(PrepError, match="events that end before they begin"):
        build_dataset([bad], sounds, tmp_path / "out", BuildOptions(jobs=1))
