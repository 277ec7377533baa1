from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from dawnchorus.data_prep.archives.delimited import (
    MAX_LINE_BYTES,
    Dialect,
    plain_key,
    read_rows,
    sniff,
)
from dawnchorus.data_prep.archives.dwca import Archive, BadRow, Joined, is_archive, open_archive
from dawnchorus.data_prep.archives.file_index import FileIndex, asa_key, stem_key, xeno_canto_key
from dawnchorus.data_prep.errors import PrepError

DWC, GBIF = "http://rs.tdwg.org/dwc/terms/", "http://rs.gbif.org/terms/1.0/"
DC = "http://purl.org/dc/terms/"
NAME = (GBIF + "gbifID", DWC + "scientificName")
MEDIA = (GBIF + "gbifID", DC + "type", DC + "identifier")


def joined(archive: Archive, scratch: Path) -> list[Joined | BadRow]:
    return list(
        archive.joined("multimedia", keep=lambda row: row["type"] == "Sound", scratch=scratch)
    )


@pytest.fixture
def small(dwca_table, dwca_meta, dwca_files):
    """Write an archive of two tables, tabs, no quoting; `more` replaces or adds files."""

    def write(out: Path, *, more=None, core=None, media=None, **options) -> Path:
        files = {
            "meta.xml": dwca_meta(
                dwca_table("core", DWC + "Occurrence", ["occurrence.txt"], NAME, **options),
                dwca_table("extension", GBIF + "Multimedia", ["multimedia.txt"], MEDIA),
            ),
            "occurrence.txt": core or 'gbifID\tname\n1\tParus "x, major\n2\tTurdus merula\n',
            "multimedia.txt": media
            or "gbifID\ttype\tid\n2\tSound\thttp://a\n1\tStillImage\tb\n1\tSound\tc\n1\tSound\td\n",
        }
        return dwca_files(out, files | (more or {}))

    return write


@pytest.mark.parametrize("name", ["a.zip", "folder"])
def test_tabs_without_quoting_are_joined(small, tmp_path, name):
    path = small(tmp_path / name)
    assert is_archive(path)
    rows = joined(open_archive(path), tmp_path / "scratch")
    first, second = rows
    assert first.core == {"id": "1", "gbifid": "1", "scientificname": 'Parus "x, major'}
    assert [row["identifier"] for row in first.rows] == ["c", "d"]
    assert [row["identifier"] for row in second.rows] == ["http://a"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_quoted_commas_defaults_several_files_and_unlisted_columns(
    dwca_table, dwca_meta, dwca_files, tmp_path
):
    core = (
        'id,scientificName,"Associated Taxa"\n'
        '"9@XC","Parus ""major"", x","has background sounds: A b"\n'
        '"10@XC","two\nlines",""\n'
    )
    meta = dwca_meta(
        dwca_table(
            "core", DWC + "Occurrence", ["Occurrence.txt"], ("", DWC + "scientificName"),
            separator=",", quote='"',
            more=f'<field term="{DWC}kingdom" default="Animalia"/>',
        ),
        dwca_table(
            "extension", "http://rs.tdwg.org/ac/terms/Multimedia", ["m1.txt", "m2.txt"],
            ("", DC + "type", "http://rs.tdwg.org/ac/terms/accessURI"),
            separator=",", quote='"',
        ),
    )  # fmt: skip
    files = {
        "meta.xml": meta,
        "Occurrence.txt": "\ufeff" + core,
        "m1.txt": 'CoreId,type,accessURI\n"9@XC",Sound,"http://a,b"\n',
        "m2.txt": 'CoreId,type,accessURI\n"10@XC",Sound,c\n"9@XC",Sound,d\n',
    }
    path = dwca_files(tmp_path / "wildlife-sounds.dwca", files)
    first, second = joined(open_archive(path), tmp_path)
    assert first.core == {
        "id": "9@XC",
        "scientificname": 'Parus "major", x',
        "kingdom": "Animalia",
        "associatedtaxa": "has background sounds: A b",
    }
    assert [row["accessuri"] for row in first.rows] == ["http://a,b", "d"]
    assert second.core["scientificname"] == "two\nlines"


def test_default_fills_empty_cells_and_first_of_two_equal_terms_counts(
    dwca_table, dwca_meta, dwca_files, tmp_path
):
    more = f'<field index="1" term="{DWC}sex" default="unknown"/><field index="2" term="x:sex"/>'
    meta = dwca_meta(dwca_table("core", DWC + "Occurrence", ["o.txt"], (), headers=0, more=more))
    path = dwca_files(tmp_path / "a", {"meta.xml": meta, "o.txt": "\ufeff1\tmale\tm\n2\t\t\n"})
    rows = list(open_archive(path).core.rows())
    assert rows == [{"id": "1", "sex": "male"}, {"id": "2", "sex": "unknown"}]


def test_declared_encoding_is_used(small, tmp_path):
    core = "gbifID\tname\n1\tBob Planqué\n".encode("latin-1")
    path = small(tmp_path / "a.zip", core=core, encoding="ISO-8859-1")
    (row, *_) = joined(open_archive(path), tmp_path)
    assert row.core["scientificname"] == "Bob Planqué"


def test_rows_without_counterpart_are_told(small, tmp_path):
    media = "gbifID\ttype\tid\n7\tSound\tlost\n1\tSound\tfound\n"
    rows = joined(open_archive(small(tmp_path / "a.zip", media=media)), tmp_path)
    assert [(row.core and row.core["id"], [m["identifier"] for m in row.rows]) for row in rows] == [
        ("1", ["found"]),
        ("2", []),
        (None, ["lost"]),
    ]


@pytest.mark.parametrize("depth", ["0012-2605/", "a/b/"])
def test_archive_in_a_folder_inside_the_zip(small, tmp_path, depth):
    flat = zipfile.ZipFile(small(tmp_path / "flat.zip"))
    with flat, zipfile.ZipFile(tmp_path / "deep.zip", "w") as deep:
        for name in flat.namelist():
            deep.writestr(depth + name, flat.read(name))
    assert len(joined(open_archive(tmp_path / "deep.zip"), tmp_path)) == 2


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../b", "C:\\evil", "..\\e"])
def test_members_that_lead_outside_are_refused(small, tmp_path, name):
    path = small(tmp_path / "a.zip", more={name: "x"})
    with pytest.raises(PrepError, match="outside itself"):
        open_archive(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip"]


def test_locations_that_lead_outside_are_refused(dwca_table, dwca_meta, dwca_files, tmp_path):
    (tmp_path / "secret.txt").write_text("1\tsecret\n")
    meta = dwca_meta(dwca_table("core", DWC + "Occurrence", ["../secret.txt"], NAME))
    path = dwca_files(tmp_path / "a", {"meta.xml": meta})
    with pytest.raises(PrepError, match="outside itself"):
        open_archive(path)


def test_truncated_zip_says_so(small, tmp_path):
    whole = small(tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert not is_archive(tmp_path / "cut.zip")
    with pytest.raises(PrepError, match=r"cut\.zip is no zip file or a truncated one.*again"):
        open_archive(tmp_path / "cut.zip")


def test_damaged_member_says_which_and_where(dwca_table, dwca_meta, tmp_path):
    text = b"gbifID\tname\n" + b"".join(
        b"%d\tParus major %d\n" % (i, i * 7919) for i in range(9999)
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        whole.writestr(
            "meta.xml", dwca_meta(dwca_table("core", DWC + "Occurrence", ["occurrence.txt"], NAME))
        )
        whole.writestr("occurrence.txt", text)
        start = whole.getinfo("occurrence.txt").header_offset + 30 + len("occurrence.txt")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[start + 30_000] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(PrepError, match=r"occurrence\.txt breaks off after line \d+"):
        list(open_archive(tmp_path / "a.zip").core.rows())


def test_bad_rows_are_named_and_the_others_read(small, tmp_path):
    good = "".join(f"{i}\tParus major\n" for i in range(10, 40)).encode()
    core = (
        b"gbifID\tname\n1\tParus major\n2\tPar\0us\n3\tBob Planqu\xe9\n4\n5\ta\tb\n\n"
        + b"6\t" + b"x" * (10 << 20) + b"\n7\tTurdus merula\n" + good
    )  # fmt: skip
    tracemalloc.start()
    rows = joined(open_archive(small(tmp_path / "a.zip", core=core)), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bad = {row.problem: row.detail for row in rows if isinstance(row, BadRow)}
    assert bad["nul_byte"] == "occurrence.txt, line 3: a NUL byte"
    assert "line 4: not UTF-8" in bad["wrong_encoding"]
    assert "line 6: 3 columns instead of 2" in bad["wrong_number_of_columns"]
    assert "line 8: a line of 10,485,763 bytes" in bad["line_too_long"]
    assert len([row for row in rows if isinstance(row, BadRow)]) == 5
    ids = [row.core["id"] for row in rows if isinstance(row, Joined) and row.core]
    assert ids[:3] == ["1", "7", "10"] and len(ids) == 32
    assert peak < 8 * MAX_LINE_BYTES, "a long line must not be held in memory"


def test_a_quote_that_is_not_closed_costs_some_rows_not_the_rest():
    import io

    rows = [b"id,name\n"] + [b'%d,"Parus major %d"\n' % (i, i) for i in range(20_000)]
    rows[100] = b'99,"never closed\n'
    found = list(read_rows(io.BytesIO(b"".join(rows)), "t.csv", Dialect(), 2))
    bad = [row for row in found if isinstance(row, BadRow)]
    assert bad and all("t.csv, line" in row.detail for row in bad)
    assert len(found) - len(bad) > 10_000
    assert ["19999", "Parus major 19999"] in found


def test_a_file_that_is_mostly_unreadable_is_an_error(small, tmp_path):
    core = b"gbifID\tname\n" + b"1\tPlanqu\xe9\n" * 500
    with pytest.raises(PrepError, match=r"rows of occurrence\.txt cannot be read.*line \d+.*UTF-8"):
        joined(open_archive(small(tmp_path / "a.zip", core=core)), tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


BOMB = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><archive>&z;</archive>'


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ("<archive><core", "cannot be read"),
        (BOMB, "cannot be read"),
        ("<archive/>", "no core table"),
        ("\0\0", "cannot be read"),
        ('<archive><core><files><location>gone.txt</location></files></core></archive>', "lacks"),
        ('<archive><core><id index="x"/></core></archive>', "instead of a number"),
        ('<archive><core encoding="utf-16"><files><location>occurrence.txt</location></files>'
         '<id index="0"/></core></archive>', "Convert to UTF-8"),
        ('<archive><core fieldsTerminatedBy="||"><files><location>occurrence.txt</location>'
         '</files><id index="0"/></core></archive>', "single characters"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_told(small, tmp_path, meta, says):
    path = small(tmp_path / "a.zip", more={"meta.xml": meta})
    with pytest.raises(PrepError, match=says):
        open_archive(path)


def test_known_files_without_meta_xml(dwca_files, tmp_path):
    files = {
        "observations.csv": 'id,scientificName\n1,"Hyla ""a"" b"\n2,Bufo bufo\n',
        "media.csv": "id,type,identifier\n1,Sound,u\n",
    }
    rows = joined(open_archive(dwca_files(tmp_path / "inat.zip", files)), tmp_path)
    assert rows[0].core == {"id": "1", "scientificname": 'Hyla "a" b'}
    assert rows[0].rows[0]["identifier"] == "u"


def test_what_is_no_archive_gets_a_hint(dwca_files, tmp_path):
    path = dwca_files(tmp_path / "simple.zip", {"0012.csv": "gbifID\tspecies\n"})
    assert not is_archive(path)
    with pytest.raises(PrepError, match="'Darwin Core Archive', not 'Simple'"):
        open_archive(path)
    with pytest.raises(PrepError, match="no archive at"):
        open_archive(tmp_path / "nothing")


def test_a_left_over_join_file_is_replaced(small, tmp_path):
    (tmp_path / ".join.sqlite").write_bytes(b"half a database")
    assert len(joined(open_archive(small(tmp_path / "a.zip")), tmp_path)) == 2


def test_memory_does_not_grow_with_the_rows(small, tmp_path):
    def peak(count: int) -> int:
        core = "gbifID\tname\n" + "".join(f"{i}\tParus major {i}\n" for i in range(count))
        media = "gbifID\ttype\tid\n" + "".join(
            f"{i}\t{kind}\t{'x' * 100}\n" for i in range(count) for kind in ("StillImage", "Sound")
        )
        path = small(tmp_path / f"{count}.zip", core=core, media=media)
        del core, media
        tracemalloc.start()
        archive = open_archive(path)
        rows = archive.joined("multimedia", keep=lambda r: r["type"] == "Sound", scratch=tmp_path)
        assert sum(len(row.rows) for row in rows if isinstance(row, Joined)) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(4000) < peak(800) + (1 << 20)


def test_sniffed_dialects():
    import io

    assert sniff(io.BytesIO(b"\xef\xbb\xbfa;b\n"), "t")[0] == ["a", "b"]
    assert sniff(io.BytesIO(b"a\tb\n"), "t")[1] == Dialect("\t", "")
    assert sniff(io.BytesIO(b'"a"\t"b"\n'), "t") == (["a", "b"], Dialect("\t", '"'))
    for content in (b"", b"\0\0", b"\xff\xfe\x00", b"a\rb,c\n"):
        with pytest.raises(PrepError, match="t does not begin"):
            sniff(io.BytesIO(content), "t")
    assert plain_key("http://rs.tdwg.org/dwc/terms/recordedBy") == plain_key("Recorded By")


def test_files_are_found_by_key(tmp_path):
    names = ["a/XC0254462-JMJ x.mp3", "b/-4gqARaEJE.wav", "b/-4GQARAEJE.wav", "c/12.wav"]
    names += ["c/table.csv", ".hidden/XC1.mp3", "d/Anas_acuta_DIG0195_03_short.mp3"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    by_number = FileIndex(tmp_path, xeno_canto_key)
    assert by_number.count == 5
    assert by_number.find("XC254462") == str(tmp_path / "a/XC0254462-JMJ x.mp3")
    assert by_number.find("XC12") == str(tmp_path / "c/12.wav")
    assert by_number.find("XC1") == by_number.find("") == by_number.find("XC25446") == ""
    by_name = FileIndex(tmp_path, stem_key)
    assert by_name.find("-4gqARaEJE").endswith("b/-4gqARaEJE.wav")
    assert by_name.find("-4GQARAEJE").endswith("b/-4GQARAEJE.wav")
    by_both = FileIndex(tmp_path, asa_key)
    for key in asa_key("Anas_acuta_DIG_195_3_0")[-1:], ["Anas_acuta_DIG0195_03"]:
        assert by_both.find(key[0]).endswith("DIG0195_03_short.mp3")
    with pytest.raises(PrepError, match="no folder of audio"):
        FileIndex(tmp_path / "nothing")


def test_names_that_are_no_utf8_are_listed(tmp_path):
    (tmp_path / "good.wav").write_bytes(b"")
    try:
        with open(bytes(tmp_path) + b"/b\xe9.wav", "wb"):  # noqa: PTH123
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    index = FileIndex(tmp_path)
    assert index.find("good") and len(index.unnamable) == 1 and "udce9" in index.unnamable[0]
