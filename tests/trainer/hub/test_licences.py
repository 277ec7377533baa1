from __future__ import annotations

import pytest

from trainer.hub.licences import contradictions, parse, strictest


@pytest.mark.parametrize(
    ("text", "name", "terms"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "CC BY-NC-SA 4.0", "by nc sa"),
        ("//creativecommons.org/licenses/by-nc-nd/2.5/", "CC BY-NC-ND 2.5", "by nc nd"),
        ("http://www.creativecommons.org/licenses/by/3.0/nl/", "CC BY 3.0", "by"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0", ""),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "Public Domain Mark 1.0", ""),
        ("CC-BY-SA-4.0", "CC BY-SA 4.0", "by sa"),
        ("cc by-nc", "CC BY-NC", "by nc"),
        ("cc0-1.0", "CC0 1.0", ""),
    ],
)
def test_creative_commons(text: str, name: str, terms: str) -> None:
    licence = parse(text)
    assert licence.known
    assert licence.name == name
    assert licence.terms == set(terms.split())


@pytest.mark.parametrize(
    "text",
    ["", "All rights reserved", "https://example.org/licenses/by/4.0/",
     "https://creativecommons.org/licenses/sampling+/1.0/", "cc-something"],
)  # fmt: skip
def test_others_are_kept_as_they_are(text: str) -> None:
    assert not parse(text).known
    assert parse(text).name == text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["cc0"], "cc0-1.0"),
        (["cc0", "cc-by-3.0"], "cc-by-4.0"),
        (["cc-by", "cc-by-nc"], "cc-by-nc-4.0"),
        (["cc-by-sa", "cc-by-nc"], "cc-by-nc-sa-4.0"),
        (["cc-by-nc-nd", "cc-by"], "cc-by-nc-4.0"),
        (["cc0", "all rights reserved"], None),
        ([], None),
    ],
)
def test_strictest(data: list[str], expected: str | None) -> None:
    licences = [parse(text) for text in data]
    assert strictest(licences) == expected
    if expected:
        assert contradictions(expected, licences) == []


def test_contradictions() -> None:
    data = [parse("cc-by-nc-4.0"), parse("cc-by-sa-3.0"), parse("cc0")]
    both = contradictions("mit", data)
    assert len(both) == 2
    assert "commercial" in both[0]
    assert "CC BY-NC 4.0" in both[0]
    assert "share-alike" in both[1]
    assert "CC BY-SA 3.0" in both[1]
    assert len(contradictions("cc-by-nc-4.0", data)) == 1
    assert len(contradictions("cc-by-sa-4.0", data)) == 1
    assert contradictions("other", data) == []
    assert contradictions("apache-2.0", [parse("cc-by-4.0")]) == []
