"""`make demo` on a person's own sounds, whose licences may be missing or unusual."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dawnchorus.trainer.hub import provenance
from dawnchorus.trainer.licences import read_licence
from scripts import demo


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (["https://creativecommons.org/licenses/by/4.0/", "CC0"], []),
        (["https://creativecommons.org/licenses/sampling+/1.0/", "CC0"], ["--licence", "other"]),
        (["CC0", ""], None),
        ([], None),
    ],
)
def test_what_an_export_is_told_of_the_licence(
    monkeypatch: pytest.MonkeyPatch, texts: list[str], options: list[str] | None
) -> None:
    shares = [SimpleNamespace(licence=read_licence(text)) for text in texts]
    monkeypatch.setattr(provenance, "stages_of", lambda run: [])
    monkeypatch.setattr(provenance, "ledger", lambda stages: SimpleNamespace(licences=shares))
    found = demo.licence_options(Path("run"))
    assert (found if found is None else found[:2]) == options


def test_clips_without_a_licence_are_counted_before_anything_is_trained(tmp_path: Path) -> None:
    rows = {"licence_url": ["CC0", "", None], "clips": [5, 7, 2]}
    pq.write_table(pa.table(rows), tmp_path / "licences.parquet")
    assert demo.without_licence(tmp_path) == 9
