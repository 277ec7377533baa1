"""The dataset card: what the Hub reads, and what a person has to know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, metadata_load
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import data_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.card import card, card_of, write_card

BY = "https://creativecommons.org/licenses/by/4.0/"


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(dataset, tmp_path / "birds")
    return tmp_path / "birds"


def ledger(folder: Path) -> list[dict]:
    return pq.read_table(folder / "licences.parquet").to_pylist()


def test_the_hub_reads_the_front_matter(copy: Path) -> None:
    path = write_card(copy)
    meta = metadata_load(path)
    assert meta is not None
    assert meta["license"] == "other" and meta["license_name"]
    assert "license_link" not in meta  # it would have to be a file LICENSE or an address
    assert meta["task_categories"] == ["audio-classification"]
    assert meta["size_categories"] == ["n<1K"] and meta["pretty_name"] == "birds"
    assert meta["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train/*.tar"}]}
    ]
    loaded = DatasetCard.load(path)
    assert loaded.data.license == "other" and "language" not in meta
    assert loaded.text.lstrip().startswith("# birds")


def test_one_licence_has_its_identifier_and_odd_names_stay_yaml(copy: Path) -> None:
    stats = json.loads((copy / "stats.json").read_text()) | {"name": 'a: "b" #é\\'}
    rows = [row | {"licence_url": BY} for row in ledger(copy)]
    (copy / "README.md").write_text(card(stats, rows))
    meta = metadata_load(copy / "README.md")
    assert meta is not None
    assert meta["license"] == "cc-by-4.0" and meta["pretty_name"] == 'a: "b" #é\\'
    assert "license_name" not in meta


@pytest.mark.parametrize(
    ("clips", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (5_000_000, "1M<n<10M")]
)
def test_sizes(copy: Path, clips: int, size: str) -> None:
    stats = json.loads((copy / "stats.json").read_text()) | {"clips": clips}
    assert f"- {size}\n" in card(stats, ledger(copy))


def test_sources_taxa_licences_limits(copy: Path) -> None:
    text = card_of(copy)
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert sections == ["## Sources", "## Taxa", "## Licences", "## Labels", "## Known limits",
                        "## Loading", "## Places and times", "## How it was made"]  # fmt: skip
    assert "As a whole it is as strict as CC BY." in text and "Credit is due for" in text
    assert "3 of 3 labels have fewer than 10 recordings." in text
    assert "No background species are labelled" in text
    assert "| split `train` | 24 clips" in text


def test_ranks_background_and_taxa_are_told(copy: Path) -> None:
    table = pq.read_table(copy / "recordings.parquet")
    rows = table.to_pylist()
    rows[0]["source"] = "xc"
    rows[0]["labels"] = [
        {"name": "Bubo | bubo", "rank": "species", "role": "foreground", "taxonomy": "t",
         "ids": [("class", "Aves"), ("order", "Strigiformes")]},
        {"name": "Rain", "rank": "sound", "role": "background", "taxonomy": "", "ids": []},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), copy / "recordings.parquet")
    text = card_of(copy)
    assert "| Aves | 1 |" in text and "| – Strigiformes | 1 |" in text
    assert "Xeno-canto Foundation for Nature Sounds" in text and "| Xeno-canto | 1 |" in text
    assert "Labels are of several ranks: no rank stated 3, species 1." in text
    assert "1 mentions of 1 labels are in the background" in text


def test_the_selection_is_told(copy: Path) -> None:
    (copy / "selection.json").write_text(
        json.dumps(
            {
                "recipe": {"licences": {"deny": ["nd|x"]}},
                "seed": 3,
                "funnel": [
                    {"name": "all rows", "recordings": 12345, "dropped": {}},
                    {"name": "filters", "recordings": 9, "dropped": {"licence": 7}},
                ],
            }
        )
    )
    pq.write_table(pa.table({"kind": ["same_pcm", "same_pcm"]}), copy / "duplicates.parquet")
    pq.write_table(pa.table({"evaluation_set": ["cbi"]}), copy / "leakage.parquet")
    done = CliRunner().invoke(data_app, ["card", str(copy)])
    assert done.exit_code == 0, done.output
    text = (copy / "README.md").read_text()
    assert "## How the recordings were selected" in text
    assert "Duplicates dropped: 2 (same_pcm 2)." in text
    assert "occur in evaluation sets: 1 (cbi)." in text
    assert "| recipe › licences › deny | nd\\|x |" in text and "| seed | 3 |" in text
    assert "| name | recordings | dropped |" in text and "| filters | 9 | licence 7 |" in text
    assert "| all rows | 12,345 | – |" in text


def test_only_a_dataset_has_a_card(copy: Path) -> None:
    (copy / "licences.parquet").unlink()
    with pytest.raises(PrepError, match=r"licences\.parquet"):
        card_of(copy)
    (copy / "stats.json").unlink()
    with pytest.raises(PrepError, match="no dataset"):
        card_of(copy)
