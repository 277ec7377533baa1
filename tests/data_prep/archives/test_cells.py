"""One reader of label cells: lists as others print them, texts that say nothing, odd names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dawnchorus.data_prep.archives.animal_sound_archive import read_animal_sound_archive
from dawnchorus.data_prep.archives.birdset import read_birdset
from dawnchorus.data_prep.archives.cells import UnreadableList, is_absent, number_in, values_of
from dawnchorus.data_prep.archives.gbif import Asked
from dawnchorus.data_prep.archives.own_folder import read_folder
from dawnchorus.data_prep.archives.xeno_canto import from_api
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.table.recording import Recording


@pytest.mark.parametrize(
    "cell",
    [
        "['a b' 'c']", "['a b', 'c']", "['a b'\n 'c']", '["a b", "c"]', "('a b', 'c')",
        "array(['a b', 'c'], dtype=object)", "array(['a b', 'c'],\n      dtype='<U6')",
        "np.array(['a b' 'c'])", "[np.str_('a b'), np.str_('c')]", "[['a b'], ['c']]",
        "Index(['a b', 'c'], dtype='object', name='x')", "frozenset({'a b', 'c'})",
        "{'a b', 'c'}", "{a b,c}", "[a b, c]", "[b'a b', b'c']", "a b;c", "['a b' nan 'c']",
        "['a b', None, 'c', '']", ["a b", "c"], ("a b", None, "c"), np.array(["a b", "c"]),
        [["a b"], np.array(["c"])], {"c", "a b"},
    ],
)  # fmt: skip
def test_lists_in_any_spelling(cell: object) -> None:
    assert values_of(cell, ";") == ["a b", "c"]


@pytest.mark.parametrize(
    "cell",
    ["", " ", "nan", "NaN", "None", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "<NA>", "NaT", "-",
     "--", "[]", "['']", "[nan]", "[None]", "['nan']", "()", "{}", "set()", "''", '""', "[[]]",
     "array([], dtype=object)", "array([nan], dtype=object)", "nan; None", None, float("nan"), [],
     [None, float("nan"), ""], np.array([np.nan]), {}, True],
)  # fmt: skip
def test_texts_for_nothing_are_no_labels(cell: object) -> None:
    assert values_of(cell, ";") == []


@pytest.mark.parametrize(
    "name",
    ["Nana", "Nan", "None of the above", "Prunella (Aves)", "(unknown bird)", "(Aves) Parus",
     "[Aves] Parus", "[Aves] [Parus]", "Larus [argentatus]", "'I'iwi", "Parus 'major'",
     'the "Vink"', "Anna's hummingbird", '5" call', "(3) call", "call (1)", "Beluga, White Whale",
     "nandu", "NA-1", "{'a': 1}", "no call", "Null Island robin"],
)  # fmt: skip
def test_names_survive(name: str) -> None:
    assert values_of(name, ";") == [name]
    assert values_of(repr([name]), ";") == [name] == values_of(json.dumps([name]), ";")
    assert values_of(str(np.array([name, "x"])), ";") == [name, "x"]


def test_numbers_and_apostrophes() -> None:
    assert values_of("[12 33]") == values_of("[12. 33.]") == values_of("(12, 33)") == ["12", "33"]
    assert values_of(np.array([12.0, np.nan])) == ["12"]
    assert values_of("['Anna's hummingbird', 'x']") == ["Anna's hummingbird", "x"]
    assert values_of("['it\\'s', \"Anna's\"]") == ["it's", "Anna's"]
    assert values_of('["\\u00e9"]') == ["\u00e9"]
    assert values_of("[" * 1_000_000) == ["[" * 1_000_000]  # rejected by its length elsewhere


@pytest.mark.parametrize(
    "cell", ["['a' 'b' ... 'y' 'z']", "['a', 'b", "['birds' nest', 'x']", "[['a', 'b']"]
)
def test_lists_that_have_lost_something_are_errors(cell: str) -> None:
    with pytest.raises(UnreadableList):
        values_of(cell, ";")


def test_numbers_have_commas_and_missing_values_have_names() -> None:
    assert [number_in(t) for t in ("52,5", "-13.4", " 1e3 ", "\u22123,5")] == [
        52.5,
        -13.4,
        1e3,
        -3.5,
    ]
    assert [number_in(t) for t in ("", "nan", "inf", "1.234,5", "52\u00b030'", "1_0")] == [None] * 6
    assert is_absent("<NA>") and is_absent("NaT") and not is_absent("none")


def test_a_missing_name_is_no_genus_called_none(tmp_path: Path) -> None:
    table = tmp_path / "asa.csv"
    table.write_text(
        "tsa_id,scientificName,url,recordedBy\n7,None,http://x/7,Ann\n8,nan,http://x/8,Ann\n"
        "9,Bubo bubo,http://x/9,nan\n"
    )
    *bad, good = read_animal_sound_archive(table, scratch=tmp_path, asked=Asked())
    assert [getattr(row, "reason", "") for row in bad] == ["no_name", "no_name"]
    assert isinstance(good, Recording) and good.recordist == "" and good.group_id == good.id
    clef = tmp_path / "train.csv"
    clef.write_text("primary_label,filename\nNA,XC7.ogg\nx;y,XC8.ogg\n")
    empty, both = read_birdset(clef, None, tmp_path / "out")
    assert getattr(empty, "reason", "") == "no_id"
    assert isinstance(both, Recording) and both.names("foreground") == ["x", "y"]


def test_every_reader_takes_the_same_cell_for_the_same_labels(tmp_path: Path) -> None:
    cell = "['Parus major' 'Turdus merula' nan]"
    expected = ["Parus major", "Turdus merula"]
    (tmp_path / "a.wav").touch()
    (tmp_path / "metadata.csv").write_text(f'filename,label\na.wav,"{cell}"\n')
    (own,) = read_folder(tmp_path, FolderOptions()).recordings
    assert [label.name for label in own.labels] == expected
    api = from_api({"id": "7", "gen": "Bubo", "sp": "bubo", "lic": "x", "file": "f", "also": cell})
    assert isinstance(api, Recording) and api.names("background") == expected
    table = tmp_path / "train_metadata.csv"
    table.write_text(f'primary_label,filename,secondary_labels\nx,XC7.ogg,"{cell}"\n')
    (clef,) = read_birdset(table, None, tmp_path / "out")
    assert isinstance(clef, Recording) and clef.names("background") == expected
    table = tmp_path / "asa.csv"
    table.write_text(
        f'tsa_id,scientificName,url,backgroundSpecies\n7,Bubo bubo,http://x/7,"{cell}"\n'
    )
    (asa,) = read_animal_sound_archive(table, scratch=tmp_path, asked=Asked())
    assert isinstance(asa, Recording) and asa.names("background") == expected
