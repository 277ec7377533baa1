"""A dataset tells places and times as exactly as it was asked to, in all of its files."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from dawnchorus.data_prep.archives.checked import uncertainty_of
from dawnchorus.data_prep.archives.own_folder import read_folder
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.dataset.places import CELL_RADIUS_M, coarse
from dawnchorus.data_prep.dataset.prepare import merge, prepare_shards
from dawnchorus.data_prep.dataset.verify import verify_dataset
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.describe import describe_dataset
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import read_recordings, write_table

NESTS = [(46.81237, 8.22711), (-3.4561, -120.98765), (46.84999, 8.21), (46.81237, 8.22711)]
SECRETS = re.compile(
    rb"46\.81|8\.22|3\.456|120\.98|46\.84|46\.85|8\.21(?!\d{4})|05:2\d|05h2|052[0-9]00|T05|home/jane"
)
"""Figures finer than a dataset may tell; levels and sizes of these files do not look like them."""


@pytest.fixture(scope="module")
def table(make_call: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of nests, as archives and as field recorders name them."""
    root = tmp_path_factory.mktemp("nests")
    rows = []
    for number, (lat, lon) in enumerate(NESTS * 3):
        kind = number // len(NESTS)
        hour = f"05:2{number % 4}"
        name = [
            f"XC{number}.wav",
            f"nest_{lat}_{lon}/2021050{1 + number % 2}_052{number % 10}00.wav",
            f"quiet-{number}.wav",
        ][kind]
        path = root / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, make_call(0.5, 16000, seed=number), 16000)
        day = f"2021-05-0{1 + number % 2}"
        rows.append(
            Recording(
                id=f"xc:{number}" if kind == 0 else f"mine:{name}",
                source="xc" if kind == 0 else "mine",
                source_id=str(number) if kind == 0 else name,
                path=str(path) if kind == 2 else name,
                url=f"https://maps.example/{lat},{lon}" if kind else f"https://xc.example/{number}",
                licence_url="https://creativecommons.org/licenses/by/4.0/",
                attribution=f"Jane, {lat} {lon}, {day}T{hour}",
                recordist="Jane",
                labels=(Label("Bubo bubo", "species"),),
                datetime=f"{day}T{hour}",
                lat=lat,
                lon=lon,
                uncertainty_m=28000.0 if number == 1 else None,
                group_id=f"Jane|{lat:.2f},{lon:.2f}|{day}" if kind < 2 else f"tape {number % 2}",
            )
        )
    broken = root / "nest_46.81237_8.22711" / "20210501_052900.wav"
    broken.write_bytes(b"no sound")
    name = str(broken.relative_to(root))
    rows.append(Recording(id=f"mine:{name}", source="mine", source_id=name, path=name,
                          group_id="Jane|46.81,8.23|2021-05-01"))  # fmt: skip
    write_table(rows, root)
    recipe = {"tables": {"a": {"table": "/home/jane/nests"}}, "split": {"by": "group"}}
    (root / "selection.json").write_text(json.dumps({"recipe": recipe, "funnel": []}))
    leaks = {"recording_id": [rows[4].id, "xc:0"], "detail": ["Bubo bubo|2021-05-01", "x"]}
    pq.write_table(pa.table(leaks), root / "leakage.parquet")
    return root


def everything(dataset: Path) -> Iterator[tuple[str, bytes]]:
    """(where, content) of all that stands in a dataset, and of all its names."""
    for path in sorted(dataset.rglob("*")):
        name = str(path.relative_to(dataset))
        yield "name", name.encode()
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    data = tar.extractfile(member).read()
                    yield f"{name}: {member.name}", member.name.encode()
                    if member.name.endswith(".json"):
                        yield f"{name}: {member.name}", data
                    else:
                        assert soundfile.info(io.BytesIO(data)).extra_info.count("XC") == 0
        elif path.suffix == ".parquet":
            for row in pq.read_table(path).to_pylist():
                # What was measured of the sound is not told of the place.
                told = {k: v for k, v in row.items() if not k.endswith(("_dbfs", "_db", "_s"))}
                yield name, json.dumps(told, ensure_ascii=False).encode()
        elif path.is_file():
            yield name, path.read_bytes()


def build(table: Path, out: Path, places: str | None = None) -> Path:
    chosen = {} if places is None else {"places": places}
    prepare_shards(table, out, jobs=1, allow_broken=True, **chosen)
    return out


@pytest.mark.parametrize("places", [None, "none"], ids=["by default", "none"])
def test_no_file_tells_more(table: Path, tmp_path: Path, places: str | None) -> None:
    out = build(table, tmp_path / "set", places)
    told = [(where, found) for where, data in everything(out) if (found := SECRETS.search(data))]
    assert not told
    rows = pq.read_table(out / "recordings.parquet").to_pylist()
    exact = list(read_recordings(table))[:12]
    assert len(rows) == 12 and len({row["id"] for row in rows}) == 12
    if places == "none":
        assert {(row["lat"], row["lon"], row["datetime"]) for row in rows} == {(None, None, "2021")}
        whole = b"".join(data for where, data in everything(out) if "leakage" in where)
        assert b"2021-05" not in whole and b"2021" in whole
    else:
        assert {(row["lat"], row["lon"]) for row in rows} == {(46.8, 8.2), (-3.5, -121.0)}
        assert {row["datetime"] for row in rows} == {"2021-05-01", "2021-05-02"}
        assert [row["uncertainty_m"] for row in rows[:2]] == [CELL_RADIUS_M, 28000 + CELL_RADIUS_M]
        assert rows[8]["id"] == "mine:quiet-8.wav" and rows[8]["path"] == "quiet-8.wav"
        assert rows[8]["group_id"] == "tape 0"
    # Equal groups stay equal, others apart.
    pairs = {(row["group_id"], e.group_id) for row, e in zip(rows, exact, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    report = verify_dataset(out, jobs=1)
    assert not report.count, report.problems
    facts = describe_dataset(out)
    assert facts["options"]["places"] == (places or "coarse")
    assert f"## Places and times\n\n{(places or 'coarse').capitalize()}: " in (
        (out / "README.md").read_text()
    )


def test_exact_is_as_before(table: Path, tmp_path: Path) -> None:
    out = build(table, tmp_path / "set", "exact")
    columns = ("id", "path", "lat", "lon", "datetime", "group_id", "url")
    rows = pq.read_table(out / "recordings.parquet", columns=list(columns)).to_pylist()
    assert rows == [{c: getattr(r, c) for c in columns} for r in list(read_recordings(table))[:12]]
    assert sum(SECRETS.search(data) is not None for _, data in everything(out)) > 24
    assert "Exact: coordinates and times" in (out / "README.md").read_text()


def test_parts_and_runs_agree_on_it(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare_shards(table, out, part="1/2", jobs=1, allow_broken=True)
    for places in ("exact", "none"):
        with pytest.raises(PrepError, match=f"places was 'coarse', is '{places}'"):
            prepare_shards(table, out, part="2/2", jobs=1, allow_broken=True, places=places)
    prepare_shards(table, out, part="2/2", jobs=1, allow_broken=True)
    merge(out, allow_broken=True)
    with pytest.raises(PrepError, match="places was 'coarse', is 'exact'"):
        build(table, out, "exact")
    with pytest.raises(PrepError, match="places must be one of exact, coarse, none"):
        build(table, tmp_path / "other", "fuzzy")


def test_verify_names_a_card_that_says_too_little(table: Path, tmp_path: Path) -> None:
    out = build(table, tmp_path / "set", "exact")
    stats = json.loads((out / "stats.json").read_text())
    stats["options"]["places"] = "coarse"
    (out / "stats.json").write_text(json.dumps(stats))
    said = [str(problem) for problem in verify_dataset(out, jobs=1).problems]
    assert any(
        line.startswith("recordings.parquet: 12 rows tell more than places=coarse") for line in said
    )
    assert sum("its JSON tells more than places=coarse" in line for line in said) == 12


def test_a_folder_of_a_field_recorder(
    make_call: Callable, tmp_path: Path, make_folder: Callable
) -> None:
    rows = [
        {"filename": f"card/20210503_{h:02d}2000.WAV", "label": "owl", "lat": "46.81237"}
        for h in (3, 4, 5)
    ]
    root = make_folder(tmp_path / "site", [row | {"lon": "8.22711"} for row in rows])
    write_table(read_folder(root, FolderOptions()).recordings, root)
    out = build(root, tmp_path / "set")
    found = pq.read_table(out / "recordings.parquet").to_pylist()
    assert [row["id"] for row in found] == [f"site:recording-00000{n}" for n in range(3)]
    assert [row["path"] for row in found] == [f"recording-00000{n}.wav" for n in range(3)]
    assert not [w for w, data in everything(out) if re.search(rb"0[345]2000|46\.81|8\.22", data)]


@given(st.floats(-180, 180), st.floats(-0.049, 0.049))
def test_all_of_a_cell_look_alike(degrees: float, off: float) -> None:
    middle = coarse(degrees)
    assert abs(middle - degrees) <= 0.05 + 1e-9
    assert coarse(middle + off) == middle == coarse(middle)
    assert re.fullmatch(r"-?\d+\.\d", str(middle)) and str(middle) != "-0.0"


@pytest.mark.parametrize(
    ("stated", "note", "metres"),
    [
        ("28000", "", 28000.0),
        ("", "Coordinate uncertainty increased to 28000m to protect threatened taxon", 28000.0),
        (None, "Coordinates rounded to the nearest 1.5 km", 1500.0),
        ("0", "", None),
        ("nan", "Coordinates hidden at the request of the observer", None),
        (-5, "", None),
    ],
)
def test_what_archives_say_of_obscured_places(stated, note, metres) -> None:
    assert uncertainty_of(stated, note) == metres
