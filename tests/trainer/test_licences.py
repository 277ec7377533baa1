"""Every way in which archives and people write a licence; what never passes for a free one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from licence_spellings import KNOWN

from dawnchorus.trainer.licence_words import TERMS
from dawnchorus.trainer.licences import (
    CREATIVE_COMMONS,
    HUB_LICENCES,
    KINDS,
    Licence,
    LicenceChoice,
    kinds_of,
    read_licence,
)

CC = "https://creativecommons.org"
# Not understood: "" for nothing more, else the restrictions that are seen in it all the same.
NOT_KNOWN = {
    "": """
        nan
        NaN
        None
        none
        null
        NULL
        N/A
        n/a
        NA
        -
        ?
        unknown
        Unknown license
        unspecified
        UNSPECIFIED
        UNSUPPORTED
        NOASSERTION
        not stated
        unbekannt
        4
        7
        By Nancy
        CC BY Andy
        By the sand dunes, Ned
        Cindy and Randy
        Recorded by the museum
        cc
        Creative Commons
        cc-something
        Some rights reserved
        free
        royalty free
        open access
        Fair use
        not CC BY
        CC BY pending
        CC BY 5.0
        No known copyright restrictions
        https://example.org/licenses/by/4.0/
        https://creativecommons.org.example.com/licenses/by/4.0/
        https://notcreativecommons.org/licenses/by/4.0/
        https://creativecommons.org/licenses/devnations/2.0/
        see https://example.org/terms
    """,
    "nc": """
        Free for academic use
        for research only
        non-commercial
        Non commercial use only
        No commercial use
        Not for commercial purposes
        Commercial use not allowed without permission
        commercial use allowed
        XYZ-NC License 2
        PolyForm-Noncommercial-1.0.0
        free for nonprofits
        nicht kommerziell
        keine kommerzielle Nutzung
        Nur für nichtkommerzielle Zwecke
        pas d'utilisation commerciale
        usage non commercial uniquement
        No Comercial
        sin fines comerciales
        sem fins comerciais
        uso não comercial
        solo uso non commerciale
        niet-commercieel gebruik
        endast icke-kommersiellt bruk
        kun ikke-kommerciel brug
        vain ei-kaupalliseen käyttöön
        niekomercyjny
        nekomerční užití
        только для некоммерческого использования
        非営利目的のみ
        仅限非商业用途
        비영리 목적만
        personal use only
        http://rightsstatements.org/vocab/NoC-NC/1.0/
        https://example.org/licenses/by-nc/4.0/
        CC BY 4.0 for scientific use
        CC BY-NC if published
        https://creativecommons.org/licenses/by-nc/9.9/
    """,
    "nd": """
        no derivatives
        NoDerivs
        keine Bearbeitung
        pas de modification
        sin obras derivadas
        não modificar
        geen afgeleide werken
        改変しないでください
        do not modify
        CC BY with no remixing please
        CC-ND
        Fargo, ND
    """,
    "nc nd": """
        no commercial use, no derivatives please
        https://example.org/licenses/by-nc-nd/4.0/
        BY-NC-ND-ish
        personal use, unmodified
    """,
    "nc nd sa": """
        CC BY-NC-ND-SA 4.0
    """,
}


def _rows(table: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (line.strip(), key)
        for key, text in table.items()
        for line in text.split("\n")
        if line.strip()
    ]


STRICT = LicenceChoice(deny=frozenset({"nc", "nd", "unknown", "all-rights-reserved"}))


def test_the_table_is_long() -> None:
    texts = [text for text, _ in _rows(KNOWN) + _rows(NOT_KNOWN)]
    assert len(texts) == len(set(texts)) >= 250


@pytest.mark.parametrize(("text", "family"), _rows(KNOWN))
def test_known(text: str, family: str) -> None:
    licence = read_licence(text)
    assert (licence.family, licence.known) == (family, True)
    if family in CREATIVE_COMMONS:
        assert licence.terms - {"by"} >= set(family.split("-")) & {"nc", "nd", "sa"}
        assert licence.nc == ("nc" in family)
        assert licence.nd == ("nd" in family)
    free = family in {"cc0", "pd", "by", "by-sa", "gpl", "gfdl", "odbl", "ogl", "mit", "apache"}
    assert STRICT.takes(licence) == free
    again = read_licence(licence.url)
    assert (again.family, again.url) == (family, licence.url)
    assert read_licence(f"  {text}\n").family == family


@pytest.mark.parametrize(("text", "terms"), _rows(NOT_KNOWN))
def test_not_known_passes_no_deny(text: str, terms: str) -> None:
    licence = read_licence(text)
    assert (licence.family, licence.known) == ("unknown", False)
    assert licence.terms - {"by"} == set(terms.split())
    for word in (*KINDS, "nc", "nd", "sa", "cc"):
        assert not LicenceChoice(deny=frozenset({word})).takes(licence), word
    for word in terms.split():
        choice = LicenceChoice(deny=frozenset({word}), keep_unknown=True)
        assert not choice.takes(licence), word
    kept = LicenceChoice(deny=frozenset({"nc", "nd", "sa"}), keep_unknown=True)
    assert kept.takes(licence) == (terms == "")


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, "", " ", "None", "nan"])
def test_nothing_has_no_address(value: object) -> None:
    assert read_licence(value).url == ""
    assert read_licence(value).family == "unknown"


@pytest.mark.parametrize(
    ("text", "url", "name", "hub"),
    [
        ("CC BY-NC 4.0", f"{CC}/licenses/by-nc/4.0/", "CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC_BY_NC_4_0", f"{CC}/licenses/by-nc/4.0/", "CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("//creativecommons.org/licenses/by/4.0/legalcode", f"{CC}/licenses/by/4.0/", "CC BY 4.0",
         "cc-by-4.0"),
        ("CC-BY-3.0-DE", f"{CC}/licenses/by/3.0/de/", "CC BY 3.0 DE", "other"),
        ("CC BY 4.0 Germany", f"{CC}/licenses/by/4.0/", "CC BY 4.0", "cc-by-4.0"),
        ("CC0", f"{CC}/publicdomain/zero/1.0/", "CC0 1.0", "cc0-1.0"),
        ("Public Domain", f"{CC}/publicdomain/mark/1.0/", "Public Domain Mark 1.0", "other"),
        ("CC-BY", "CC-BY", "CC BY", "other"),
        ("CC BY 4.0, no commercial use", "CC BY 4.0, no commercial use", "CC BY-NC", "other"),
        ("CC BY-NC 4.0 and CC BY-SA 4.0", "CC BY-NC 4.0 and CC BY-SA 4.0", "CC BY-NC-SA", "other"),
        ("All rights reserved", "All rights reserved", "All rights reserved", "other"),
        ("ODbL-1.0", "ODbL-1.0", "ODbL-1.0", "other"),
        ("By Nancy", "By Nancy", "By Nancy", "other"),
    ],
)  # fmt: skip
def test_address_name_and_hub_id(text: str, url: str, name: str, hub: str) -> None:
    licence = read_licence(text)
    assert (licence.url, licence.name, licence.hub_id) == (url, name, hub)
    assert hub in HUB_LICENCES


MARKERS = sorted(
    {
        phrase.strip()
        for term in ("nc", "nd")
        for phrase in TERMS[term].replace("\n", "|").split("|")
        if phrase.strip()
    }
    - {"ne add el"}  # Hungarian for "do not sell", made of English letters
)
WORDS = st.sampled_from(
    ["CC", "BY", "SA", "4.0", "CC BY 4.0", "CC0", "public domain", "or", "and", "free", "Nancy",
     "©", "http://creativecommons.org/licenses/by/4.0/", "licence", "commercial use allowed",
     "(", ")", "some rights reserved", "MIT", "nan", "attribution", "all", "use", "of", "2019",
     ",", ";", "-"]
)  # fmt: skip


@given(
    st.lists(WORDS | st.text(max_size=8), max_size=4),
    st.sampled_from(MARKERS),
    st.lists(WORDS | st.text(max_size=8), max_size=4),
    st.sampled_from([" ", " - ", ", ", "/", "_", "\t"]),
    st.sampled_from([str, str.upper, str.title]),
)
def test_a_marker_passes_no_deny(  # type: ignore[no-untyped-def]
    before, marker, after, joint, case
) -> None:
    text = joint.join([*before, case(marker), *after])
    term = "nc" if marker in TERMS["nc"] else "nd"
    for keep in (False, True):
        choice = LicenceChoice(deny=frozenset({term}), keep_unknown=keep)
        assert not choice.takes(read_licence(text)), text


@given(st.text(max_size=40))
def test_any_text_is_read(text: str) -> None:
    licence = read_licence(text)
    assert isinstance(licence, Licence)
    assert licence.kind in KINDS
    assert licence.known or not STRICT.takes(licence)


@pytest.mark.parametrize(
    "text",
    ["© do not redistribute, CC BY", "© internal, CC BY", "(c) ask first; CC BY 4.0",
     "Copyright: on request only, CC BY", "© nur intern, CC BY", "CC BY 4.0, no dataset use",
     "CC BY 3.0 no use"],
)  # fmt: skip
def test_conditions_are_neither_a_holder_nor_norway(text: str) -> None:
    assert not read_licence(text).known
    assert not STRICT.takes(read_licence(text))
    assert STRICT.takes(read_licence("© Norbert Noask, CC BY"))


def test_allow_and_groups() -> None:
    assert kinds_of(["nc", "pdm"]) == {"by-nc", "by-nc-sa", "by-nc-nd", "pd"}
    free = LicenceChoice(allow=frozenset({"cc0", "pdm", "by"}))
    assert [free.takes(read_licence(t)) for t in ("CC0", "pd", "CC-BY", "CC BY-SA", "")] == [
        True, True, True, False, False]  # fmt: skip
    assert LicenceChoice().takes(read_licence("nan"))
    assert not LicenceChoice(deny=frozenset({"sa"})).takes(read_licence("GPL-3.0-only"))
    assert not LicenceChoice(deny=frozenset({"nd"})).takes(read_licence("© Ann"))
