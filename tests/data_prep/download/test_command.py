"""What is chosen, what is told, and what the command line says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import yaml

from dawnchorus.data_prep.download.choice import make_choice
from dawnchorus.data_prep.download.download_recipe import load_recipe
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import read_recordings
from dawnchorus.trainer.compose import recipe_file, shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.kinds import DOWNLOAD

CC = "https://creativecommons.org/licenses/"
LICENCES = {
    "cc0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "by": f"{CC}by/4.0/",
    "by-sa": f"{CC}by-sa/3.0/",
    "by-nc": "cc-by-nc",
    "by-nc-sa": f"{CC}by-nc-sa/2.5/",
    "by-nc-nd": f"{CC}by-nc-nd/4.0/de/",
    "other": "LicenseRef-WHOI-Public",
    "none": "",
}


def licence_rows(server, row, make_sound):
    return [
        row(f"xc:{i}", server.file(f"/{code}", make_sound(i)), licence_url=url)
        for i, (code, url) in enumerate(LICENCES.items())
    ]


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"licences": None}, set(LICENCES) - {"none"}),
        ({"licences": "cc0,by, by-sa"}, {"cc0", "by", "by-sa"}),
        ({"licences": "all"}, set(LICENCES)),
        ({"licences": "all", "no": ["nc", "nd"]}, {"cc0", "by", "by-sa"}),
        ({"licences": "cc,none", "no": ["nc", "nd"]}, {"cc0", "by", "by-sa", "none"}),
        ({"licences": None, "no": ["nc"]}, {"cc0", "by", "by-sa"}),
        ({"licences": "cc", "deny": "nd,sa"}, {"cc0", "by", "by-nc"}),
        ({"licences": "cc-by"}, {"by"}),
    ],
)
def test_no_request_for_a_licence_that_is_denied(bench, server, row, make_sound, options, taken):
    choice = make_choice(**({"deny": None} | options))
    bench.run(licence_rows(server, row, make_sound), choice=choice)
    assert {asked.path[1:] for asked in server.log} == taken
    assert len(bench.fetched()) == len(taken)
    counts = Counter(reason for reason, _ in bench.rejected().values())
    stated = set(LICENCES) - {"none"} - taken
    assert counts["licence_denied"] == len(stated)
    assert counts["licence_not_stated"] == ("none" not in taken)


def test_another_choice_keeps_what_is_there(bench, server, row, make_sound):
    rows = licence_rows(server, row, make_sound)
    bench.run(rows, choice=make_choice(licences="cc0,by", deny=None))
    bench.run(choice=make_choice(licences="by,by-sa", deny=None))
    assert sorted(asked.path for asked in server.log) == ["/by", "/by-sa", "/cc0"]
    assert set(bench.fetched()) == {"xc:1", "xc:2"}
    bench.run(choice=make_choice(licences="cc0,by,by-sa", deny=None))
    assert len(server.log) == 3 and len(bench.fetched()) == 3


def test_licence_words_that_are_none():
    with pytest.raises(PrepError, match=r"gpl.*Known are"):
        make_choice(licences="by,gpl", deny=None)
    with pytest.raises(PrepError, match="exclude every licence"):
        make_choice(licences="by", deny="cc")


def test_amounts(bench, server, row, make_sound):
    rows = [
        row(f"xc:{i}", server.file(f"/{i}", make_sound(i)), duration_s=600.0) for i in range(12)
    ]
    bench.run(rows, choice=make_choice(licences=None, deny=None, limit=3))
    assert set(bench.fetched()) == {"xc:0", "xc:1", "xc:2"}
    bench.run(choice=make_choice(licences=None, deny=None, max_hours=1.0))
    assert set(bench.fetched()) == {f"xc:{i}" for i in range(6)} and len(server.log) == 6
    size = len(make_sound())
    bench.run(max_gb=8.5 * size / 1e9, recipe={"default": {"concurrency": 1}})
    assert len(bench.fetched()) == 9  # the one that exceeds it is the last
    assert {d for _, d in bench.rejected().values()} == {"--max-gb was reached"}
    bench.run(max_gb=8.5 * size / 1e9)
    assert len(server.log) == 9


def test_recordings_that_need_no_download(bench, server, row, make_sound, tmp_path):
    here = tmp_path / "here.wav"
    here.write_bytes(make_sound())
    bench.run([
        row("xc:1", server.file("/1", make_sound(1))),
        row("xc:2", "", path=str(here)),
        row("xc:3", "", path="somewhere/else.wav"),
    ])  # fmt: skip
    paths = {r.id: r.path for r in read_recordings(bench.out)}
    assert paths.keys() == {"xc:1", "xc:2"} and paths["xc:2"] == str(here)
    assert bench.rejected()["xc:3"][0] == "no_url"


def test_the_table_that_comes_out(bench, server, row, make_sound):
    first = row("xc:1", server.file("/1", make_sound()), recordist="Zoë", lat=1.5, country="Chile")
    bench.run([first, row("xc:2", server.url("/none"))])
    (found,) = read_recordings(bench.out)
    path = found.path
    assert (bench.out / path).read_bytes() == make_sound() and not path.startswith("/")
    assert replace(found, path="") == first
    told = "\n".join(bench.printed)
    assert "127.0.0.1" in told and "http_404 1" in told and "1 recordings" in told
    assert any(line.startswith("2 files to fetch") for line in bench.said)


def test_the_output_may_not_be_the_table_s_own_folder(bench, server, row, make_sound):
    bench.table([row("xc:1", server.file("/1", make_sound()))])
    bench.folder = bench.folder / "table"
    (bench.folder / "table").symlink_to(bench.folder)
    (bench.folder / "audio").symlink_to(bench.folder)
    with pytest.raises(PrepError, match="the folder of the table itself"):
        bench.run()


def test_secrets_stay_secret(bench, server, row, make_sound):
    query = "?key=SECRET1&fmt=mp3&X-Amz-Signature=SECRET2&access_token=SECRET3"
    gone = server.status("/gone", 302, Location=f"/gone2{query}")
    server.status("/gone2", 302, Location=f"/gone{query}")
    rows = [
        row("xc:1", server.file("/1", make_sound()) + query),
        row("xc:2", server.url("/404") + query),
        row("xc:3", gone + query),
        row("xc:4", "http://127.0.0.1:1/x" + query),
        row("xc:5", f"ftp://me:SECRET4@127.0.0.1/x{query}"),
    ]
    bench.run(rows)
    assert "fmt=mp3" in server.url("") + query  # the server gets all of it
    rejected = (bench.out / "rejected.parquet").read_bytes()
    import pyarrow.parquet as pq

    shown = str(pq.read_table(bench.out / "rejected.parquet").to_pylist())
    shown += "".join(bench.said + bench.printed) + (bench.out / "summary.json").read_text()
    assert "SECRET" not in shown and b"SECRET" not in rejected and "key=***" in shown


def cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dawnchorus.data_prep.cli", "download", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, timeout=300
    )


def test_the_command(bench, server, row, make_sound):
    rows = licence_rows(server, row, make_sound)
    table = bench.table([replace(r, duration_s=10.0) for r in rows])
    recipe = bench.folder / "mine.yaml"  # names only what differs
    recipe.write_text("default: {requests_per_s: 50, concurrency: 2}\nprivate_hosts: [127.0.0.1]\n")
    given = [str(table / "recordings.parquet"), "--out", str(bench.out), "--no-nc", "--recipe",
             str(recipe)]  # fmt: skip

    told = cli(*given, "--dry-run", "--deny", "other")
    assert told.returncode == 0, told.stderr
    assert "to fetch: 3 files, about 0.5 MB" in told.stdout
    assert "licence_denied 4" in told.stdout and "licence_not_stated 1" in told.stdout
    assert not server.log and not bench.out.exists()

    refused = cli(*given)
    assert refused.returncode == 2 and "--contact" in refused.stderr
    assert not server.log

    done = cli(*given, CHORUS_CONTACT="me@example.org")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(bench.out / "recordings.parquet")
    assert "3 files to fetch" in done.stderr and "me@example.org" in done.stderr
    assert len(bench.fetched()) == 3

    told = cli(*given, "--dry-run")
    assert "to fetch: 0 files" in told.stdout and "on disk already: 3" in told.stdout
    again = cli(*given, "--table-only")
    assert again.returncode == 0 and len(server.log) == 3


def test_a_wrong_recipe_names_every_mistake(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("hosts: {xeno-canto.org: {requests_per_s: -1, concurency: 2}}\nretries: 3\n")
    with pytest.raises(RecipeError) as found:
        load_recipe(str(path))
    for part in ("hosts.xeno-canto.org.requests_per_s", "concurency", "retries"):
        assert part in str(found.value)
    with pytest.raises(RecipeError, match="did you mean 'polite'"):
        load_recipe("polit")
    with pytest.raises(RecipeError, match="contact"):
        load_recipe("polite", contact="a\r\nCookie: x")


@pytest.mark.parametrize("name", shipped_recipes(DOWNLOAD))
def test_shipped_recipes_are_polite(name):
    recipe = load_recipe(name, contact="me@example.org")
    assert yaml.safe_load(recipe_file(name, DOWNLOAD).read_text())["contact"] == ""
    for host in ("xeno-canto.org", "www.xeno-canto.org"):
        gate, limits = recipe.limits(host)
        assert gate == "xeno-canto.org" and limits.requests_per_s <= 1
    media = recipe.limits("static.inaturalist.org")[1]
    assert media.gb_per_hour < 5 and media.gb_per_day < 24
    assert recipe.limits("example.org:8080")[1] == recipe.default
    assert recipe.default.requests_per_s <= 1 and recipe.default.concurrency == 1
    assert recipe.limits("notxeno-canto.org")[1] == recipe.default
