"""The whole selection, as a person types it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.table.recording import Label, Recording

Make = Callable[..., Recording]
Table = Callable[..., Path]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory,
    make_table: Table,
    make_recording: Make,
    write_wav: Write,
    make_chirps: Callable[..., np.ndarray],
) -> Path:
    """30 recordings; among them copies, a broken file, a missing one, and evaluation sets."""
    root = tmp_path_factory.mktemp("archive")
    rows = []
    for n in range(30):
        write_wav(root / "a" / f"{n}.wav", make_chirps(n, 3.0))
        stated_s = {5: 0.0, 6: 30.0}.get(n, 3.0)
        rows.append(make_recording(n, quality="B", duration_s=stated_s))
    write_wav(root / "a" / "copy1.flac", make_chirps(1, 3.0))  # the same samples
    rows.append(make_recording(101, path="copy1.flac", quality="A"))
    write_wav(root / "a" / "copy2.ogg", 0.2 * make_chirps(2, 3.0)[800:])
    rows.append(make_recording(102, path="copy2.ogg", quality="C"))
    cut = np.concatenate([make_chirps(3, 3.0)[28000:], make_chirps(333, 4.0)])
    write_wav(root / "a" / "part3.wav", cut)
    rows.append(make_recording(103, path="part3.wav"))
    (root / "a" / "broken.mp3").write_bytes(b"<html>" * 100)
    rows.append(make_recording(104, path="broken.mp3"))
    rows.append(make_recording(105, path="gone.mp3"))
    rows.append(make_recording(106, path="", url="https://example.org/a.mp3"))
    rows.append(make_recording(107, path="7.wav", licence_url="All rights reserved"))
    rows.append(make_recording(108, path="8.wav", labels=(Label("Strix aluco", "species"),)))
    make_table(root / "a", rows)
    write_wav(root / "gbif" / "8.wav", make_chirps(808, 3.0))
    same = make_recording(
        9, id="gbif:77", source="gbif", source_id="77", path="8.wav",
        url="https://xeno-canto.org/sounds/uploaded/OH/XC29-a.mp3",
    )  # fmt: skip
    make_table(root / "gbif", [same])
    write_wav(root / "eval" / "sub" / "e10.mp3", make_chirps(10, 3.0))
    write_wav(root / "eval" / "e11.wav", make_chirps(11, 3.0))
    write_wav(root / "eval" / "XC12.wav", make_chirps(1212, 3.0))
    write_wav(root / "bench" / "b.wav", make_chirps(1313, 3.0))
    event = make_recording(
        1, id="other:1", source="other", source_id="1", path="b.wav", recordist="ANN",
        datetime="2020-05-05", labels=(Label("Parus major", "species"),),
    )  # fmt: skip
    make_table(root / "bench", [event])
    return root


def recipe(root: Path, **changes: Any) -> Path:
    base: dict[str, Any] = {
        "tables": {"a": {"table": str(root / "a")}, "gbif": {"table": str(root / "gbif")}},
        "evaluation": {"sets": {"mine": {"path": str(root / "eval")}}, "species": ["strix  Aluco"]},
        "split": {"parts": {"train": 0.7, "test": 0.3}},
        "run": {"jobs": 1, "cache": str(root / "cache")},
    }
    path = root / f"recipe{abs(hash(json.dumps(changes, sort_keys=True)))}.yaml"
    path.write_text(yaml.safe_dump(base | changes))
    return path


def select(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(prep_app, ["select", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def made(archive: Path) -> tuple[Path, str]:
    out = archive / "out"
    return out, select(str(recipe(archive)), "--out", str(out))


def rejected(out: Path) -> dict[str, str]:
    frame = pl.read_parquet(out / "rejected.parquet")
    return dict(frame.select("recording_id", "reason").iter_rows())


def test_what_goes_and_why(made: tuple[Path, str]) -> None:
    out, screen = made
    assert rejected(out) == {
        "xc:1": "duplicate_samples",  # xc:101 has the better rating
        "xc:102": "duplicate_near",
        "xc:104": "not_audio",
        "xc:105": "missing",
        "xc:106": "missing",
        "xc:107": "licence",
        "xc:108": "evaluation_held_out_species",
        "xc:10": "evaluation_fingerprint",
        "xc:11": "evaluation_samples",
        "xc:12": "evaluation_id",
        "gbif:77": "duplicate_id",
    }
    frame = pl.read_parquet(out / "recordings.parquet")
    assert frame.height == 39 - 11
    assert not set(frame["id"]) & set(rejected(out))
    assert set(frame["split"]) == {"train", "test"}
    assert all(Path(path).is_file() for path in frame["path"])
    heard_s = frame.filter(pl.col("id").is_in(["xc:5", "xc:6"]))["duration_s"]
    assert heard_s.to_list() == pytest.approx([3.0, 3.0])  # stated: nothing, 30 s
    assert "another length than their tables say: 3 (" in screen  # xc:6, 101, 102


def test_duplicates_links_and_leaks_are_written(made: tuple[Path, str]) -> None:
    out, _ = made
    pairs = pl.read_parquet(out / "duplicates.parquet").sort("dropped_id")
    assert pairs.select("kept_id", "dropped_id", "kind").rows() == [
        ("xc:29", "gbif:77", "id"),
        ("xc:101", "xc:1", "samples"),
        ("xc:2", "xc:102", "near"),
    ]
    assert pairs["score"].to_list()[2] > 0.8
    assert abs(pairs["lag_s"].to_list()[2]) == pytest.approx(0.05, abs=0.002)
    links = pl.read_parquet(out / "links.parquet")
    assert links.select("kind").rows() == [("part",)]
    assert {links["a_id"].item(), links["b_id"].item()} == {"xc:3", "xc:103"}
    assert links["overlap_s"].item() == pytest.approx(1.25, abs=0.1)
    frame = pl.read_parquet(out / "recordings.parquet")
    joined = frame.filter(pl.col("id").is_in(["xc:3", "xc:103"]))
    assert joined["split"].n_unique() == 1
    assert joined["group_id"].n_unique() == 1
    leaks = pl.read_parquet(out / "leakage.parquet")
    found = set(leaks.select("recording_id", "rule", "evaluation_set").iter_rows())
    assert ("xc:10", "fingerprint", "mine") in found
    assert ("xc:11", "samples", "mine") in found
    assert ("xc:12", "id", "mine") in found
    assert ("xc:108", "held_out_species", "") in found
    text = (out / "leakage.md").read_text()
    assert "| mine | 3 | samples: equal decoded samples | 1 |" in text


def test_selection_json_and_screen(made: tuple[Path, str]) -> None:
    out, screen = made
    content = json.loads((out / "selection.json").read_text())
    steps = [step["recordings"] for step in content["funnel"]]
    assert steps[0] == 39
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 28
    gone = sum(sum(step["dropped"].values()) for step in content["funnel"])
    assert gone == 11
    assert content["duplicates"] == {"id": 1, "near": 1, "samples": 1}
    assert content["recipe"]["split"]["parts"] == {"train": 0.7, "test": 0.3}
    assert sum(part["recordings"] for part in content["parts"].values()) == 28
    for told in ("evaluation: sound", "without nc", "train", str(out / "recordings.parquet")):
        assert told in screen


def test_second_run_reads_no_audio_and_gives_the_same(
    made: tuple[Path, str], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_decoding(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("dawnchorus.data_prep.audio.decode.decode", no_decoding)
    out = archive / "again"
    select(str(recipe(archive)), "--out", str(out))
    for name in ("recordings", "rejected", "duplicates", "links", "leakage"):
        one, two = (pl.read_parquet(f / f"{name}.parquet") for f in (made[0], out))
        assert one.drop("labels", strict=False).equals(two.drop("labels", strict=False)), name


def test_keep_puts_copies_together(archive: Path) -> None:
    out = archive / "kept"
    select(str(recipe(archive, duplicates={"action": "keep"})), "--out", str(out))
    frame = pl.read_parquet(out / "recordings.parquet")
    for pair in (("xc:1", "xc:101"), ("xc:2", "xc:102"), ("xc:29", "gbif:77")):
        both = frame.filter(pl.col("id").is_in(pair))
        assert both.height == 2
        assert both["split"].n_unique() == both["group_id"].n_unique() == 1
    assert pl.read_parquet(out / "duplicates.parquet").height == 0


def test_without_hearing_no_audio_is_needed(archive: Path) -> None:
    out = archive / "deaf"
    select(
        str(recipe(archive, evaluation={})), "duplicates.same_samples=false",
        "duplicates.near=false", "filters.licences.deny=[]", "--out", str(out),
    )  # fmt: skip
    assert rejected(out) == {"gbif:77": "duplicate_id"}
    assert not (out / "cache").exists()


def test_event_rule_and_a_table_as_evaluation_set(
    archive: Path, make_table: Table, make_recording: Make, write_wav: Write
) -> None:
    ann = {"recordist": "Ann", "datetime": "2020-05-05T07:00"}
    rows = [
        make_recording(1, labels=(Label("Parus major", "species"),), **ann),
        make_recording(2, labels=(Label("Turdus merula", "species"),), **ann),
    ]
    table = make_table(archive / "events", rows)
    bench: dict[str, Any] = {"path": str(archive / "bench"), "same_event": True}
    given = {
        "tables": {"e": {"table": str(table), "audio": str(archive / "a")}},
        "evaluation": {"sets": {"bench": bench}},
    }
    out = archive / "event"
    select(str(recipe(archive, **given)), "--out", str(out))
    assert rejected(out) == {"xc:1": "evaluation_event"}


def test_a_dataset_of_shards_as_evaluation_set(
    archive: Path, make_table: Table, make_recording: Make
) -> None:
    """Its pieces are in tars; the originals may be gone."""
    from dawnchorus.data_prep.dataset.build import build_dataset
    from dawnchorus.data_prep.dataset.options import BuildOptions

    source = archive / "a"
    recordings = [make_recording(500, path="20.wav"), make_recording(501, path="21.wav")]
    build_dataset(recordings, source, archive / "shards", BuildOptions(jobs=1))
    given = {
        "tables": {"a": {"table": str(source)}},
        "evaluation": {"sets": {"shards": {"path": str(archive / "shards")}}},
    }
    out = archive / "sharded"
    select(str(recipe(archive, **given)), "--out", str(out))
    reasons = rejected(out)
    assert reasons["xc:20"] == reasons["xc:21"] == "evaluation_samples"
    sounds_only = {"path": str(archive / "shards"), "same_samples": False}
    given["evaluation"] = {"sets": {"shards": sounds_only}}
    select(str(recipe(archive, **given)), "--out", str(out))
    assert rejected(out)["xc:20"] == "evaluation_fingerprint"


def test_a_copy_of_a_leak_is_a_leak(archive: Path, make_table: Table, make_recording: Make) -> None:
    """Equal samples twice in the table: only one is searched, both go."""
    rows = [make_recording(n, path=path) for n, path in ((10, "10.wav"), (910, "10.wav"))]
    table = make_table(archive / "twice", [*rows, make_recording(4)])
    out = archive / "leaked"
    given = {"tables": {"t": {"table": str(table), "audio": str(archive / "a")}}}
    select(str(recipe(archive, **given)), "--out", str(out))
    assert rejected(out) == {"xc:10": "evaluation_fingerprint", "xc:910": "evaluation_copy"}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("filters.taxa=[Pica]", r"by filters\.taxa=\[Pica\] \(taxon\)"),
        ("filters.licences.allow=[pdm]", r"by filters\.licences\.allow=\[pdm\].*they have 'http"),
        ("filters.duration.min_s=5000", r"by filters\.duration\.min_s=5000\.0 \(duration\)"),
        ("filters.sources=[asa]", r"by filters\.sources=\[asa\] \(source\).*'xc' \d"),
    ],
)
def test_nothing_left_names_the_key_and_the_count(archive: Path, key: str, says: str) -> None:
    text = " ".join(
        select(str(recipe(archive)), key, "--out", str(archive / "none"), code=2).split()
    )
    assert re.search(rf"Nothing is left of the \d+ recordings.*: \d+ {says}", text), text
    assert not (archive / "none" / "recordings.parquet").exists()


def test_mistakes_of_the_user(archive: Path, tmp_path: Path) -> None:
    assert "is the folder of tables.a" in select(
        str(recipe(archive)), "--out", str(archive / "a"), code=2
    )
    assert "there is no" in select(
        str(recipe(archive)), "evaluation.sets.mine.path=nowhere", "--out", str(tmp_path), code=2
    )
    assert "no recording table" in select(
        str(recipe(archive)), "tables.a.table=nowhere", "--out", str(tmp_path), code=2
    )
    (tmp_path / "empty").mkdir()
    assert "neither" in select(
        str(recipe(archive)), f"evaluation.sets.mine.path={tmp_path / 'empty'}",
        "--out", str(tmp_path / "o"), code=2,
    )  # fmt: skip
    result = CliRunner().invoke(prep_app, ["select", "--keys"])
    assert result.exit_code == 0
    assert "filters.quality.at_least: null" in result.output


def test_recordings_that_labels_leave_are_stripped(archive: Path) -> None:
    out = archive / "rare"
    select(str(recipe(archive)), "caps.min_per_class=10", "--out", str(out))
    frame = pl.read_parquet(out / "recordings.parquet", columns=["id", "labels"])
    names = frame["labels"].list.eval(pl.element().struct.field("name")).explode()
    assert names.value_counts()["count"].min() >= 10
