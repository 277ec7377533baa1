from __future__ import annotations

import pytest

from dawnchorus.trainer.hub.licences import contradictions, strictest
from dawnchorus.trainer.licences import read_licence


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["cc0"], "cc0-1.0"),
        (["cc0", "cc-by-3.0"], "cc-by-4.0"),
        (["cc-by", "cc-by-nc"], "cc-by-nc-4.0"),
        (["cc-by-sa", "cc-by-nc"], "cc-by-nc-sa-4.0"),
        (["cc-by-nc-nd", "cc-by"], "cc-by-nc-4.0"),
        (["CC-BY", "CC_BY_NC_4_0"], "cc-by-nc-4.0"),
        (["cc0", "all rights reserved"], None),
        (["cc0", "nan"], None),
        (["cc-by", "gpl-3.0"], None),
        ([], None),
    ],
)
def test_strictest(data: list[str], expected: str | None) -> None:
    licences = [read_licence(text) for text in data]
    assert strictest(licences) == expected
    if expected:
        assert contradictions(expected, licences) == []


def test_contradictions() -> None:
    data = [read_licence("cc-by-nc-4.0"), read_licence("cc-by-sa-3.0"), read_licence("cc0")]
    both = contradictions("mit", data)
    assert len(both) == 2
    assert "commercial" in both[0]
    assert "CC BY-NC 4.0" in both[0]
    assert "share-alike" in both[1]
    assert "CC BY-SA 3.0" in both[1]
    assert len(contradictions("cc-by-nc-4.0", data)) == 1
    assert len(contradictions("cc-by-sa-4.0", data)) == 1
    assert contradictions("other", data) == []
    assert contradictions("apache-2.0", [read_licence("cc-by-4.0")]) == []
