from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.panels import (
    Example,
    ImagePanel,
    ScoresPanel,
    load_examples,
    save_examples,
)
from dawnchorus.trainer.report.page import duration, hardware, write_report

MakeRun = Callable[..., Path]
_VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "image", "line"}
_EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags, resources and text of a page; complains about tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append(dict(attrs))
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                (self.links if tag == "a" else self.resources).append(value or "")  # type: ignore[arg-type]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open and self.open[-1] == tag, (tag, self.open[-4:], self.getpos())
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_two_runs_make_one_page_with_everything_in_order(
    tmp_path: Path, make_run: MakeRun, make_stats: MakeRun
) -> None:
    runs = [make_run("ssl", model_score=0.73), make_run("sl", "post")]
    data = make_stats("xc_birds", 12)
    stats = json.loads((data / "stats.json").read_text())
    (data / "stats.json").write_text(json.dumps(stats | {"clips": 2710}))
    out = write_report(tmp_path / "r.html", runs, datasets=[data])
    _, page = read(out)
    wanted = [
        "sl", "Post-trained probe accuracy 0.81, against the log-mel baseline's 0.64 (esc10).",
        "20,000 of 20,000", "2,560,000", "1 h 43 min", "8 × NVIDIA H200",
        "Evaluation", "log-mel", "random-init", "pre-trained", "post-trained", "0.811", "± 0.013",
        "Training ssl", "Loss", "unigram baseline", "Masked-token accuracy", "Learning rate",
        "Gradient norm", "clips/s", "Waiting for data", "MFU", "Events", "pre-emption",
        "non-finite",
        "Training sl", "macro mAP", "macro AUROC", "top-1",
        "Examples", "tokens masked", "Target codes", "Predicted codes", "Highest scores",
        "Data", "xc_birds", "CC BY-NC-SA 4.0", "Clips per class", "Resolved recipe", "torch 2.11.0",
    ]  # fmt: skip
    at = 0
    for words in wanted:
        found = page.text.find(words, at)
        assert found >= 0, f"{words!r} is missing after {page.text[at - 80 : at]!r}"
        at = found
    assert "What is missing" not in page.text
    assert out.stat().st_size < 3_000_000


def test_nothing_is_loaded_from_anywhere(tmp_path: Path, make_run: MakeRun) -> None:
    text, page = read(write_report(tmp_path / "r.html", [make_run("ssl")]))
    assert page.resources
    assert {r for r in page.resources if not r.startswith(("data:", "#"))} == set()
    assert not re.search(r"@import|url\((?!#)", text)
    assert all(link.startswith(("#", "https://creativecommons.org/")) for link in page.links)
    assert page.handlers == []
    # The policy keeps a browser from loading or running anything else, whatever slips in.
    assert "default-src 'none'; img-src data:;" in text


def test_what_files_say_is_text_and_never_markup(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run("sl", "post", steps=200, total=200)
    evil = {"name": _EVIL, "objective": {"name": "multilabel"}, "encoder": {"name": _EVIL}}
    (run / "recipe.yaml").write_text(json.dumps(evil))
    (run / "environment.json").write_text(json.dumps({_EVIL: {_EVIL: _EVIL}, "gpus": [_EVIL]}))
    (run / "labels.json").write_text(json.dumps({"labels": [{"name": _EVIL, "rank": "species"}]}))
    kept = load_examples(run)
    panels = (ScoresPanel(((_EVIL, 0.5),)), ImagePanel(_EVIL, np.eye(3), 0.1))
    save_examples(run, [Example(_EVIL, _EVIL, (_EVIL,), kept[0].sound, panels)])
    (run / "evaluation" / "x.json").write_text(
        json.dumps(
            {"dataset": _EVIL, "rows": [{"name": _EVIL, "probe": {"metric": _EVIL, "mean": 1}}]}
        )
    )
    sources = [
        {"name": _EVIL, "licences": [{"licence_url": f"https://x/\"onload='{_EVIL}", "clips": 1}]}
    ]
    (run / "data.json").write_text(json.dumps({"sources": sources}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"kind": "event", "event": _EVIL, "step": 200, "message": _EVIL}) + "\n"
        )
        file.write(json.dumps({"kind": "train", "step": 200, '"><script>': 1.0, _EVIL: 2.0}) + "\n")
    data = tmp_path / "data"
    data.mkdir()
    (data / "stats.json").write_text(json.dumps({"name": _EVIL, "clips_per_label": {_EVIL: 3}}))
    text, page = read(write_report(tmp_path / "r.html", [run], title=_EVIL, datasets=[data]))
    assert "alert('x')</script>" not in text and "<script>alert" not in text
    assert page.text.count("alert('x')") > 15
    assert page.handlers == []
    own = [s for s in page.scripts if s.get("type") != "application/json"]
    assert own == [{}], "only the page's own script"


def test_a_run_that_is_still_going(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run("ssl", steps=6_400, model_score=None, examples=0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6410, "lo')
    _, page = read(write_report(tmp_path / "r.html", [run]))
    assert "Masked-token accuracy" in page.text
    assert "under way or interrupted , 32 %" in page.text.replace("interrupted,", "interrupted ,")
    assert "6,400 of 20,000" in page.text
    for words in ("is torn and was left out", "no evaluation yet", "examples.npz is missing"):
        assert words in page.text


def test_a_pre_empted_run_says_so(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run("ssl", steps=100, total=1000, every=10, examples=0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "event", "event": "preempted", "step": 100}) + "\n")
    assert "pre-empted, to be continued" in read(write_report(tmp_path / "r.html", [run]))[1].text


def test_an_empty_folder_still_makes_a_page(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    _, page = read(write_report(tmp_path / "r.html", [run]))
    for words in ("bare", "No result yet.", "not started", "recipe.yaml is missing",
                  "metrics.jsonl is missing", "environment.json is missing", "data.json is missing",
                  "no evaluation yet"):  # fmt: skip
        assert words in page.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00\xfe" * 99, b"[]", b"null", b"3\n4\n"])
def test_damaged_files_are_told_and_passed_over(
    tmp_path: Path, make_run: MakeRun, content: bytes
) -> None:
    run = make_run("sl", "post", steps=200, total=200)
    for path in [*run.glob("*.*"), *run.glob("evaluation/*")]:
        path.write_bytes(content)
    _, page = read(write_report(tmp_path / "r.html", [run]))
    for name in ("recipe.yaml", "environment.json", "data.json", "labels.json", "examples.npz",
                 "evaluation/esc10.json"):  # fmt: skip
        assert name in page.text.split("What is missing")[-1]


def test_arrays_of_the_wrong_shape_and_truncated_archives(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run("ssl", steps=200, total=200)
    whole = (run / "examples.npz").read_bytes()
    (run / "examples.npz").write_bytes(whole[: len(whole) // 2])
    assert (
        "examples.npz could not be read" in read(write_report(tmp_path / "r.html", [run]))[1].text
    )
    # As an earlier version wrote it.
    np.savez(run / "examples.npz", mel_KTF=np.zeros((2, 64, 128)), frames_K=np.zeros(3, int))
    assert "of another version" in read(write_report(tmp_path / "r.html", [run]))[1].text


def test_40_000_lines_stay_small_and_quick(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [make_run("ssl", steps=400, total=40_000, examples=8), make_run("sl", "post")]
    rng = np.random.default_rng(0)
    with (runs[0] / "metrics.jsonl").open("a") as file:
        for step, x in enumerate(rng.random(39_600).round(6).tolist(), start=401):
            file.write(
                f'{{"kind": "train", "step": {step}, "samples_seen": {step * 128}, '
                f'"wall_s": {step}, "loss": {x}, "masked_accuracy": {x}, "lr": {x}, '
                f'"unigram_accuracy": 0.04, "grad_norm": {x}, "clips_per_s": {x}, '
                f'"data_wait": {x}, "mfu": {x}, "more": {x}}}\n'
            )
    start = time.process_time()
    out = write_report(tmp_path / "r.html", runs)
    assert out.stat().st_size < 3_000_000
    assert time.process_time() - start < 20  # about 2 s; drawn point by point it takes minutes
    assert "40,000 of 40,000" in read(out)[1].text


def test_datasets_are_found_through_data_json(
    tmp_path: Path, make_run: MakeRun, make_stats: MakeRun
) -> None:
    run = make_run("ssl", steps=200, total=200, examples=0)
    folder = make_stats("found", 12)
    (run / "data.json").write_text(
        json.dumps({"sources": [{"name": "found", "path": str(folder)}]})
    )
    assert "Clips per class found" in read(write_report(tmp_path / "r.html", [run]))[1].text


def test_a_missing_run_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no run folder"):
        write_report(tmp_path / "r.html", [tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no run was given"):
        write_report(tmp_path / "r.html", [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_gets_report_html_and_an_old_one_is_replaced(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run("ssl", steps=200, total=200, examples=0)
    (run / "report.html").write_text("old")
    assert write_report(run, [run]) == run / "report.html"
    assert "<!doctype html>" in (run / "report.html").read_text()[:20]
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_ids_do_not_repeat(tmp_path: Path, make_run: MakeRun) -> None:
    text, _ = read(
        write_report(tmp_path / "r.html", [make_run("a", steps=200), make_run("b", steps=200)])
    )
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) >= 8
    for reference in re.findall(r'(?:url\(#|href="#)([^")]+)', text):
        assert reference in ids


def test_the_modules_import_without_matplotlib_and_torch() -> None:
    code = (
        "import sys, dawnchorus.trainer.report.page\n"
        "print([m for m in ('matplotlib', 'torch', 'jinja2.environment') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in done.stdout and "torch" not in done.stdout


def test_the_report_ships_with_the_package(tmp_path: Path, make_run: MakeRun) -> None:
    # Template, style and script are read from beside the code, wherever that was installed.
    from dawnchorus import trainer

    shutil.copytree(Path(trainer.__file__).parent, tmp_path / "lib" / "dawnchorus" / "trainer")
    run = make_run("ssl", steps=200, total=200, examples=0)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from dawnchorus.trainer.report.page import write_report\n"
        "assert write_report.__code__.co_filename.startswith(sys.argv[1])\n"
        "write_report(Path(sys.argv[2]), [Path(sys.argv[3])])"
    )
    arguments = [str(tmp_path / "lib"), str(tmp_path / "r.html"), str(run)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=tmp_path)
    assert (tmp_path / "r.html").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (41, "41 s"),
        (750, "12 min"),
        (3600 * 3 + 300, "3 h 05 min"),
        (86400 * 2 + 3600 * 5, "2 d 5 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_hardware() -> None:
    assert hardware({"gpus": ["A", "A", "B"]}) == "2 × A, B"
    assert (
        hardware({"gpus": [], "processor": "x86_64", "cpu_threads": 2}) == "CPU x86_64, 2 threads"
    )
    assert hardware({}) == ""


def test_from_another_folder_no_section_is_lost_and_what_is_gone_is_named(
    make_run: MakeRun, make_stats: MakeRun, tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Its data.json names datasets/xc_birds and datasets/esc10.
    run = make_run("ssl", steps=200, total=200, examples=0)
    make_stats("xc_birds", 12)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = write_report(tmp_path / "r.html", [Path("..") / "runs" / "ssl"])
    text = out.read_text()
    assert "Clips per class" in text and "Strix aluco" in text
    assert "datasets/esc10 is not there: its classes and clips per class are not shown" in text
    assert "datasets/xc_birds is not there" not in text
    # Moved away from what it was trained on, it still knows where it was started.
    moved = tmp_path_factory.mktemp("moved") / "ssl"
    shutil.move(run, moved)
    page = write_report(tmp_path / "r.html", [moved]).read_text()
    assert "Clips per class" not in page and "datasets/xc_birds is not there" in page
    (moved / "environment.json").write_text(json.dumps({"working_folder": str(tmp_path)}))
    assert "Clips per class" in write_report(tmp_path / "r.html", [moved]).read_text()
