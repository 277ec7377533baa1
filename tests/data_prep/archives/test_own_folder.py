"""Reading the table: columns by name or option, labels, ranks, odd names, contradictions."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from dawnchorus.data_prep.archives.folds import make_folds
from dawnchorus.data_prep.archives.own_folder import read_folder
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording, label_ranks, validate


def table(root: Path, text: str, files: tuple[str, ...] = ("a.wav",)) -> Path:
    """A folder with a table and empty files (the reader opens none)."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text(text, encoding="utf-8")
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read(root: Path, **options: object) -> list[Recording]:
    columns = {k.removesuffix("_column"): options.pop(k) for k in list(options) if "_column" in k}
    return read_folder(root, FolderOptions(columns=columns, **options)).recordings  # type: ignore[arg-type]


def labels(recording: Recording) -> list[tuple[str, str, str]]:
    return [(label.name, label.rank, label.role) for label in recording.labels]


def test_usual_names_are_found(tmp_path: Path) -> None:
    root = table(
        tmp_path / "birds",
        "File Name,Scientific-Name,author,license_url,license,fold,Latitude,lng,date,q,xtra\n"
        "a.wav,Parus major,Ann,//creativecommons.org/licenses/by-nc/4.0/legalcode,CC,2,52.5,13.4,"
        "2024-05-01,A,?\n",
    )
    result = read_folder(root, FolderOptions())
    (recording,) = result.recordings
    assert recording.id == "birds:a.wav" and recording.path == "a.wav"
    assert labels(recording) == [("Parus major", "species", "foreground")]
    assert recording.recordist == "Ann" and recording.fold == "2"
    assert recording.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"
    assert (recording.lat, recording.lon) == (52.5, 13.4)
    assert (recording.datetime, recording.quality) == ("2024-05-01", "A")
    assert recording.group_id == recording.id and recording.split == "train"
    lines = "\n".join(result.mapped.lines())
    assert "File Name" in lines and "xtra" in lines and "--group-column" in lines


def test_options_win_over_names(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,label,sp,who,fold,part,nr\na.wav,x,Bubo bubo,Bo,3,valid,17\n")
    (recording,) = read(
        root, label_column="sp", group_column="who", recordist_column="who", fold_column="none",
        split_column="part", id_column="nr", source_name="zoo", rank="species", taxonomy="t1",
    )  # fmt: skip
    assert recording.id == "zoo:17" and recording.source_id == "17"
    assert recording.labels == (Label("Bubo bubo", "species", "foreground", "t1"),)
    assert recording.group_id == recording.recordist == "Bo"
    assert recording.fold is None and recording.split == "valid"


def test_a_column_given_for_one_field_still_fills_its_own(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,label,recordist\na.wav,x,Bo\n")
    (recording,) = read(root, group_column="recordist")
    assert recording.group_id == recording.recordist == "Bo"


def test_wrong_columns_are_reported_together(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,label\na.wav,x\n")
    with pytest.raises(PrepError) as caught:
        read(root, label_column="species", fold_column="folds")
    message = str(caught.value)
    assert "--label-column species" in message and "--fold-column folds" in message
    assert "filename, label" in message
    with pytest.raises(PrepError, match="--path-column"):
        read(table(tmp_path / "b", "name,label\na.wav,x\n"))


@pytest.mark.parametrize(
    ("cell", "options", "expected"),
    [
        ("Parus major;Bubo bubo", {}, [("Parus major", ""), ("Bubo bubo", "")]),
        ('"Beluga, White Whale"', {}, [("Beluga, White Whale", "")]),
        ("Parus major|Bubo", {"label_separator": "|"}, [("Parus major", ""), ("Bubo", "")]),
        ("a;b", {"label_separator": ""}, [("a;b", "")]),
        ("species:Parus major;genus:Parus", {}, [("Parus major", "species"), ("Parus", "genus")]),
        ("call: alarm", {}, [("call: alarm", "")]),
        ("Parus major", {"rank": "species"}, [("Parus major", "species")]),
        ("\"['rbwoo1', 'x']\"", {}, [("rbwoo1", ""), ("x", "")]),
        ("a; a ;;", {}, [("a", "")]),
        ("", {}, []),
    ],
)  # fmt: skip
def test_label_cells(
    tmp_path: Path, cell: str, options: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    root = table(tmp_path, f"filename,label\na.wav,{cell}\n")
    (recording,) = read(root, **options)
    assert [(label.name, label.rank) for label in recording.labels] == expected


def test_ranks_go_in_parallel(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,label,rank\na.wav,Parus major;Parus,species;genus\n")
    assert labels(read(root)[0]) == [
        ("Parus major", "species", "foreground"),
        ("Parus", "genus", "foreground"),
    ]
    root = table(tmp_path / "b", "filename,label,rank\na.wav,Parus major;Parus;x,species;genus\n")
    with pytest.raises(PrepError, match=r"3 labels .* 2 ranks"):
        read(root)


def test_background_labels(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,label,background\na.wav,Parus major,Bubo bubo;Parus major\n")
    assert labels(read(root)[0]) == [
        ("Parus major", "", "foreground"),
        ("Bubo bubo", "", "background"),
    ]


def test_a_table_does_not_reach_files_outside_of_its_folder(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        (private / name).touch()
    rows = (
        f"ok.wav,wren\n../private/a.wav,wren\n{private}/b.wav,wren\nlink.wav,wren\nd/c.wav,wren\n"
    )
    root = table(tmp_path / "birds", "filename,label\n" + rows, ("ok.wav",))
    (root / "link.wav").symlink_to(private / "a.wav")
    (root / "d").symlink_to(private)
    with pytest.raises(PrepError, match=r"names 4 file\(s\) outside .*row 3.*--allow-outside"):
        read(root)
    taken = read(root, allow_outside=True)
    assert len(taken) == 5
    # What is published names no folder of this machine.
    assert not any(str(tmp_path) in r.id + r.source_id + r.group_id for r in taken)
    assert len({r.id for r in taken}) == 5


def test_rows_of_one_file_are_one_recording(tmp_path: Path) -> None:
    text = "filename,label,background,fold\na.wav,x,,1\na.wav,y,z,1\na.wav,z,,1\n"
    result = read_folder(table(tmp_path, text), FolderOptions())
    (recording,) = result.recordings
    assert labels(recording) == [(n, "", "foreground") for n in "xyz"]
    assert any("2 rows" in note for note in result.notes)
    root = table(tmp_path / "b", "filename,label,fold\na.wav,x,1\na.wav,y,2\n")
    with pytest.raises(PrepError, match=r"row 3.*fold: '1' and '2'"):
        read(root)


def test_odd_names(tmp_path: Path) -> None:
    """Dots, spaces, accents in either Unicode form, Windows slashes, a folder left out."""
    names = (
        "audio/XC1.v2.final.wav",
        "audio/Ærø – natt.wav",
        "audio/sub/b.wav",
        "audio/e\u0301.wav",
    )
    listed = ("XC1.v2.final.wav", "Ærø – natt.wav", "sub\\b.wav", "\u00e9.wav")
    rows = "".join(f"{name},x\n" for name in listed)
    recordings = read(table(tmp_path, "filename,label\n" + rows, names))
    assert [unicodedata.normalize("NFC", r.path) for r in recordings] == [
        unicodedata.normalize("NFC", name) for name in names
    ]
    assert all((tmp_path / r.path).is_file() for r in recordings)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_and_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    root = table(tmp_path, "")
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows(
            [["filename", "label"], ["a.wav", "Beluga, White; Whale"]]
        )
    (recording,) = read(root, label_separator="")
    assert recording.labels[0].name == "Beluga, White; Whale"


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="not a folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrepError, match="--metadata"):
        read(tmp_path / "empty")
    with pytest.raises(PrepError, match="no rows"):
        read(table(tmp_path / "head", "filename,label\n"))
    with pytest.raises(PrepError, match="row 3"):
        read(table(tmp_path / "gap", "filename,label\na.wav,x\n,y\n"))


def test_repeated_ids_and_two_ranks_are_errors(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,id\na.wav,7\nb.wav,7\n", ("a.wav", "b.wav"))
    with pytest.raises(PrepError, match=r"more than once.*:7"):
        validate(read(root))
    rows = "filename,label\na.wav,species:Prunella\nb.wav,genus:Prunella\n"
    with pytest.raises(PrepError, match="One name must mean one thing"):
        validate(read(table(tmp_path / "b", rows, ("a.wav", "b.wav"))))
    rows = "filename,label\na.wav,Prunella\nb.wav,genus:Prunella\n"
    known = label_ranks(read(table(tmp_path / "c", rows, ("a.wav", "b.wav"))))
    assert known == {"Prunella": ("genus", "")}


def test_impossible_coordinates_are_dropped(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,lat,lon\na.wav,nan,999\n")
    assert (read(root)[0].lat, read(root)[0].lon) == (None, None)


def test_groups_across_folds_are_pointed_out(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,group,fold\na.wav,g,1\nb.wav,g,2\n", ("a.wav", "b.wav"))
    notes = read_folder(root, FolderOptions()).notes
    assert any("more than one fold" in note and "'g'" in note for note in notes)


def test_made_folds_keep_groups_whole_and_labels_even(
    tmp_path: Path, make_folder: Callable, make_rows: Callable
) -> None:
    rows = make_rows(60)
    for i, row in enumerate(rows):
        del row["fold"]
        row["group_id"] = f"g{i // 2}"
    root = table(tmp_path, "")
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    recordings = read(root, make_folds=5)
    assert recordings == read(root, make_folds=5)
    folds = {}
    for recording in recordings:
        assert folds.setdefault(recording.group_id, recording.fold) == recording.fold
    for fold in "01234":
        names = [r.labels[0].name for r in recordings if r.fold == fold]
        assert 10 <= len(names) <= 14 and len(set(names)) == 3
    with pytest.raises(PrepError, match="30 groups"):
        make_folds(recordings, 31)


def test_a_fold_column_is_kept(tmp_path: Path) -> None:
    root = table(tmp_path, "filename,fold\na.wav,9\n")
    assert read(root, make_folds=2)[0].fold == "9"
