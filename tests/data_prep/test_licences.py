"""One URL for each licence, and no version invented."""

from __future__ import annotations

import pytest

from data_prep.licences import hugging_face_id, licence_url, short_name

BY4 = "https://creativecommons.org/licenses/by/4.0/"


@pytest.mark.parametrize(
    ("text", "url", "name", "hub"),
    [
        ("http://creativecommons.org/licenses/by/4.0", BY4, "CC BY 4.0", "cc-by-4.0"),
        ("//creativecommons.org/licenses/by/4.0/legalcode", BY4, "CC BY 4.0", "cc-by-4.0"),
        ("https://www.creativecommons.org/licenses/BY/4.0/deed.de", BY4, "CC BY 4.0", "cc-by-4.0"),
        ("CC BY 4.0", BY4, "CC BY 4.0", "cc-by-4.0"),
        ("cc-by-nc-sa-3.0", "https://creativecommons.org/licenses/by-nc-sa/3.0/",
         "CC BY-NC-SA 3.0", "cc-by-nc-sa-3.0"),
        ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0", "cc0-1.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/de/",
         "https://creativecommons.org/licenses/by-sa/3.0/de/", "CC BY-SA 3.0 DE", "other"),
        ("CC-BY", "CC-BY", "CC-BY", "other"),
        ("all rights reserved", "all rights reserved", "all rights reserved", "other"),
        ("", "", "not stated", "other"),
    ],
)  # fmt: skip
def test_licences(text: str, url: str, name: str, hub: str) -> None:
    assert licence_url(text) == url
    assert licence_url(url) == url
    assert short_name(url) == name
    assert hugging_face_id(url) == hub
