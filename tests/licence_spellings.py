"""Spellings of licences that are understood, by family."""

from __future__ import annotations

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
        CC BY 4.0. To view a copy of this license, visit //creativecommons.org/licenses/by/4.0/
        知识共享署名 4.0 国际许可协议
        創用CC 姓名標示 4.0
        クリエイティブ・コモンズ 表示 4.0 国際 ライセンス
        크리에이티브 커먼즈 저작자표시 4.0
        CC BY 3.0 NO
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
