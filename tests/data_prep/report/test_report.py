"""The page about a dataset: its numbers, its drawings, what it tolerates."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import data_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.clips import clips
from dawnchorus.data_prep.report.gather import gather
from dawnchorus.data_prep.report.page import bands, write_report
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected, write_table
from dawnchorus.trainer.page.charts import columns, tail, world

BY = "https://creativecommons.org/licenses/by/4.0/"
BY_NC = "https://creativecommons.org/licenses/by-nc/4.0/"
BY_ND = "https://creativecommons.org/licenses/by-nd/4.0/"
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"


def bird(name: str, order: str = "Passeriformes", role: str = "foreground") -> Label:
    return Label(name, "species", role, "t", (("class", "Aves"), ("order", order)))


FROG = Label("Rana temporaria", "species", ids=(("class", "Amphibia"), ("order", "Anura")))
RAIN = Label("Rain", "sound", taxonomy="audioset", ids=(("audioset", "/m/06mb1"),))


def recording(i: int, *labels: Label, source: str = "xc", **fields: object) -> Recording:
    given = {"licence_url": BY, "recordist": f"Ann {i}", "path": f"{i}.wav", "group_id": f"g{i}"}
    return Recording(
        id=f"{source}:{i}", source=source, source_id=str(i), labels=labels,
        **(given | fields),  # type: ignore[arg-type]
    )  # fmt: skip


ROWS = [
    recording(1, bird("Parus major"), country="Germany", datetime="2015-06-23T07:17", lat=52.5,
              lon=13.4, duration_s=3600.0, sample_rate_hz=44100, channels=2, codec="mp3"),
    recording(2, bird("Parus major"), FROG, country="DE", datetime="2015", lat=52.6, lon=13.9,
              duration_s=1800.0, sample_rate_hz=48000, channels=1, codec="flac"),
    recording(3, Label("Parus major minor", "subspecies", ids=(("class", "Aves"),)), source="inat",
              licence_url=BY_NC, country="JP", datetime="1999-01", lat=-33.0, lon=151.0),
    recording(4, RAIN, bird("Bubo bubo", "Strigiformes", "background"), source="audioset",
              licence_url="", recordist="", datetime="unknown", duration_s=10.0),
    recording(5, source="audioset", licence_url=CC0, datetime="0000-00-00", lat=95.0, lon=1.0,
              duration_s=0.5),
]  # fmt: skip
REJECTED = [
    Rejected(recording_id="xc:9", reason="restricted", detail="sensitive"),
    Rejected(recording_id="xc:10", reason="restricted"),
    Rejected(recording_id="xc:11", reason="too_odd"),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        dataclasses.replace(row, lat=None, lon=None) if row.lat == 95.0 else row for row in ROWS
    ]
    write_table([*rows, *REJECTED], tmp_path / "table")
    return tmp_path / "table"


# --------------------------------------------------------------------------- numbers


def test_every_number(table: Path) -> None:
    facts = gather(table)
    assert facts.recordings == 5 and not facts.finished
    assert facts.hours == pytest.approx(1.5 + 10.5 / 3600) and facts.unknown_length == 1
    assert facts.species == 2 and facts.recordists == 4  # the subspecies is of a species
    shown = {s.name: (s.recordings, s.species, s.recordists) for s in facts.shares["source"]}
    assert shown == {"xc": (2, 2, 2), "inat": (1, 1, 1), "audioset": (2, 0, 1)}
    assert [s.name for s in facts.shares["source"]] == ["xc", "audioset", "inat"]  # by hours
    # A recording with a bird and a frog counts in both classes, once in each.
    classes = {s.name: (s.recordings, s.species) for s in facts.shares["class"]}
    assert classes == {"Aves": (3, 1), "Amphibia": (1, 1), "sounds without a taxon": (1, 0),
                       "no label": (1, 0)}  # fmt: skip
    aves = next(s for s in facts.shares["class"] if s.name == "Aves")
    assert [(p.name, p.recordings) for p in aves.parts] == [("Passeriformes", 2)]
    assert aves.hours == pytest.approx(1.5)
    assert {s.name: s.recordings for s in facts.shares["licence_url"]} == {
        BY: 2,
        BY_NC: 1,
        CC0: 1,
        "": 1,
    }
    # GBIF's code and Xeno-canto's name are one country; what is not known comes last.
    assert [(s.name, s.recordings) for s in facts.shares["country"]] == [
        ("Germany", 2), ("Japan", 1), ("", 2)
    ]  # fmt: skip
    assert facts.counts["year"] == [(1999, 1), (2015, 2)]
    assert facts.places == [(-33.0, 151.0, 1), (53.0, 13.0, 2)] and facts.placed == 3
    assert facts.durations[0] == 1 and facts.durations[4] == 1  # 0.5 s; 10 s
    assert facts.durations[-1] == 1 and facts.durations[-2] == 1 and sum(facts.durations) == 4
    assert facts.counts["sample_rate_hz"] == [(44100, 1), (48000, 1)]
    assert [(v.name, v.recordings) for v in facts.labels] == [
        ("Parus major", 2), ("Parus major minor", 1), ("Rain", 1), ("Rana temporaria", 1)
    ]  # fmt: skip
    assert facts.background == (1, 1)
    assert [(r.name, r.number) for r in facts.findings.rejected] == [
        ("restricted", 2), ("too_odd", 1)
    ]  # fmt: skip


def test_a_dataset_counts_the_hours_it_stores(dataset: Path) -> None:
    facts = gather(dataset)
    stats = json.loads((dataset / "stats.json").read_text())
    assert facts.finished and facts.recordings == 24 and facts.clips == 24
    assert facts.hours == pytest.approx(stats["hours"], rel=1e-9)
    assert sum(s.hours for s in facts.shares["licence_url"]) == pytest.approx(
        stats["hours"], rel=1e-9
    )
    assert {v.name: v.recordings for v in facts.labels} == stats["clips_per_label"]
    # Without its index it is a table of the same recordings.
    assert facts.counts["sample_rate_hz"] and {c for c, _ in facts.counts["codec"]} >= {
        "flac",
        "mp3",
    }


def test_taxa_beside_the_table_go_before_what_archives_say(table: Path) -> None:
    rows = {
        "name": ["Parus major", "Rana temporaria"],
        "class": ["Birds", None],
        "order": ["O", ""],
    }
    pq.write_table(pa.table(rows), table / "taxa.parquet")
    shown = {s.name: [p.name for p in s.parts] for s in gather(table).shares["class"]}
    assert shown["Birds"] == ["O"] and shown["Amphibia"] == ["Anura"] and "Aves" in shown


def test_a_table_with_hardly_a_column(tmp_path: Path) -> None:
    rows = {
        "id": ["a:1", "a:2"],
        "source": ["a", "a"],
        "source_id": ["1", "2"],
        "labels": [[{"name": "x"}], []],
    }
    pq.write_table(pa.table(rows), tmp_path / "recordings.parquet")
    facts = gather(tmp_path)
    assert (
        facts.recordings == facts.unknown_length == 2
        and facts.hours == 0
        and not facts.counts["year"]
    )
    assert [(v.name, v.recordings) for v in facts.labels] == [("x", 1)]
    page = write_report(tmp_path, tmp_path).read_text()
    assert "not stated" in page and "No recording has coordinates" in page


def test_lists_of_key_and_value_are_read_like_maps(tmp_path: Path) -> None:
    """Polars before its maps wrote `ids` so."""
    ids = [{"key": "order", "value": "Anura"}, {"key": "class", "value": "Amphibia"}]
    label = {"name": "Rana", "rank": "genus", "role": "foreground", "ids": ids}
    rows = {"id": ["a:1"], "source": ["a"], "source_id": ["1"], "labels": [[label]]}
    pq.write_table(pa.table(rows), tmp_path / "recordings.parquet")
    shown = gather(tmp_path).shares["class"]
    assert [(s.name, [p.name for p in s.parts]) for s in shown] == [("Amphibia", ["Anura"])]


# --------------------------------------------------------------------------- findings


def selection_folder(folder: Path) -> Path:
    folder.mkdir()
    duplicates = {
        "kept_id": ["xc:1"] * 3,
        "dropped_id": ["inat:1", "inat:2", "xc:5"],
        "kind": ["same_pcm", "fingerprint", "fingerprint"],
        "score": [1.0, 0.934, 0.99],
    }
    leakage = {"recording_id": ["xc:7", "xc:7"], "evaluation_set": ["cbi", "cbi"]}
    pq.write_table(pa.table(duplicates), folder / "duplicates.parquet")
    pq.write_table(pa.table(leakage), folder / "leakage.parquet")
    (folder / "selection.json").write_text(
        json.dumps(
            {
                "recipe": {"licences": {"deny": ["nd", "none"]}, "near": True},
                "kept": 12345,
                "parts": {"train": {"recordings": 4321, "hours": 1.5, "missing_first": ["Bubo"]}},
            }
        )
    )
    return folder


def test_what_the_selection_found(table: Path, tmp_path: Path) -> None:
    """A column that is missing (`rule`) is not stated; nothing else suffers."""
    folder = selection_folder(tmp_path / "selected")
    found = gather(table, folder).findings
    assert found.duplicates == {"same_pcm": 1, "fingerprint": 2}
    assert ("xc:1", "inat:2", "fingerprint", "0.934") in found.duplicate_examples
    assert found.leakage == {("cbi", "not stated"): 2} and found.leaked == 1
    page = unescape(write_report(table, tmp_path, selection=folder, count=0).read_text())
    for text in ("same pcm", "cbi", "recipe › licences › deny", "nd, none", "12,345", "4,321",
                 "Bubo", "missing first", "too odd", "sensitive",
                 "3 more were left out"):  # fmt: skip
        assert text in page, text
    # Not looked for is not the same as not found.
    assert "nobody looked" not in page
    assert "nobody looked" in write_report(table, tmp_path, count=0).read_text()
    empty = pa.table({"kind": pa.array([], pa.string())})
    pq.write_table(empty, table / "leakage.parquet")
    (table / "selection.json").write_text('{"evaluation_sets": {}}')
    assert "no evaluation set to compare" in write_report(table, tmp_path, count=0).read_text()
    (table / "selection.json").unlink()
    pq.write_table(empty, table / "duplicates.parquet")
    assert "none was found" in write_report(table, tmp_path, count=0).read_text()


def test_mistakes_are_told_in_a_line(table: Path, dataset: Path, tmp_path: Path) -> None:
    run = CliRunner()
    cases = [
        ([str(tmp_path / "nowhere")], "There is no recording table"),
        ([str(table), "--selection", str(tmp_path / "nowhere")], "There is no folder"),
        ([str(table), "--out", str(table / "recordings.parquet" / "x")], "cannot be written"),
    ]
    damaged = tmp_path / "damaged"
    shutil.copytree(table, damaged)
    (damaged / "rejected.parquet").write_bytes(b"PAR1 not at all")
    cases.append(([str(damaged)], "rejected.parquet cannot be read"))
    shutil.copytree(table, tmp_path / "damaged2")
    (tmp_path / "damaged2" / "recordings.parquet").write_bytes(b"")
    cases.append(([str(tmp_path / "damaged2")], "recordings.parquet cannot be read"))
    shutil.copytree(table, tmp_path / "damaged3")
    (tmp_path / "damaged3" / "selection.json").write_text("{")
    cases.append(([str(tmp_path / "damaged3")], "selection.json cannot be read"))
    for arguments, message in cases:
        done = run.invoke(data_app, ["report", "--out", str(tmp_path / "page.html"), *arguments])
        assert done.exit_code == 2, (arguments, done.output)
        assert message in done.output and "Traceback" not in done.output
    assert not (tmp_path / "page.html").exists()
    good = run.invoke(data_app, ["report", str(dataset), "--out", str(tmp_path / "page.html")])
    assert good.exit_code == 0 and " kB)" in good.output and (tmp_path / "page.html").is_file()
    with pytest.raises(PrepError, match="no recording table"):
        gather(tmp_path / "nothing")


# --------------------------------------------------------------------------- drawings


def test_the_map_puts_places_where_they_are() -> None:
    drawn = world([(53.0, 13.0, 5), (-33.0, 151.0, 2000)], label="Map of <two> places")
    assert 'd="M386 62h0"' in drawn and 'd="M662 234h0"' in drawn
    assert "places p1" in drawn and "places p4" in drawn and "&lt;two&gt;" in drawn
    assert 'viewBox="0 0 720 288"' in drawn  # Antarctica only where somebody was there
    assert 'viewBox="0 0 720 348"' in world([(-75.0, 0.0, 1)], label="")
    # Land: Europe's and Australia's outlines are there, and no line runs across the map.
    path = re.search(r'class="land" d="([^"]*)"', drawn)
    assert path is not None and path[1].count("z") > 80
    steps = [
        float(v) for ring in path[1].split("M")[1:] for v in ring.rstrip("z").split("l")[1].split()
    ]
    assert max(map(abs, steps)) <= 720 and len(drawn) < 40_000
    assert sum(abs(v) > 100 for v in steps) <= 8  # only Antarctica's closing, twice or thrice


def test_columns_and_tail_hold_their_numbers() -> None:
    drawn = columns([("a", 0), ("b", 5), ("c", 10)], unit="n", label="x")
    heights = [float(v) for v in re.findall(r'height="([\d.]+)"><title>', drawn)]
    assert len(heights) == 2 and heights[1] == pytest.approx(2 * heights[0])
    assert "b: 5" in drawn and columns([], unit="n", label="x")
    drawn = tail([1000, 100, 10, 1], unit="n", label="x")
    points = re.search(r'class="line s1" d="([^"]*)"', drawn)
    assert points is not None
    ys = [float(p.split()[1]) for p in re.split("[ML]", points[1])[1:]]
    assert ys == sorted(ys) and np.allclose(np.diff(ys), ys[1] - ys[0], atol=0.11)  # log scale
    assert tail([7], unit="n", label="x") and tail([], unit="n", label="x")
    assert bands([2000, 1000, 150, 10, 9, 2, 1, 1]) == [
        ("1,000 or more", 2, 3000), ("100 to 999", 1, 150), ("10 to 99", 1, 10),
        ("2 to 9", 2, 11), ("1", 2, 2),
    ]  # fmt: skip


# --------------------------------------------------------------------------- clips


def sounding(folder: Path, rows: Sequence[Recording], call: Callable[..., np.ndarray]) -> Path:
    for i, row in enumerate(rows):
        wav = call(1.5 if i else 12.0, 16000, pitch_hz=600 + 100 * i, seed=i)
        soundfile.write(folder / row.path, wav, 16000)
    write_table(rows, folder)
    return folder


def test_clips_are_those_that_may_be_shown(
    tmp_path: Path, make_call: Callable[..., np.ndarray]
) -> None:
    urls = [BY, BY_NC, CC0, BY_ND, "", "By Nancy", BY, BY]
    rows = [recording(i, bird(f"Bird {i}"), licence_url=url) for i, url in enumerate(urls)]
    rows[6] = dataclasses.replace(rows[6], labels=())
    rows[7] = dataclasses.replace(rows[7], source="inatsounds")  # its terms forbid it
    folder = sounding(tmp_path, rows, make_call)
    problems: list[str] = []
    table = folder / "recordings.parquet"
    found = clips(table, index=None, audio_root=folder, count=8, problems=problems)
    assert {c.title for c in found} == {"Bird 0", "Bird 1", "Bird 2"} and not problems
    for clip in found:
        data = base64.b64decode(clip.audio.removeprefix("data:audio/mpeg;base64,"))
        wav, rate_hz = soundfile.read(io.BytesIO(data))
        want = 8.0 if clip.title == "Bird 0" else 1.5
        assert clip.seconds == pytest.approx(want, abs=0.01)
        assert len(wav) / rate_hz == pytest.approx(want, abs=0.1)
        # It is that recording: the tone is where it was.
        peak_hz = np.abs(np.fft.rfft(wav)).argmax() * rate_hz / len(wav)
        assert peak_hz == pytest.approx(600 + 100 * int(clip.title[-1]), abs=3)
        assert clip.link == f"https://xeno-canto.org/{clip.title[-1]}"
    # The same ones every time; and where nothing can be read, the page says so.
    again = clips(table, index=None, audio_root=folder, count=8, problems=problems)
    assert again == found
    assert clips(table, index=None, audio_root=tmp_path / "no", count=8, problems=problems) == []
    assert "none of 3 recordings could be read" in problems[0]


def test_a_private_page_plays_ones_own_recordings(
    tmp_path: Path, make_call: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [recording(i, bird(f"Bird {i}"), licence_url=url) for i, url in enumerate(["", BY_ND])]
    rows.append(dataclasses.replace(recording(2, bird("x"), licence_url=""), labels=()))
    folder = sounding(tmp_path, rows, make_call)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = CliRunner().invoke
    done = run(data_app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    page = (elsewhere / "report.html").read_text()
    assert "<audio" not in page and "--private" in page and "do not publish this page" not in page
    size = (elsewhere / "report.html").stat().st_size
    said = " ".join(done.output.split())
    assert f"{size / 1e3:.0f} kB" in said and "elsewhere" in said and "0.0 MB" not in said
    done = run(data_app, ["report", str(folder), "--private", "--out", str(tmp_path / "mine.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "mine.html").read_text()
    assert page.count("<audio") == 3 and "do not publish this page" in page
    assert 'href=""' not in page and "not stated" in page


def test_clips_vary_before_they_repeat(
    tmp_path: Path, make_call: Callable[..., np.ndarray]
) -> None:
    rows = [recording(i, bird(f"Bird {i % 3}"), recordist=f"p{i}") for i in range(12)]
    rows += [recording(20 + i, RAIN, source="asa", recordist=f"q{i}") for i in range(4)]
    folder = sounding(tmp_path, rows, make_call)
    found = clips(
        folder / "recordings.parquet", index=None, audio_root=folder, count=5, problems=[]
    )
    assert {c.title for c in found[:4]} == {"Bird 0", "Bird 1", "Bird 2", "Rain"}
    assert len(found) == 5


def test_clips_from_shards_and_from_damaged_ones(dataset: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    table, index = copy / "recordings.parquet", copy / "index.parquet"
    found = clips(table, index=index, audio_root=copy, count=3, problems=problems)
    assert len(found) == 3 and {c.title for c in found} == {"Parus major", "Turdus merula",
                                                            "Bubo bubo"}  # fmt: skip
    for shard in copy.glob("train/*.tar"):
        shard.write_bytes(b"\0" * 4096)
    assert clips(table, index=index, audio_root=copy, count=3, problems=problems) == []
    assert "could be read in the shards" in problems[0]
    rows = pq.read_table(index).to_pylist()
    outside = pa.Table.from_pylist([r | {"shard": "../secret.tar"} for r in rows])
    (tmp_path / "secret.tar").write_bytes(b"x" * 100_000)
    pq.write_table(outside, index)
    assert clips(table, index=index, audio_root=copy, count=3, problems=problems) == []
