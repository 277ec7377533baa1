"""The words that licences are written with, in the languages that archives use.

Each table maps a meaning to phrases, written as `trainer.licences` normalises a text: lower case,
no accents, one space between words, no punctuation. Sources: the names that Creative Commons gives
its licences in each language (https://creativecommons.org/licenses/list.en), SPDX's list of
identifiers, GBIF's enumeration, and the wording of iNaturalist, Freesound and Flickr.
"""

from __future__ import annotations

import html
import re
import unicodedata

# Cells with one of these state no licence.
NOTHING = """
    nan|none|null|nil|na|n a|nat|unknown|unk|undefined|unspecified|not specified|not stated
    not given|not available|not known|not provided|not applicable|unsupported|noassertion
    missing|empty|tbd|todo|unknown license|unknown licence|license unknown|licence unknown
    no license specified|no licence specified|license not specified|licence not specified
    license not provided|other|see website|see source|various|mixed|unbekannt|keine angabe
    nicht angegeben|inconnu|non specifie|desconocido|desconhecido|no especificado
    sconosciuto|onbekend|okand|ukjent|不明|licenseref unknown|false|true
"""

# The four terms of Creative Commons. Words of other languages are in the order of the language's
# share of the archives: English, German, French, Spanish, Portuguese, Italian, Dutch, Swedish,
# Norwegian and Danish, Finnish, Polish, Czech, Hungarian, Russian, Turkish, Japanese, Chinese,
# Korean.
TERMS = {
    "by": """
        by|attribution|attribution required|credit required|with attribution|namensnennung
        paternite|attribution de l auteur|reconocimiento|atribucion|reconeixement|atribuicao
        attribuzione|naamsvermelding|erkannande|navngivelse|navngivning|nimea|nimi mainittava
        uznanie autorstwa|uvedte puvod|uvadite autora|nevezd meg|nevet fel kell tuntetni
        с указанием авторства|указание авторства|атрибуция|alinti|表示|署名|姓名標示|저작자표시
    """,
    "nc": """
        nc|noncommercial|non commercial|noncommercial use|non commercial use
        noncommercial use only|non commercial use only|non commercial purposes only
        for non commercial use only|for non commercial purposes|for noncommercial use only
        for noncommercial purposes|no commercial use|no commercial usage|no commercial uses
        not for commercial use|not for commercial purposes|no commercial purposes
        commercial use not allowed|commercial use not permitted|commercial use prohibited
        commercial use is prohibited|commercial use is not allowed|commercial use is not permitted
        commercial use forbidden|nicht kommerziell|nichtkommerziell|nicht kommerzielle nutzung
        keine kommerzielle nutzung|kommerzielle nutzung verboten|nur fur nicht kommerzielle zwecke
        pas d utilisation commerciale|pas d usage commercial|usage non commercial
        utilisation non commerciale|non commerciale|no comercial|nocomercial|sin uso comercial
        uso no comercial|no para uso comercial|nao comercial|naocomercial|uso nao comercial
        sem uso comercial|uso non commerciale|nietcommercieel|niet commercieel
        geen commercieel gebruik|icke kommersiell|ickekommersiell|ej kommersiell|ikke kommersiell
        ikkekommersiell|ikke kommerciel|ikkekommerciel|ei kaupallinen|epakaupallinen
        ei kaupalliseen kayttoon|uzycie niekomercyjne|niekomercyjne|neuzivejte komercne
        neuzivejte dilo komercne|nekomercni|ne add el|nem kereskedelmi
        некоммерческое использование|некоммерческая|некоммерческий|gayriticari
        ticari olmayan|非営利|非商业性使用|非商业性|非商業性|非商业|비영리
    """,
    "sa": """
        sa|sharealike|share alike|shared alike|share a like|weitergabe unter gleichen bedingungen
        weitergabe unter gleichen bedinungen|partage dans les memes conditions
        partage a l identique|partage des conditions initiales a l identique|compartir igual
        compartirigual|compartir bajo la misma licencia|compartilha igual|compartilhaigual
        compartilhamento pela mesma licenca|partilha nos mesmos termos
        partilha nos termos da mesma licenca|condividi allo stesso modo
        condivisione allo stesso modo|gelijk delen|gelijkdelen|dela lika|delalika
        del pa samme vilkar|delpasammevilkar|jaa samoin|jaasamoin|na tych samych warunkach
        zachovejte licenci|igy add tovabb|с сохранением условий|распространение на тех же условиях
        ayni lisansla paylas|継承|相同方式共享|相同方式分享|동일조건변경허락
    """,
    "nd": """
        nd|noderivs|noderiv|noderivatives|no derivatives|no derivs|noderivative
        no derivative works|no derivative|no derivative work|no derivatives allowed
        derivatives not allowed|no remixing|no modifications|no modification|no changes allowed
        no adaptations|keine bearbeitung|keine bearbeitungen|keinebearbeitungen
        pas de modification|pas de modifications|pas d oeuvre derivee|pas d oeuvres derivees
        pas de travaux derives|sin obra derivada|sin obras derivadas|sinobraderivada|sin derivar
        sinderivar|sinderivadas|sin derivadas|sem derivacoes|semderivacoes|sem derivados
        semderivados|proibicao de realizacao de obras derivadas|non opere derivate
        nessuna opera derivata|non opera derivata|geen afgeleide werken|geenafgeleidewerken
        inga bearbetningar
        ingabearbetningar|ingen bearbeidelse|ingen bearbeidelser|ingenbearbeidelse
        ingen bearbejdelse|ei muutoksia|eimuutoksia|bez utworow zaleznych|nezpracovavejte
        nezasahujte do dila|ne valtoztasd|без производных|без переработки
        без производных произведений|turetilemez|改変禁止|禁止演绎|禁止改作|변경금지
    """,
}  # fmt: skip

PUBLIC_DOMAIN = """
    public domain|publicdomain|pd|pdm|public domain mark|cc pdm|cc pd|cc pddc|public domain work
    in the public domain|us government work|united states government work|u s government work
    united states government works|gemeinfrei|gemeinfreies werk|domaine public|dominio publico
    dominio pubblico|pubblico dominio|publiek domein|allman egendom|offentlig eie|domena publiczna
    общественное достояние|パブリックドメイン|公有领域|公有領域|퍼블릭 도메인|no copyright
"""
ZERO = """
    cc0|cc 0|cc zero|cczero|creative commons 0|creative commons zero|cc o|no rights reserved
    public domain dedication|public domain dedication cc0
"""  # fmt: skip
RESERVED = """
    all rights reserved|all right reserved|allrightsreserved|arr|copyright reserved|proprietary
    confidential|unlicensed|unlicenced|no license|no licence|not licensed|not licenced
    without license|without licence|standard youtube license|youtube standard license
    alle rechte vorbehalten|keine lizenz|urheberrechtlich geschutzt|tous droits reserves
    droits reserves|todos los derechos reservados|derechos reservados|todos os direitos reservados
    direitos reservados|tutti i diritti riservati|alle rechten voorbehouden
    alla rattigheter forbehallna|alla rattigheter reserverade|alle rettigheter reservert
    alle rettigheder forbeholdes|kaikki oikeudet pidatetaan|wszelkie prawa zastrzezone
    vsechna prava vyhrazena|minden jog fenntartva|все права защищены|tum haklari saklidir
    無断転載禁止|全著作権所有|版权所有|版權所有|保留所有权利|모든 권리 보유
"""  # fmt: skip

# Alone these reserve all rights; within a longer text they decide nothing.
NOTICE = "copyright|copyrighted|c"

# Words that do not change the terms of a licence.
FILLER = """
    cc|creative|commons|creativecommons|creative commons|license|licence|licensed|licenced
    licenses|licences|lizenz|lizenziert|licencia|licenca|licenza|licentie|licens|lisens|licencja
    licence creative commons|лицензия|lisansi|ライセンス|许可协议|授權條款|라이선스|licenseref|the
    a|an|this|these|that|work|works|is|are|it|its|under|of|on|in|to|terms|conditions|release
    released|available|made|published|distributed|shared|available under|use|used|via|see|audio
    sound|sounds|recording|recordings|file|files|content|media|dataset|data|all|rights
    some rights reserved|some|reserved|with|for|from|by the|international|intl|int|unported
    generic|universal|public|deed|legalcode|legal|code|version|ver|v|general|full|text|here|http
    https|www|org|html|htm|commercial use allowed|commercial use permitted
    commercial use is allowed|commercial use is permitted|commercial use ok|derivatives allowed
    modifications allowed|adaptations allowed|derivatives permitted|unter|der|die|das|einer|eine
    dieses|werk|ist|sous|la|le|les|une|un|cette|oeuvre|est|mise a disposition selon les termes de
    bajo|una|esta|obra|internacional|internazionale|internationale|internationaal|internationell
    internasjonal|internasjonalt|nao adaptada|no adaptada|no portada|non transpose|nicht portiert
    to view a copy of this license visit|to view a copy of this licence visit|知识共享|創用|创用
    クリエイティブ コモンズ|크리에이티브 커먼즈|许可|許諾
    kansainvalinen|miedzynarodowe|mezinarodni|nemzetkozi|международная|国際|国际|國際|국제|and|or
    und|oder|et|ou|y|e|o|en|och|eller|og|plus|also|either|both|dual|multi|only|later|or later
"""  # fmt: skip

# Jurisdictions of ported licences (1.0 to 3.0): code, then names.
PORTS = {
    "ar": "argentina", "at": "austria|osterreich", "au": "australia",
    "be": "belgium|belgie|belgique", "bg": "bulgaria", "br": "brazil|brasil", "ca": "canada",
    "ch": "switzerland|schweiz|suisse", "cl": "chile",
    "cn": "china|mainland china|china mainland", "co": "colombia", "cr": "costa rica",
    "cz": "czech republic", "de": "germany|deutschland", "dk": "denmark|danmark", "ec": "ecuador",
    "ee": "estonia", "eg": "egypt", "es": "spain|espana", "fi": "finland|suomi", "fr": "france",
    "gr": "greece", "gt": "guatemala", "hk": "hong kong", "hr": "croatia", "hu": "hungary",
    "ie": "ireland", "igo": "intergovernmental organizations", "il": "israel", "in": "india",
    "it": "italy|italia", "jp": "japan|日本", "kr": "korea|south korea", "lu": "luxembourg",
    "mk": "macedonia", "mt": "malta", "mx": "mexico", "my": "malaysia",
    "nl": "netherlands|nederland", "no": "norway|norge", "nz": "new zealand", "pe": "peru",
    "ph": "philippines", "pl": "poland|polska", "pr": "puerto rico", "pt": "portugal",
    "ro": "romania", "rs": "serbia", "scotland": "uk scotland", "se": "sweden|sverige",
    "sg": "singapore", "si": "slovenia", "th": "thailand", "tw": "taiwan", "ug": "uganda",
    "uk": "england|england wales|england and wales|united kingdom", "us": "united states",
    "ve": "venezuela", "vn": "vietnam", "za": "south africa",
}  # fmt: skip

# Other licences than Creative Commons': family -> terms, phrases. No phrase names a version.
OTHERS: dict[str, tuple[str, str]] = {
    "gpl": ("by sa",
        "gpl|gnu gpl|gnu general public license|gnu general public licence|gplv2|gplv3|"
        "gnu gplv2|gnu gplv3"),
    "lgpl": ("by sa", "lgpl|gnu lgpl|gnu lesser general public license|lgplv2|lgplv3"),
    "agpl": ("by sa", "agpl|gnu agpl|gnu affero general public license|agplv3"),
    "gfdl": ("by sa", "gfdl|fdl|gnu fdl|gnu free documentation license"),
    "odbl": ("by sa",
        "odbl|open database license|open database licence|odc open database license|odc odbl|"
        "opendatacommons odbl"),
    "odc-by": ("by", "odc by|odc attribution license|open data commons attribution license"),
    "ogl": ("by",
        "ogl|ogl uk|open government licence|open government license|"
        "uk open government licence|ogl canada|open government licence canada"),
    "mit": ("by", "mit|mit license|the mit license"),
    "apache": ("by", "apache|apache license|apache software license"),
    "bsd": ("by", "bsd|bsd license|bsd 2 clause|bsd 3 clause|new bsd|simplified bsd"),
    "isc": ("by", "isc|isc license"),
    "mpl": ("by sa", "mpl|mozilla public license"),
    "etalab": ("by", "etalab|licence ouverte|licence ouverte open licence|open licence etalab"),
    "dl-de": ("by", "dl de by|datenlizenz deutschland namensnennung"),
    "pd": ("", "pddl|odc pddl|unlicense|the unlicense|public domain dedication and license"),
    "sampling+": ("by nc",
        "sampling plus|cc sampling plus|creative commons sampling plus|"
        "noncommercial sampling plus|nc sampling plus"),
    "whoi": ("by nc", "whoi public|licenseref whoi public|free for personal or academic use"),
}  # fmt: skip

# Parts of words about commerce (NC) and about changing a work (ND). A text that is not understood
# and has one of them may restrict that use, so it counts as restricting it.
NC_STEMS = (
    r"commerc|comerc|kommerz|kommerc|kommers|komerc|kaupalli|kereskedelm|коммерч|комерц"
    r"|ticari|εμπορ|商用|商业|商業|営利|营利|營利|영리|상업|non ?profit|not for profit"
    r"|gemeinnutzig|academic|akademi|education|personal|private use|research|scientific"
    r"|wissenschaft|recherche|non ?com\b|investigacion|ricerca|by ?nc|\bnc\b|\bnc(?:sa|nd)\b"
    r"|\bnc ?\d|teaching|student|schul|hobby"
)
ND_STEMS = (
    r"deriv|afgeleid|bearbeit|bearbet|bearbeid|bearbejd|modif|改変|改编|改編|改作|演绎|演繹"
    r"|変更|변경|переработ|производн|opracowa|zaleznych|remix|adapt|\balter|unchanged"
    r"|verbatim|muutoks|verander|pozmen|nezprac|nezasah|valtoztat|turetil|\bno changes"
    r"|as is\b|\bnd\b|(?:by|nc) ?nd(?:\b| ?\d)|\bnd ?\d"
)


# ----------------------------------------------------------------------- from a text to signs


def plain_text(text: str) -> str:
    """Return the text in lower case, without accents and invisible characters."""
    text = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = re.sub(r"[©℗]|\(c\)", " copyright ", text)
    text = unicodedata.normalize("NFD", text)
    text = "".join(c for c in text if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", text)


_SPLIT_VERSION = re.compile(r"(?<![\d.])([1-4])[_-](\d)(?![\d.])")
_GLUED_VERSION = re.compile(r"(?<=[a-z])(?=[1-4]\.\d)|(?<=\d\.\d)(?=[a-z])")
_GLUED_TERMS = re.compile(
    r"\b(?:cc(by)(nc)?(sa|nd)?(sa|nd)?|(by)(nc)(sa|nd)?|(by)(sa|nd))(?=\b|\d)"
)
_NO_WORD = re.compile(r"[^\w.]+|_+|(?<!\d)\.|\.(?!\d)")
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)")


def split_words(plain: str) -> str:
    """Return the words of a plain text with one space between them.

    "4_0" becomes "4.0", and "ccby" becomes "cc by".
    """
    text = _SPLIT_VERSION.sub(r" \1.\2 ", plain)
    text = _GLUED_VERSION.sub(" ", text)
    text = _NO_WORD.sub(" ", text.replace("sampling+", "sampling plus"))
    text = _GLUED_TERMS.sub(_apart, text)
    return " ".join(_CJK.sub(r" \1 ", text).split())


def _apart(match: re.Match[str]) -> str:
    terms = [term for term in match.groups() if term]
    return " ".join(["cc" if match[0].startswith("cc") else "", *terms, ""])


_NC, _ND = re.compile(NC_STEMS), re.compile(ND_STEMS)


def restrictions(words: str) -> frozenset[str]:
    """Return "nc" where the words mention commerce, and "nd" where they mention changes."""
    found = (("nc", _NC.search(words)), ("nd", _ND.search(words)))
    return frozenset(term for term, match in found if match)


_CONDITION = re.compile(
    r"\b(?:not|no|only|don t|never|ask|request|permission|permitted|consent|contact|prohibited"
    r"|forbidden|without|internal|confidential|redistribut\w*|nicht|nur|kein\w*|verboten"
    r"|genehmigung|interdit\w*|autorisation|prohibid\w*|permiso|proibid\w*|vietat\w*)\b"
)


def is_condition(words: str) -> bool:
    """Return whether words in the place of a copyright holder state a condition.

    "(c) do not redistribute, CC BY" has a condition there, and no holder.
    """
    return bool(_CONDITION.search(words))


def _phrases(text: str) -> list[str]:
    return [split_words(plain_text(p)) for p in text.replace("\n", "|").split("|") if p.strip()]


def _vocabulary() -> dict[str, str]:
    """Return {phrase: sign}. A sign is what a phrase means.

    Signs are a term, "zero", "pd", "reserved", "notice", "other:NAME" and "port:CODE". A word that
    does not change the terms has the sign "".
    """
    tables = [(FILLER, ""), (PUBLIC_DOMAIN, "pd"), (ZERO, "zero"), (RESERVED, "reserved")]
    tables += [(NOTICE, "notice")]
    tables += [(phrases, f"other:{name}") for name, (_, phrases) in OTHERS.items()]
    tables += [(names, f"port:{code}") for code, names in PORTS.items()]
    tables += [(phrases, term) for term, phrases in TERMS.items()]
    return {phrase: sign for text, sign in tables for phrase in _phrases(text)}


_VOCABULARY = _vocabulary()
NO_STATEMENT = frozenset(_phrases(NOTHING)) | {""}
_LONGEST = max(len(phrase.split()) for phrase in _VOCABULARY)
_CJK_PHRASES = sorted((p for p in _VOCABULARY if _CJK.fullmatch(p)), key=len, reverse=True)


def signs_of(words: str) -> tuple[list[str], list[str]]:
    """Return the signs of a text in order, and the words that are not understood.

    "v:4.0" is the sign of a version.
    """
    rest, signs, strange = words.split(), list[str](), list[str]()
    i = 0
    while i < len(rest):
        for n in range(min(_LONGEST, len(rest) - i), 0, -1):
            sign = _VOCABULARY.get(" ".join(rest[i : i + n]))
            if sign is not None:
                signs.append(sign)
                i += n
                break
        else:
            found = _sign_of(rest[i], signs, is_last=i + 1 == len(rest))
            signs += found or []
            strange += [rest[i]] if found is None else []
            i += 1
    return [sign for sign in signs if sign], strange


def _sign_of(word: str, before: list[str], is_last: bool) -> list[str] | None:
    """Return the signs of a word that no table has; None if the word is not understood."""
    if re.fullmatch(r"v?[1-4](?:\.\d)?", word):
        number = word.removeprefix("v")
        return [f"v:{number if '.' in number else number + '.0'}"]
    is_port = word in PORTS and bool(before) and before[-1].startswith("v:")
    if is_port and (word != "no" or is_last):  # "CC BY 3.0 NO", and not "CC BY 3.0, no use"
        return [f"port:{word}"]
    if re.fullmatch(r"(?:19|20)\d\d", word):
        return []
    return _cut_cjk(word) if _CJK.fullmatch(word) else None


def _cut_cjk(word: str) -> list[str] | None:
    """Return the signs of a word written without spaces; None if a part is not understood."""
    signs = []
    while word:
        phrase = next((p for p in _CJK_PHRASES if word.startswith(p)), None)
        if phrase is None:
            return None
        signs.append(_VOCABULARY[phrase])
        word = word[len(phrase) :]
    return signs
