"""Every way in which archives and people write a licence; what never passes for a free one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
# One spelling per line; the family above it. All of these are understood.
KNOWN = {
    "cc0": """
        CC0
        cc0
        CC-0
        CC 0
        CC0 1.0
        CC0-1.0
        CC0_1_0
        cc0-1.0
        CCZero
        CC Zero
        Creative Commons 0
        Creative Commons Zero
        Creative Commons Zero v1.0 Universal
        CC0 1.0 Universal (CC0 1.0) Public Domain Dedication
        Public Domain Dedication (CC0)
        No rights reserved
        (c) Ann, no rights reserved (CC0)
        http://creativecommons.org/publicdomain/zero/1.0/
        https://creativecommons.org/publicdomain/zero/1.0
        http://creativecommons.org/publicdomain/zero/1.0/legalcode
        https://creativecommons.org/publicdomain/zero/1.0/deed.de
        //creativecommons.org/publicdomain/zero/1.0/
        www.creativecommons.org/publicdomain/zero/1.0/
        https://creativecommons.org/licenses/zero/1.0/
        https://spdx.org/licenses/CC0-1.0.html
    """,
    "pd": """
        pd
        PD
        pdm
        CC-PDDC
        CC PDM 1.0
        Public Domain
        public domain
        publicdomain
        Public domain mark
        Public Domain Mark 1.0
        In the public domain
        Gemeinfrei
        domaine public
        Dominio Público
        domínio público
        pubblico dominio
        パブリックドメイン
        公有领域
        US Government Work
        United States Government Work
        PDDL-1.0
        Unlicense
        The Unlicense
        https://unlicense.org/
        https://opendatacommons.org/licenses/pddl/1-0/
        http://creativecommons.org/publicdomain/mark/1.0/
        https://creativecommons.org/publicdomain/mark/1.0/deed.fr
        http://creativecommons.org/licenses/publicdomain/
    """,
    "by": """
        by
        CC BY
        CC-BY
        cc-by
        CC_BY
        CCBY
        ccby4.0
        CC BY 4
        CC BY 4.0
        CC-BY-4.0
        CC_BY_4_0
        CC BY v4.0
        CC BY 4.0 International
        CC BY 4.0 Int.
        CC-BY 3.0
        CC-BY-3.0-AU
        CC BY 3.0 Germany
        CC BY 3.0 DE
        CC BY 2.5 Sweden
        CC BY 3.0 IGO
        ＣＣ　ＢＹ　４．０
        CC&nbsp;BY 4.0
        CC‑BY‑4.0
        "CC BY 4.0"
        ['CC BY 4.0']
        Licence: CC-BY
        Attribution
        Attribution License
        Attribution 3.0 Unported
        Attribution 4.0 International (CC BY 4.0)
        Creative Commons Attribution
        Creative Commons Attribution 4.0 International License
        Creative Commons — Attribution 4.0 International — CC BY 4.0
        This work is licensed under a Creative Commons Attribution 4.0 International License.
        Licensed under CC BY 4.0
        Some rights reserved (CC BY 2.0)
        © 2019 J. Doe, CC BY 4.0
        Copyright 2020 Museum of X. Licensed under CC BY 4.0
        (c) Ann, some rights reserved (CC BY)
        CC BY 4.0 (commercial use allowed)
        CC0 or CC BY 4.0
        CC BY 3.0, CC BY 4.0
        CC-BY-4.0 OR MIT
        Namensnennung 4.0 International
        Reconocimiento 3.0 España
        Atribución 4.0 Internacional
        Paternité 2.0 France
        Attribuzione 4.0 Internazionale
        Naamsvermelding 4.0 Internationaal
        Erkännande 4.0 Internationell
        Uznanie autorstwa 4.0 Międzynarodowe
        表示 4.0 国際
        署名 4.0 国际
        저작자표시 4.0 국제
        creativecommons.org/licenses/by/4.0
        http://creativecommons.org/licenses/by/4.0/
        https://www.creativecommons.org/licenses/BY/4.0/deed.de
        HTTPS://CREATIVECOMMONS.ORG/LICENSES/BY/4.0/
        //creativecommons.org/licenses/by/4.0/legalcode
        https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1
        https://creativecommons.org/licenses/by/4.0/deed.en_GB#content
        https://creativecommons.org/licenses/by/4.0/legalcode.txt
        http://creativecommons.org/licenses/by/3.0/au/
        https://creativecommons.org/licenses/by/3.0/igo/
        https://creativecommons.org/licenses/by/2.5/scotland/
        https://creativecommons.org/licenses/by/2.5/se/deed.en
        https://creativecommons.org/licenses/by/
        <a rel="license" href="http://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>
        https://spdx.org/licenses/CC-BY-4.0.html
    """,
    "by-sa": """
        CC BY-SA
        cc-by-sa
        CC-BY-SA-4.0
        CC_BY_SA_4_0
        CCBYSA
        by-sa
        Attribution-ShareAlike License
        Attribution Share Alike
        Creative Commons Attribution-ShareAlike 4.0
        Creative Commons Attribution-Share Alike 3.0 Unported
        Namensnennung - Weitergabe unter gleichen Bedingungen 4.0 International
        Attribution - Partage dans les Mêmes Conditions 4.0 International
        Atribución-CompartirIgual 4.0 Internacional
        Atribuição-CompartilhaIgual 4.0 Internacional
        Attribuzione - Condividi allo stesso modo 4.0 Internazionale
        Naamsvermelding-GelijkDelen 4.0 Internationaal
        Erkännande-DelaLika 4.0 Internationell
        表示 - 継承 4.0 国際
        http://creativecommons.org/licenses/by-sa/3.0/
        https://creativecommons.org/licenses/by-sa/3.0/de/
        https://creativecommons.org/licenses/sa/1.0/
    """,
    "by-nc": """
        CC BY-NC
        cc-by-nc
        CC_BY_NC_4_0
        CC-BY-NC-4.0
        CC BY NC 4.0
        ccbync
        CCBYNC4.0
        BY-NC
        NC-BY 4.0
        CC Attribution-NonCommercial
        Attribution NonCommercial
        Attribution-NonCommercial License
        Attribution Noncommercial 3.0
        Attribution-Non-Commercial
        Creative Commons Attribution-NonCommercial 4.0 International
        Creative Commons Attribution Non Commercial 4.0 International
        (c) Ann, some rights reserved (CC BY-NC)
        CC BY-NC 4.0 or CC BY 4.0
        ['CC BY 4.0', 'CC BY-NC 4.0']
        CC BY 4.0, no commercial use
        CC BY 4.0, not for commercial purposes
        CC BY 4.0; commercial use prohibited
        Namensnennung - nicht kommerziell
        Namensnennung - Nicht-kommerziell 4.0 International
        Attribution - Pas d'Utilisation Commerciale 4.0 International
        Attribution – Pas d’utilisation commerciale
        Reconocimiento-NoComercial 4.0 Internacional
        Atribución - No Comercial
        Atribuição-NãoComercial 4.0 Internacional
        Attribuzione - Non commerciale 4.0 Internazionale
        Naamsvermelding-NietCommercieel 4.0 Internationaal
        Erkännande-Ickekommersiell 4.0 Internationell
        Navngivelse-IkkeKommersiell 4.0 Internasjonal
        Uznanie autorstwa-Użycie niekomercyjne 4.0 Międzynarodowe
        表示 - 非営利 4.0 国際
        署名-非商业性使用 4.0 国际
        저작자표시-비영리 4.0 국제
        http://creativecommons.org/licenses/by-nc/4.0/
        creativecommons.org/licenses/by-nc/2.5/se/deed.en?ref=x#y
        https://creativecommons.org/licenses/by-nc/4.0/legalcode.de
        https://creativecommons.org/licenses/nc/1.0/
        <a href="http://creativecommons.org/licenses/by-nc/4.0/">some rights reserved</a>
    """,
    "by-nd": """
        CC BY-ND
        cc-by-nd
        CC-BY-ND-4.0
        CC_BY_ND_4_0
        Attribution-NoDerivs License
        Attribution-NoDerivatives 4.0 International
        Attribution No Derivatives
        Creative Commons Attribution-NoDerivs 3.0 Unported
        Namensnennung - Keine Bearbeitungen 4.0 International
        Attribution - Pas de Modification 4.0 International
        Atribución-SinDerivadas 4.0
        Reconocimiento-SinObraDerivada 4.0 Internacional
        Attribuzione - Non opere derivate 4.0 Internazionale
        Naamsvermelding-GeenAfgeleideWerken 4.0
        Erkännande-IngaBearbetningar 4.0 Internationell
        表示 - 改変禁止 4.0 国際
        署名-禁止演绎 4.0 国际
        http://creativecommons.org/licenses/by-nd/4.0/
        http://creativecommons.org/licenses/by-nd/2.0/fr/
    """,
    "by-nc-sa": """
        CC BY-NC-SA
        cc-by-nc-sa
        BY-NC-SA
        CC_BY_NC_SA_4_0
        CC BY-NC-SA 4.0 International
        CC-BY-NC-SA-2.0-UK
        CC BY-NC-SA 4.0 Intl
        CCBYNCSA4.0
        CC BY-SA-NC 3.0
        Attribution-NonCommercial-ShareAlike License
        Creative Commons Attribution-NonCommercial-ShareAlike 4.0
        Creative Commons Attribution-Noncommercial-Share Alike 3.0 Unported License
        CC BY-NC 4.0 and CC BY-SA 4.0
        Namensnennung - Nicht kommerziell - Weitergabe unter gleichen Bedingungen 4.0 International
        Atribución-NoComercial-CompartirIgual 4.0 Internacional
        Atribuição-NãoComercial-CompartilhaIgual 4.0 Internacional
        表示-非営利-継承
        //creativecommons.org/licenses/by-nc-sa/4.0/
        http://creativecommons.org/licenses/by-nc-sa/3.0/us/
        https://creativecommons.org/licenses/nc-sa/1.0/
    """,
    "by-nc-nd": """
        CC BY-NC-ND
        cc-by-nc-nd
        CC BY NC ND
        CC_BY_NC_ND_4_0
        CC-BY-NC-ND-2.5
        CC BY-ND-NC 1.0
        Attribution-NonCommercial-NoDerivs License
        Creative Commons Attribution-NonCommercial-NoDerivs 2.5
        Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International
        CC BY-NC-ND 4.0 / CC BY-SA 4.0
        CC BY-NC 4.0; CC BY-ND 4.0
        Attribution - Pas d'Utilisation Commerciale - Pas de Modification 4.0 International
        Attribuzione - Non commerciale - Non opere derivate 3.0 Italia
        表示 - 非営利 - 改変禁止 4.0 国際
        //creativecommons.org/licenses/by-nc-nd/2.5/
        https://creativecommons.org/licenses/by-nd-nc/1.0/
    """,
    "all-rights-reserved": """
        All rights reserved
        all rights reserved
        ALL RIGHTS RESERVED.
        (c) Ann, all rights reserved
        © Ann, all rights reserved
        ©
        (c)
        C
        © 2019 J. Doe
        Copyright 2019 J. Doe
        Copyright (c) 2019 J. Doe
        Copyright
        Copyrighted
        unlicensed
        UNLICENSED
        No licence
        not licensed
        proprietary
        Standard YouTube License
        Alle Rechte vorbehalten
        Tous droits réservés
        Todos los derechos reservados
        Todos os direitos reservados
        Tutti i diritti riservati
        Alle rechten voorbehouden
        无断
        http://rightsstatements.org/vocab/InC/1.0/
        All rights reserved. CC BY 4.0
    """.replace("无断", "無断転載禁止"),
    "gpl": "GPL-3.0-only\nGPL-2.0-or-later\nhttps://www.gnu.org/licenses/gpl-3.0.html",
    "gfdl": "gfdl\nGFDL-1.3\nhttp://www.gnu.org/copyleft/fdl.html",
    "odbl": "ODbL-1.0\nODbL\nhttps://opendatacommons.org/licenses/odbl/1-0/",
    "ogl": "OGL-UK-3.0\nOpen Government Licence v3.0",
    "mit": "MIT\nMIT License\nhttps://opensource.org/licenses/MIT",
    "apache": "Apache-2.0\nhttps://www.apache.org/licenses/LICENSE-2.0",
    "sampling+": "Sampling+\nhttps://creativecommons.org/licenses/sampling+/1.0/",
    "whoi": "LicenseRef-WHOI-Public",
}
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


def test_allow_and_groups() -> None:
    assert kinds_of(["nc", "pdm"]) == {"by-nc", "by-nc-sa", "by-nc-nd", "pd"}
    free = LicenceChoice(allow=frozenset({"cc0", "pdm", "by"}))
    assert [free.takes(read_licence(t)) for t in ("CC0", "pd", "CC-BY", "CC BY-SA", "")] == [
        True, True, True, False, False]  # fmt: skip
    assert LicenceChoice().takes(read_licence("nan"))
    assert not LicenceChoice(deny=frozenset({"sa"})).takes(read_licence("GPL-3.0-only"))
    assert not LicenceChoice(deny=frozenset({"nd"})).takes(read_licence("© Ann"))
