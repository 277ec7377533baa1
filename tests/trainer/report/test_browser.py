"""The page in a real browser, headless; skipped where no Chromium is installed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, chromium

from dawnchorus.trainer.report import write_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(chromium(), tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory,
    run_writer: Callable[..., Path],
    stats_writer: Callable[..., Path],
) -> Path:
    folder = tmp_path_factory.mktemp("page")
    runs = [
        run_writer(folder / "ssl", steps=2000, total=2000),
        run_writer(folder / "sl", "post", steps=2000, total=2000),
    ]
    stats = [stats_writer(folder / "xc_birds", 12), stats_writer(folder / "large", 3000)]
    return write_report(folder / "report.html", runs, title="In a browser", datasets=stats)


@pytest.mark.slow
def test_the_page_opens_without_a_complaint_and_its_script_runs(
    browser: Browser, page: Path
) -> None:
    dom, console = browser.dom(page)
    assert console == []
    assert "In a browser" in dom and dom.count("<svg") > 20
    # The script shows the theme switch; the policy would have stopped any other script.
    button = re.search(r'<button id="theme"[^>]*>', dom)
    assert button is not None and "hidden" not in button[0]
    assert 'class="at"' in dom


@pytest.mark.slow
def test_the_browser_would_have_told_and_stopped_a_foreign_script(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    evil = tmp_path / "evil.html"
    text = page.read_text(encoding="utf-8")
    evil.write_text(
        text.replace("</main>", "<script>document.title='taken'</script>"
                     '<img src="https://example.org/x.png"></main>'),
        encoding="utf-8",
    )  # fmt: skip
    dom, console = browser.dom(evil)
    assert "<title>taken" not in dom
    assert sum("Content Security Policy" in line for line in console) >= 2


@pytest.mark.slow
def test_light_dark_and_without_script(browser: Browser, page: Path, tmp_path: Path) -> None:
    light = browser.picture(page, 1200, 1600)
    dark = browser.picture(page, 1200, 1600, "--blink-settings=preferredColorScheme=0")
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r"(?s)<script.*?</script>", "", page.read_text()), encoding="utf-8")
    still = browser.picture(bare, 1200, 1600)
    assert light.shape == (1600, 1200, 3)
    assert np.median(light) > 235 and np.median(dark) < 50
    # Curves are there, in the series' blue, in both themes.
    for shot, blue in ((light, (0, 114, 178)), (dark, (86, 180, 233))):
        assert (np.abs(shot - np.array(blue)).max(axis=2) < 6).sum() > 2000
    # Without the script nothing but the theme switch is gone.
    assert (np.abs(light - still).max(axis=2) > 0).mean() < 0.002


@pytest.mark.slow
def test_nothing_sticks_out_on_a_phone(browser: Browser, page: Path) -> None:
    frame = page.with_name("phone.html")
    frame.write_text(
        f'<iframe id="f" src="{page.name}" style="width:360px;height:800px;border:0"></iframe>'
        "<script>f.onload = () => { const d = f.contentDocument.documentElement;"
        "document.title = 'width ' + d.scrollWidth + ' of ' + d.clientWidth; }</script>"
    )
    dom, _ = browser.dom(frame)
    found = re.search(r"<title>width (\d+) of (\d+)", dom)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == 360


@pytest.mark.slow
def test_the_pointer_reads_the_curve_and_the_switch_turns_the_theme(
    browser: Browser, page: Path
) -> None:
    frame = page.with_name("pointer.html")
    frame.write_text(
        f'<iframe id="f" src="{page.name}" style="width:1000px;height:2000px"></iframe><script>'
        """f.onload = () => {
          const d = f.contentDocument, chart = d.querySelector("figure.chart");
          const svg = chart.querySelector("svg"), r = svg.getBoundingClientRect();
          const output = chart.querySelector("output"), newest = output.textContent;
          const move = (share) => svg.dispatchEvent(new f.contentWindow.PointerEvent("pointermove",
            {clientX: r.left + share * r.width, clientY: r.top + 50}));
          move(0.15);
          const said = [newest, output.textContent, chart.querySelector(".at").textContent];
          svg.dispatchEvent(new f.contentWindow.PointerEvent("pointerleave"));
          said.push(output.textContent);
          d.getElementById("theme").click();
          said.push(d.documentElement.dataset.theme);
          document.title = said.join("|");
        }</script>"""
    )
    dom, _ = browser.dom(frame)
    found = re.search(r"<title>(.*)</title>", dom)
    assert found is not None
    newest, under, at, after, theme = found[1].split("|")
    assert float(under) > float(newest) == float(after)  # the loss was higher then
    step = int(at.removeprefix("step ").replace(",", ""))
    assert 0 < step < 400
    assert theme == "dark"


@pytest.mark.slow
def test_it_prints(browser: Browser, page: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.pdf"
    browser.run(page, f"--print-to-pdf={out}", "--no-pdf-header-footer")
    assert out.read_bytes().startswith(b"%PDF")
    assert out.read_bytes().count(b"/Type /Page\n") + out.read_bytes().count(b"/Type/Page") >= 2
