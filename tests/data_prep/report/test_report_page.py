"""The page about a dataset: what it holds, and how it behaves in a real browser."""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from chromium import FLAGS, Browser, chromium

from dawnchorus.data_prep.report.page import write_report
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected, write_table

BY = "https://creativecommons.org/licenses/by/4.0/"
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, make_call: Callable[..., np.ndarray]) -> Path:
    """A table whose texts try to be more than text, with eight clips and a map."""
    folder = tmp_path_factory.mktemp("hostile")
    bad = "<script>document.title='taken'</script><img src=http://example.org/x.png>\"'"
    rows = [
        Recording(
            id=f"{source}:{i}", source=source, source_id=str(i), path=f"{i}.wav", group_id=f"g{i}",
            labels=(Label(f"{bad} {i}" if i == 2 else f"Bird {i}", "species"),),
            recordist=f"{bad}{i}", country=bad if i % 2 else "Kenya", url="javascript:alert(1)",
            attribution=bad, licence_url=(BY, CC0)[i % 2], lat=5.0 * i, lon=9.0 * i,
            datetime=f"20{i:02d}", duration_s=1.5, sample_rate_hz=16000, codec="wav", channels=1,
        )
        for i, source in enumerate(["xc", "asa"] * 4 + ["xc"])
    ]  # fmt: skip
    rows.append(dataclasses.replace(rows[0], id="xc:99", path="none", licence_url="javascript:x"))
    for i, row in enumerate(rows[:-1]):
        wav = make_call(1.5 if i else 12.0, 16000, pitch_hz=600 + 100 * i, seed=i)
        soundfile.write(folder / row.path, wav, 16000)
    write_table([*rows, Rejected(recording_id=bad, reason=bad, detail=bad)], folder)
    write_report(folder, folder / "page.html")
    return folder / "page.html"


def test_the_page_holds_everything_and_asks_for_nothing(hostile: Path) -> None:
    text = hostile.read_text()
    assert len(text) < 5e6
    assert text.count("<audio") == 8 == text.count('src="data:audio/mpeg;base64,')
    assert text.count("<script>") == 1 and "javascript:" not in re.sub(r">[^<]*<", "><", text)
    sources = re.findall(r'(?:src|srcset|poster|xlink:href)="([^"]*)"', text)
    assert sources and all(s.startswith("data:") for s in sources)
    links = re.findall(r'<(\w+)[^>]* href="([^"]*)"', text)
    assert all(tag in ("a", "link") for tag, _ in links)
    assert [url for tag, url in links if tag == "link"] == ["data:,"]
    assert not re.search(r"url\(|@import", text)
    # Everything that is seen can be heard: drawings and pictures are described.
    assert all(
        'role="img" aria-label="' in tag for tag in re.findall(r"<svg(?! class=.clip)[^>]*>", text)
    )
    assert all(re.search(r'alt="[^"]{20,}"', tag) for tag in re.findall(r"<img [^>]*>", text))


class WatchedBrowser(Browser):
    """Chromium whose only way out is a proxy that writes down who is asked, and hangs up."""

    def __init__(self, program: str, folder: Path) -> None:
        super().__init__(program, folder)
        self.asked: list[str] = []
        self.answers: queue.Queue[str] = queue.Queue()
        self.server = socket.create_server(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.flags = [*FLAGS, f"--proxy-server={proxy}"]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client:
                client.settimeout(2)
                line = client.recv(2000).split(b"\r\n")[0].decode("latin-1")
                if "http://told.test/" in line:
                    self.answers.put(unquote(line.split("http://told.test/")[1].split(" ")[0]))
                    continue
                host = re.sub(r"^\w+ (?:https?://)?([^/: ]+).*", r"\1", line)
                # The browser's own housekeeping is not the page's doing.
                if not re.search(r"(^|\.)(google|googleapis|gstatic)\.com$", host):
                    self.asked.append(host)

    def told(self, page: Path) -> str:
        """What the page's script tells by asking for http://told.test/..., in its own time."""
        self.answers.queue.clear()
        flags = [*self.flags, f"--user-data-dir={self.folder}/told", "--remote-debugging-port=0"]
        with subprocess.Popen(
            [self.program, *flags, page.as_uri()], stderr=subprocess.DEVNULL, start_new_session=True
        ) as running:
            try:
                return self.answers.get(timeout=240)
            finally:
                os.killpg(running.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedBrowser]:
    made = WatchedBrowser(chromium(), tmp_path_factory.mktemp("browser"))
    yield made
    made.server.close()


@pytest.mark.slow
def test_it_opens_without_complaint_and_without_the_network(
    browser: WatchedBrowser, hostile: Path, tmp_path: Path
) -> None:
    dom, console = browser.dom(hostile)
    assert console == [] and browser.asked == []
    assert "taken" not in re.findall(r"<title>(.*?)</title>", dom)[0]
    button = re.search(r'<button id="theme"[^>]*>', dom)
    assert button is not None and "hidden" not in button[0]  # its script ran
    assert dom.count('class="now"') == 8 and 'class="places' in dom
    # The test can fail: the same page with a foreign picture and no policy asks for it.
    text = hostile.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    evil = text.replace(policy[0], "").replace("</main>", '<img src="http://example.org/x.png">')
    (tmp_path / "evil.html").write_text(evil)
    browser.dom(tmp_path / "evil.html")
    assert browser.asked == ["example.org"]
    browser.asked.clear()


@pytest.mark.slow
def test_the_sound_plays_and_nothing_sticks_out_on_a_phone(
    browser: WatchedBrowser, hostile: Path
) -> None:
    frame = hostile.with_name("frame.html")
    frame.write_text(
        '<iframe id="f" src="page.html" style="width:360px;height:800px;border:0"></iframe><script>'
        """f.onload = async () => {
          const d = f.contentDocument, said = [];
          const wait = async (ready) => {
            for (let i = 0; i < 200 && !ready(); i++)
              await new Promise((done) => setTimeout(done, 50));
          };
          for (const sound of d.querySelectorAll("audio")) {
            sound.preload = "auto";
            await wait(() => sound.error || sound.readyState >= 1);
            sound.currentTime = sound.duration - 0.5;  // to be there, it has to decode
            await wait(() => sound.error || (!sound.seeking && sound.readyState >= 2));
            said.push([sound.error ? -1 : sound.duration, sound.currentTime, sound.readyState]);
          }
          const r = d.documentElement;
          const text = said.join("|") + ";" + r.scrollWidth + ";" + r.clientWidth;
          fetch("http://told.test/" + encodeURIComponent(text), {mode: "no-cors"});
        }</script>"""
    )
    sounds, scroll, width = browser.told(frame).split(";")
    said = [tuple(map(float, one.split(","))) for one in sounds.split("|")]
    assert len(said) == 8
    for seconds, at_s, ready in said:
        assert 1.4 < seconds < 8.2 and at_s == pytest.approx(seconds - 0.5, abs=0.1) and ready >= 2
    assert int(scroll) <= int(width) == 360


@pytest.mark.slow
def test_light_and_dark(browser: WatchedBrowser, hostile: Path) -> None:
    dark = "--blink-settings=preferredColorScheme=0"
    shots = [browser.picture(hostile, 900, 1200, *flags) for flags in ((), (dark,))]
    assert np.median(shots[0]) > 235 and np.median(shots[1]) < 50
    # Bars in the theme's blue.
    for shot, blue in zip(shots, ((0, 114, 178), (86, 180, 233)), strict=True):
        assert (np.abs(shot - np.array(blue)).max(axis=2) < 6).sum() > 500
