"""The examples of docs/annotations.md, each as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import prep_app

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "annotations.md"
EXAMPLES = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example(name: str, text: str, tmp_path: Path) -> None:
    site = tmp_path / "my_site"
    (site / "annotations").mkdir(parents=True)
    (site / "annotations" / name).write_text(text)
    rng = np.random.default_rng(0)
    for sound in ("a.wav", "b.wav"):
        soundfile.write(site / sound, 0.1 * rng.standard_normal(10 * 16000), 16000)
    out = tmp_path / "out"
    command = ["folder", str(site), "--annotations", str(site / "annotations")]
    command += ["--out", str(out), "--jobs", "1"]
    command += ["--min-confidence", "0.5"] if "BirdNET" in name else []
    result = CliRunner().invoke(prep_app, command)
    assert result.exit_code == 0, result.output
    rows = {row["key"]: row for row in pq.read_table(out / "index.parquet").to_pylist()}
    first, second = rows["a_0000"], rows["a_0001"]
    assert len(first["label_ids"]) == len(second["label_ids"]) == 1
    assert first["label_ids"] != second["label_ids"]
    begin = 0.0 if "BirdNET" in name else 1.5
    assert first["event_start_s"] == [begin] and second["event_start_s"] == [1.0]
    # Only tables that name b.wav say that nothing is heard in it.
    assert ("b_0000" in rows) == ("b.wav" in text)


def test_all_forms_have_an_example() -> None:
    assert len(EXAMPLES) == 6
