from __future__ import annotations

import pytest

from dawnchorus.trainer.markdown import address, link, plain

HOSTILE = [
    "![x](https://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "[a]: https://evil.example",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "a | b",
    "`code`",
    "line\n\n# Title",
    "# Title",
    "- item",
    "1. item",
    "*bold* _it_ ~~gone~~ $x$",
    "see https://evil.example/?q=1 or www.evil.example or me@evil.example",
    "back\\[slash](https://evil.example)",
    "&lt;b&gt;",
    "\u202eright to left\x07",
]


@pytest.fixture(scope="module")
def render() -> object:
    """GitHub's flavour, which the Hub follows."""
    parser = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    return parser.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render


@pytest.mark.parametrize("text", HOSTILE)
def test_it_shows_and_does_nothing(text: str, render: object) -> None:
    html = render(f"before {plain(text)} after")  # type: ignore[operator]
    assert html.count("<") == 2 and html.startswith("<p>") and html.endswith("</p>\n")
    html = render(f"* {plain(text)}")  # type: ignore[operator]
    assert html.replace("\n", "").startswith("<ul><li>") and html.count("<") == 4
    row = render(f"| a | b |\n| --- | --- |\n| {plain(text)} | last |")  # type: ignore[operator]
    assert row.count("<td>") == 2 and "<td>last</td>" in row
    assert "<img" not in row and "<a" not in row and "<script" not in row


@pytest.mark.parametrize("text", HOSTILE)
def test_no_reader_finds_an_address(text: str) -> None:
    safe = plain(text)
    assert "://" not in safe and "www.e" not in safe and "me@" not in safe
    assert safe.isprintable()


def test_what_it_says_stays(render: object) -> None:
    for text in ("Parus major", "O'Brien, J. (1998)", "snake_case 50 %", "Müller – Maria", "a < b"):
        html = render(plain(text))  # type: ignore[operator]
        assert html == f"<p>{text.replace('<', '&lt;')}</p>\n"


def test_links_lead_to_the_web_and_nowhere_else() -> None:
    assert link("CC [BY]", "https://x.org/by/4.0/") == "[CC \\[BY\\]](https://x.org/by/4.0/)"
    assert address("https://youtu.be/a-b_c?t=2") == "<https://youtu.be/a-b_c?t=2>"
    for url in ("javascript:alert(1)", "https://x.org/a) ![b](c", "data:text/html,x", "", "//x.org",
                "https://TOKEN@x.org/", "https://x.org/<script>", "https://x.org/ y"):  # fmt: skip
        assert link("text", url) == "text"
        assert not address(url).startswith("<")
