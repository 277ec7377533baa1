"""`chorus prep labels` says what stands above a name; a selection of its tables still does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.table.recording import Label


def run(*words: object) -> None:
    done = CliRunner().invoke(prep_app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


def test_taxa_are_joined_and_counted_anew(
    make_table: Callable[..., Path], make_recording: Callable, tmp_path: Path
) -> None:
    great_tit, owl = Label("Parus major", "species"), Label("Bubo bubo", "species")
    frog = Label("Rana temporaria", "species")
    behind = Label("Bubo bubo", "species", role="background")
    birds = [make_recording(n, labels=(great_tit, behind)) for n in range(4)]
    birds += [
        make_recording(n, labels=(owl,), quality=q) for n, q in ((7, "A"), (8, "A"), (9, "E"))
    ]
    others = [make_recording(100 + n, labels=(great_tit,)) for n in range(2)]
    others.append(make_recording(109, labels=(frog,), quality="E"))
    for name, rows in (("a", birds), ("b", others)):
        make_table(tmp_path / name, rows)
        run("labels", tmp_path / name, "--out", tmp_path / f"{name}-named")
    out = tmp_path / "out"
    select = ("select", "example", f"tables={{one: {{table: {tmp_path}/a-named}}, "
              f"two: {{table: {tmp_path}/b-named}}}}", "duplicates.same_samples=false",
              "duplicates.near=false", "filters.quality.at_least=D")  # fmt: skip
    run(*select, "--out", out)
    rows = {row["name"]: row for row in pq.read_table(out / "taxa.parquet").to_pylist()}
    counts = {name: (row["foreground"], row["background"]) for name, row in rows.items()}
    # The frog is gone, and one of three owls in front; the owls behind others are not.
    assert counts == {"Parus major": (6, 0), "Bubo bubo": (2, 4)}
    before = {r["name"]: r for r in pq.read_table(tmp_path / "a-named/taxa.parquet").to_pylist()}
    kept = set(before["Parus major"]) - {"foreground", "background"}
    assert {key: rows["Parus major"][key] for key in kept} == {
        key: before["Parus major"][key] for key in kept
    }
    # Tables without it: none is written, and one of an earlier run does not stay.
    run("select", "example", f"tables={{one: {{table: {tmp_path}/a}}}}",
        "duplicates.same_samples=false", "duplicates.near=false", "--out", out)  # fmt: skip
    assert not (out / "taxa.parquet").exists()
