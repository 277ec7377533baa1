"""Tables as spreadsheets and other machines save them: read, or an error with the row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dawnchorus.data_prep.archives.columns import FIELDS
from dawnchorus.data_prep.archives.own_folder import FolderTable, read_folder
from dawnchorus.data_prep.archives.own_folder_notes import suggested_split_map
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording


def read(root: Path, content: str | bytes, *files: str, **options: object) -> FolderTable:
    root.mkdir(parents=True, exist_ok=True)
    for name in files or ("a.wav", "b.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    data = content.encode() if isinstance(content, str) else content
    (root / "metadata.csv").write_bytes(data)
    columns = {k.removesuffix("_column"): options.pop(k) for k in list(options) if "_column" in k}
    return read_folder(root, FolderOptions(columns=columns, **options))  # type: ignore[arg-type]


def names(table: FolderTable | Recording) -> list[str]:
    recordings = table.recordings if isinstance(table, FolderTable) else [table]
    return [label.name for recording in recordings for label in recording.labels]


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, line_end: str) -> None:
    lines = ("filename;label;lat", "a.wav;Höckerschwan;52,5", "b.wav;Uhu;-13,25", "")
    table = read(tmp_path, line_end.join(lines).encode(encoding))
    assert names(table) == ["Höckerschwan", "Uhu"]
    assert [r.lat for r in table.recordings] == [52.5, -13.25]
    said = any("Windows-1252" in note and "Höckerschwan" in note for note in table.notes)
    assert said == (encoding == "cp1252")


def test_an_encoding_can_be_given(tmp_path: Path) -> None:
    content = "filename,label\na.wav,Čáp\n".encode("cp1250")
    assert names(read(tmp_path, content, encoding="cp1250")) == ["Čáp"]
    with pytest.raises(PrepError, match="'klingon' is no encoding"):
        read(tmp_path, content, encoding="klingon")


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n"])
def test_the_line_that_names_the_separator(tmp_path: Path, first: str) -> None:
    table = read(tmp_path, f"{first}filename;label\na.wav;Beluga, White Whale\n")
    assert names(table) == ["Beluga, White Whale"]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ('filename,label\na.wav,5" call\n', '5" call'),
        ('filename\tlabel\na.wav\t5" call\n', '5" call'),
        ('filename\tlabel\na.wav\t"x\n', '"x'),
        ('filename\tlabel\na.wav\t"[""x"", ""y""]"\n', "x y"),  # as pandas quotes with tabs
        ("filename,label\na.wav,x,,\n", "x"),
        ("filename,label,remark\na.wav,x\n", "x"),
        ('filename,label\na.wav,"x ""y"" z"\n', 'x "y" z'),
    ],
)
def test_quotes_and_ragged_rows(tmp_path: Path, content: str, label: str) -> None:
    assert " ".join(names(read(tmp_path, content))) == label


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('filename,label\na.wav,"5" call"\n', "row 2: .*quote is not closed"),
        ('filename,label\nb.wav,x\na.wav,"5 call\n', "row 3: .*quote is not closed"),
        ('filename,label\na.wav,"5 call\nb.wav,x\nc.wav,6"\n', "row 2: a label with a line break"),
        ('filename,label\n"a\nb.wav",x\n', "row 2: a line break in the file's name"),
        ("filename,label,lat\nb.wav,y,1\na.wav,x,52,5\n", "row 3: 4 columns instead of 3"),
        ("filename,label\na.wav,x\0y\n", "row 2: a NUL byte"),
        ("filename,label\na.wav,ö\n".encode() + b"b.wav,\xf6\n", "row 3: not utf-8"),
        (b"filename,label\na.wav,\x81\n", "row 2: not utf-8"),
        ("filename,label\na.wav,['x' 'y\n", "row 2: a quote is not closed"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4\nsize 1\n", "Git LFS pointer"),
        (b"PK\x03\x04....", "Excel workbook"),
        ("a.wav,x\nb.wav,y\n", "has no header: its first line names the file 'a.wav'"),
        ("filename,label\n".encode("utf-16")[:-1], "cut off"),
    ],
)
def test_what_cannot_be_read_names_the_row(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(PrepError, match=says):
        read(tmp_path, content)


def test_numbers_are_never_lost_in_silence(tmp_path: Path) -> None:
    table = read(tmp_path, "filename;lat;lon\na.wav;52°30';nan\nb.wav;95;13,4\n")
    assert [(r.lat, r.lon) for r in table.recordings] == [(None, None), (None, 13.4)]
    assert any("2 values of lat" in n and "row 2" in n and "52°30'" in n for n in table.notes)


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("sub\\\u00e9.wav", "sub/e\u0301.wav"), ("sub/e\u0301.wav", "sub/\u00e9.wav"),
        ("SUB\\\u00c9.WAV", "sub/e\u0301.wav"), ("A.Wav", "deep/er/a.wav"), ("a", "sub/a.wav"),
        ("XC1.v2", "XC1.v2.flac"), ("sub/a.mp3", "sub/a.flac"),
        ("/home/ann/birds/sub/a.wav", "sub/a.wav"), ("C:\\Users\\Ann\\sub\\a.wav", "sub/a.wav"),
        ("\\\\nas\\birds\\a.wav", "audio/a.wav"),
    ],
)  # fmt: skip
def test_files_are_found_under_other_spellings(tmp_path: Path, cell: str, file: str) -> None:
    table = read(tmp_path, f"filename,label\n{cell},x\n", file, "other/b.wav")
    assert table.recordings[0].path == file


def test_the_nearest_of_several_files_is_taken_and_none_where_that_is_unclear(
    tmp_path: Path,
) -> None:
    text = "filename,label\nC:\\rec\\Y\\b.wav,x\nzz/b.wav,y\n"
    table = read(tmp_path, text, "x/b.wav", "y/b.wav", "x/B.flac")
    assert [r.path for r in table.recordings] == ["y/b.wav", "zz/b.wav"]
    assert any("1 files are spelt otherwise" in note for note in table.notes)
    assert any("may mean several files" in n and "'x/b.wav' or 'y/b.wav'" in n for n in table.notes)


@pytest.mark.parametrize(
    ("cells", "asks"),
    [
        (("A, B",), True), (("Parus major, Turdus merula",), True), (("dog,cat",), True),
        (("x one", "y two", "x one, y two"), True), (("Parus major|Bubo bubo",), True),
        (("Beluga, White Whale",), False), (("Fin, Finback whale",), False),
        (("Pigeon, dove",), False), (("Inside, small room", "Inside, large room"), False),
        (("Larus argentatus/smithsonianus",), False), (("Smith, J.",), False),
    ],
)  # fmt: skip
def test_what_looks_like_two_labels_is_asked_about(
    tmp_path: Path, cells: tuple[str, ...], asks: bool
) -> None:
    rows = "".join(f'{i}.wav,"{cell}"\n' for i, cell in enumerate(cells))
    files = [f"{i}.wav" for i in range(len(cells))]
    text = f"filename,label\n{rows}"
    if asks:
        with pytest.raises(PrepError, match=r"one label or several.*--label-separator ';' takes"):
            read(tmp_path, text, *files)
    else:
        assert names(read(tmp_path, text, *files)) == list(cells)
    assert names(read(tmp_path, text, *files, label_separator=";")) == list(cells)
    divided = names(read(tmp_path, text, *files, label_separator=","))
    assert len(divided) == sum(cell.count(",") + 1 for cell in cells)


def test_cells_that_say_nothing_are_counted_and_give_no_group_fold_or_recordist(
    tmp_path: Path,
) -> None:
    text = "filename,label,group,fold,recordist,licence\na.wav,nan,nan,NaN,<NA>,NULL\n"
    table = read(tmp_path, text + "b.wav,NA,,,,\n", licence="CC0 1.0")
    assert names(table) == [] and [r.fold for r in table.recordings] == [None, None]
    assert [r.group_id for r in table.recordings] == [r.id for r in table.recordings]
    assert [r.recordist for r in table.recordings] == ["", ""]
    assert len({r.licence_url for r in table.recordings}) == 1
    assert any("'nan' 1, 'NA' 1" in note for note in table.notes)
    assert names(read(tmp_path, "filename,label\na.wav,sound:NA\n")) == ["NA"]


def test_ids_of_labels_are_not_ids_of_recordings(tmp_path: Path) -> None:
    text = "id,filename,label\n1,a.wav,x\n2,a.wav,y\n"
    with pytest.raises(PrepError, match=r"row 3: 'a.wav' .*--id-column none"):
        read(tmp_path, text)
    assert names(read(tmp_path, text, id_column="none")) == ["x", "y"]


def test_folds_of_single_files_are_said(tmp_path: Path) -> None:
    text = "filename,label,{},fold\na.wav,x,Ann,1\nb.wav,y,Ann,2\nc.wav,y,Bo,2\n"
    for column in ("recordist", "individual", "Bird ID", "site"):
        notes = read(tmp_path, text.format(column), "a.wav", "b.wav", "c.wav").notes
        assert any(f"--group-column {column} keeps" in note for note in notes), column
    notes = read(tmp_path, text.format("recordist"), group_column="recordist").notes
    assert not any("single files" in note for note in notes)
    assert any("1 groups lie in more than one fold" in note for note in notes)


def test_other_names_of_splits_are_offered_and_taken(tmp_path: Path) -> None:
    text = "filename,split\na.wav,training\nb.wav,dev\n"
    table = read(tmp_path, text)
    assert any("--split-map 'dev=valid,training=train'" in note for note in table.notes)
    table = read(tmp_path, text, split_map="dev=valid, training=train")
    assert [r.split for r in table.recordings] == ["train", "valid"]
    assert not any("split-map" in note for note in table.notes)
    with pytest.raises(PrepError, match="no pair OLD=NEW"):
        read(tmp_path, text, split_map="dev")
    assert suggested_split_map({"data"}) == "data=train"
    assert suggested_split_map({"train", "valid", "test"}) == suggested_split_map({"night"}) == ""


def test_parquet_and_json_lines_bring_their_own_lists(tmp_path: Path) -> None:
    read(tmp_path, "filename\na.wav\n")
    frame = pl.DataFrame({"filename": ["a.wav"], "label": [["x", None, "y"]], "lat": [52.5]})
    frame.write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text(json.dumps({"filename": "a.wav", "label": ["x", "y"]}))
    for name in ("t.parquet", "t.jsonl"):
        table = read_folder(tmp_path, FolderOptions(metadata=tmp_path / name))
        assert names(table) == ["x", "y"]
    numbers = pl.DataFrame({"filename": ["a.wav", "b.wav"], "label": [12.0, np.nan]})
    numbers.write_parquet(tmp_path / "t.parquet")
    table = read_folder(tmp_path, FolderOptions(metadata=tmp_path / "t.parquet"))
    assert [names(r) for r in table.recordings] == [["12"], []]


def test_options_that_nobody_needs_are_not_printed(tmp_path: Path) -> None:
    lines = "\n".join(read(tmp_path, "filename,label\na.wav,x\n").mapped.lines())
    assert "no column for" not in lines
    unsaid = [field.option for field in FIELDS if not field.absent]
    assert unsaid and not any(option in lines for option in unsaid)


def test_a_folder_without_its_table_names_the_tables_it_has(tmp_path: Path) -> None:
    (tmp_path / "annotations.txt").touch()
    with pytest.raises(PrepError, match=r"There are annotations.txt") as caught:
        read_folder(tmp_path, FolderOptions())
    assert "filename,label,recordist,licence" in str(caught.value)


def test_json_rows_may_leave_out_what_they_lack(tmp_path: Path) -> None:
    rows = [{"file": "a.wav"}, {"file": "b.wav", "label": ["x", None], "split": "test"}]
    table = read(tmp_path, "\n".join(map(json.dumps, rows)))
    assert [(names(r), r.split) for r in table.recordings] == [([], "train"), (["x"], "test")]
    with pytest.raises(PrepError, match=r"one JSON array.*lines=True"):
        read(tmp_path, json.dumps(rows))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_true_and_false_are_labels_in_every_table(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    frame = pl.DataFrame({"file": ["a.wav", "b.wav"], "label": [True, False]})
    path = tmp_path / f"t.{ending}"
    {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}[ending](
        path
    )
    found = read_folder(tmp_path, FolderOptions(metadata=path))
    assert [name.lower() for name in names(found)] == ["true", "false"]


@pytest.mark.parametrize("cell", [{"name": "x"}, [{"name": "x"}, {"name": "y"}]])
def test_labels_with_named_fields_are_refused(tmp_path: Path, cell: object) -> None:
    with pytest.raises(PrepError, match="row 1: a cell of labels holds named fields"):
        read(tmp_path, json.dumps({"file": "a.wav", "label": cell}))


def test_a_map_of_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    kind = pa.map_(pa.string(), pa.int64())
    table = pa.table({"file": ["a.wav"], "label": pa.array([[("x", 1)]], kind)})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(PrepError, match="named fields"):
        read_folder(tmp_path, FolderOptions(metadata=tmp_path / "t.parquet"))


def test_a_column_for_each_label_is_told(tmp_path: Path) -> None:
    table = read(tmp_path, "file,Parus major,Uhu\na.wav,1,0\nb.wav,0,\n")
    assert any("2 columns hold only 0 and 1 ('Parus major', 'Uhu')" in n for n in table.notes)
    told = read(tmp_path, "file,label,night,rain\na.wav,x,1,0\nb.wav,y,0,1\n")
    assert not any("only 0 and 1" in note for note in told.notes)


def test_another_encoding_is_asked_for_and_read(tmp_path: Path) -> None:
    content = "filename,label\na.wav,スズメ\n".encode("shift_jis")
    with pytest.raises(PrepError, match="--encoding, such as shift_jis"):
        read(tmp_path, content)
    assert names(read(tmp_path, content, encoding="shift_jis")) == ["スズメ"]
