"""What licences ask for, and the attribution text."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dawnchorus.data_prep.cli import data_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.citations import CITATIONS, bibtex, citation
from dawnchorus.data_prep.report.credits import (
    FORMATS,
    permissions,
    recording_link,
    strictest,
    write_credits,
)
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import write_table

CC = "https://creativecommons.org/licenses/"
BY, NC_SA, SA, NC_ND = (f"{CC}{n}/4.0/" for n in ("by", "by-nc-sa", "by-sa", "by-nc-nd"))
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"


@pytest.mark.parametrize(
    ("urls", "name"),
    [
        ([CC0], "public domain"),
        ([CC0, BY], "CC BY"),
        ([BY, SA, NC_SA], "CC BY-NC-SA"),
        ([BY, NC_ND], "CC BY-NC-ND"),
        ([SA, NC_ND], "CC BY-NC, parts SA, parts ND"),
        ([BY, ""], "CC BY"),
        ([BY, "CC_BY_NC_4_0", "nan"], "CC BY-NC"),
        (["CC-BY"], "CC BY"),
        ([""], ""),
        ([], ""),
    ],
)
def test_the_strictest_decides(urls: list[str], name: str) -> None:
    assert strictest(urls) == name


def test_permissions_say_how_much() -> None:
    said = " ".join(permissions({NC_SA: 6.0, SA: 2.0, CC0: 1.0, "": 1.0}))
    assert "As strict as CC BY-NC-SA, and a part comes under no licence" in said
    assert "1 h (10.0 %) state no licence" in said
    assert "Credit is due for 8 h (80.0 %)" in said and "No commercial use of 6 h (60.0 %)" in said
    assert "Changed copies of 8 h (80.0 %)" in said and "several of these share-alike" in said
    assert permissions({CC0: 3.0}) == ["As a whole it is as strict as public domain."]
    assert "under no licence that can be relied on" in permissions({"": 3.0})[0]
    assert "ND" in " ".join(permissions({NC_ND: 0.01})) and permissions({}) != []


def test_links() -> None:
    assert recording_link("xc", "254462", "") == "https://xeno-canto.org/254462"
    assert recording_link("audioset", "--4gqARaEJE@30", "") == "https://youtu.be/--4gqARaEJE?t=30"
    assert recording_link("inat", "263113", "https://a.org/1.wav") == "https://a.org/1.wav"
    # Nothing but digits goes into an address that we make; nothing but the web is linked.
    assert recording_link("xc", "1/../evil", "javascript:x") == ""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    def row(i: int, licence: str, who: str, **more: object) -> Recording:
        return Recording(
            id=f"xc:{i}", source="xc", source_id=str(i), path="", url=f"https://x.org/{i}.mp3",
            licence_url=licence, recordist=who, labels=(Label("Parus major", "species"),),
            duration_s=1800.0, group_id="g", **more,  # type: ignore[arg-type]
        )  # fmt: skip

    rows = [row(1, BY, "Ben, M."), row(2, BY, "Ann"), row(3, BY, "Ann"), row(4, CC0, "Ann")]
    rows += [row(5, NC_SA, "Eve\n* [evil](http://evil)\x00"), row(6, "", "Dan")]
    rows += [row(7, BY, "", attribution="somebody, XC7")]
    write_table(rows, tmp_path / "table")
    return tmp_path / "table"


def test_text_per_licence_and_recordist(table: Path) -> None:
    lines = list(write_credits(table))
    text = "\n".join(lines)
    assert lines[0] == "Sources" and "Xeno-canto Foundation" in lines[1]
    # Most recordings first; within a licence by name; links where credit is asked for.
    heads = [line for line in lines[2:] if line and not line.startswith(" ")]
    assert [h.split(" <")[0] for h in heads] == [
        "CC BY 4.0", "not stated: 1 recording, 0.50 h", "CC BY-NC-SA 4.0", "CC0 1.0"
    ]  # fmt: skip
    ann = "  Ann, 2 recordings, 1.00 h: https://xeno-canto.org/2 https://xeno-canto.org/3"
    ben = "  Ben, M., 1 recording, 0.50 h: https://xeno-canto.org/1"
    assert lines.index(ann) + 1 == lines.index(ben)
    assert "  somebody, XC7, 1 recording" in text
    assert "  Ann, 1 recording, 0.50 h" in lines  # CC0: named, not linked
    assert text.count("https://xeno-canto.org/4") == 0
    assert "ask the recordist before you pass these on" in text
    # A name cannot make lines or links of its own.
    assert sum("evil" in line for line in lines) == 1 and "\x00" not in text


def test_markdown_csv_and_bibtex(table: Path) -> None:
    text = "\n".join(write_credits(table, "markdown"))
    assert text.startswith("# Credits\n\n## Sources") and f"## [CC BY 4.0]({BY})" in text
    assert "\\[evil\\]" in text and not re.search(r"(?<!\\)\[evil", text)
    rows = list(csv.DictReader(io.StringIO("\n".join(write_credits(table, "csv")))))
    assert sum(int(row["recordings"]) for row in rows) == 7
    ben = next(row for row in rows if row["recordist"] == "Ben, M.")
    assert ben["licence_url"] == BY and ben["links"] == "https://xeno-canto.org/1"
    entries = "\n".join(write_credits(table, "bibtex"))
    assert entries.startswith("@misc{xc,") and entries.count("@") == 1
    assert entries.count("{") == entries.count("}")
    for source in CITATIONS:
        assert citation(source) and bibtex(source).count("{") == bibtex(source).count("}")
    assert citation("mine") == bibtex("mine") == ""


def test_the_command(table: Path, dataset: Path, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(data_app, ["credits", str(dataset)])
    assert done.exit_code == 0 and "person 2, 6 recordings" in done.output
    out = tmp_path / "new" / "CREDITS.md"
    done = run.invoke(data_app, ["credits", str(table), "--format", "markdown", "--out", str(out)])
    assert done.exit_code == 0 and out.read_text().startswith("# Credits\n")
    assert [p.name for p in out.parent.iterdir()] == ["CREDITS.md"]
    for arguments in ([str(table), "--format", "docx"], [str(tmp_path / "none")]):
        done = run.invoke(data_app, ["credits", *arguments, "--out", str(tmp_path / "x")])
        assert done.exit_code == 2 and not (tmp_path / "x").exists()
    with pytest.raises(PrepError, match=FORMATS[-1]):
        list(write_credits(table, "docx"))
