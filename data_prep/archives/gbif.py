"""Any GBIF download or publisher's archive with sounds: occurrences and their multimedia rows.

The datasets of Xeno-canto, iNaturalist and the Animal Sound Archive are recognised, by their key or
by what their rows look like, and their recordings get the ids that their own readers give: a
recording has one id, whichever way it came. Names are as the publisher states them for these three,
as GBIF understands them for all others. The licence is the one of the multimedia row; the
occurrence's licence covers only its data.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dawnchorus.data_prep.archives import inaturalist, xeno_canto
from dawnchorus.data_prep.archives.cells import is_nothing
from dawnchorus.data_prep.archives.checked import (
    MAX_TEXT,
    checked,
    date_of,
    group_of,
    uncertainty_of,
)
from dawnchorus.data_prep.archives.dwca import BadRow, Joined, Row, open_archive
from dawnchorus.data_prep.archives.file_index import FileIndex, asa_key
from dawnchorus.data_prep.archives.inaturalist import bare_url, sound_number
from dawnchorus.data_prep.archives.times import REASON, TimeColumns, label_times
from dawnchorus.data_prep.table.recording import RANKS, Label, Recording, tidy_name
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence

XC, INAT, ASA, GBIF = "xc", "inat", "asa", "gbif"
DATASETS = {
    "b1047888-ae52-4179-9dd5-5448ea342a24": XC,  # Wildlife sounds - Birds
    "ecce3417-d4fd-4fab-9009-09ad3f3f62b3": XC,  # Orthoptera sounds from around the world
    "50c9509d-22c7-4a22-a47d-8c48425ef4a7": INAT,  # iNaturalist research-grade observations
    "b7ec1bf8-819b-11e2-bad2-00145eb45e9a": ASA,
}
ASA_LICENCE = "https://creativecommons.org/licenses/by-nc-sa/4.0/"
"""The licence of most of the Animal Sound Archive, taken where a recording states none."""
HIGHER = ("kingdom", "phylum", "class", "order", "family")
# Of the 223 columns of a GBIF download, those that are used.
CORE_KEYS = frozenset(
    ("gbifid", "datasetkey", "occurrenceid", "catalognumber", "references", "recordedby",
     "rightsholder", "behavior", "associatedtaxa", "fieldnotes", "occurrenceremarks", "eventdate",
     "eventtime", "countrycode", "country", "locality", "decimallatitude", "decimallongitude",
     "latitudedecimal", "longitudedecimal", "scientificname", "acceptedscientificname",
     "verbatimscientificname", "genus", "specificepithet", "infraspecificepithet", "species",
     "taxonrank", "informationwithheld", "coordinateuncertaintyinmeters", "datageneralizations",
     "taxonid", "taxonkey", "acceptedtaxonkey", "vernacularname", *HIGHER)
)  # fmt: skip
MEDIA_KEYS = frozenset(
    ("type", "format", "identifier", "accessuri", "references", "title", "description", "created",
     "creator", "license", "rights", "rightsholder", "rating", "starttime", "endtime")
)  # fmt: skip
_XC_NUMBER = re.compile(
    r"(?:\bXC[-_ ]?0*(\d{1,9})(?!\d))|(?:\b0*(\d{1,9})@XC\b)|(?:xeno-canto\.org/0*(\d{1,9})(?!\d))"
)
_TIMES = TimeColumns("starttime", "endtime")
"""Audubon Core's ac:startTime and ac:endTime: a region of the file. https://ac.tdwg.org/termlist/"""
_ALPHA_KEY = re.compile(r"(?=.*[A-Z])[A-Z0-9]+")


@dataclass
class Asked:
    """What a reader is asked for, and the notes that it makes."""

    only: str = ""
    """A source ("xc"): rows of others are left out as `other_dataset`."""
    audio: FileIndex | None = None
    say: Callable[[str], None] = lambda _: None
    """Gets a line every ten seconds of reading."""
    notes: Counter[str] = field(default_factory=Counter)


def is_sound(row: Row) -> bool:
    """Return whether a multimedia row is a sound: by its type, or by its format without one."""
    kind = row.get("type", "").rsplit("/", 1)[-1].lower()
    if kind:
        return kind == "sound"
    return row.get("format", "").lower().startswith("audio/")


def read_gbif(
    source: Path, *, scratch: Path, asked: Asked | None = None
) -> Iterator[Recording | Rejected]:
    """Yield the sounds of a GBIF download or of a publisher's archive (zip or folder).

    The join is kept in the folder `scratch` (see `core_media`). Raises PrepError when it is not
    such an archive, has no multimedia table, or is truncated.
    """
    asked = asked or Asked()
    archive = open_archive(source)
    rows = archive.joined(
        "multimedia",
        keep=is_sound,
        scratch=scratch,
        core_only=CORE_KEYS,
        rows_only=MEDIA_KEYS,
        say=asked.say,
    )
    for item in rows:
        yield from checked(_recordings(item, asked))


def _recordings(item: Joined | BadRow, asked: Asked) -> Iterator[Recording | Rejected]:
    """Yield a row for every sound of an occurrence, or one that says why there is none."""
    if isinstance(item, BadRow):
        yield Rejected(recording_id="gbif:?", reason=item.problem, detail=item.detail)
        return
    if item.core is None:
        yield Rejected(
            recording_id=f"gbif:{item.rows[0]['id']}",
            reason="no_occurrence",
            path=_address(item.rows[0]),
        )
        return
    core = item.core
    source = source_of(core, item.rows)
    name = f"gbif:{core['id']}"
    if asked.only and source != asked.only:
        yield Rejected(recording_id=name, reason="other_dataset", detail=core.get("datasetkey", ""))
        return
    if not item.rows:
        yield Rejected(recording_id=name, reason="no_sound")
        return
    for text in (*core.values(), *(t for row in item.rows for t in row.values())):
        if len(text) > MAX_TEXT:
            yield Rejected(recording_id=name, reason="field_too_long", detail=text[:60])
            return
    seen: set[str] = set()
    for number, media in enumerate(item.rows):
        if span := label_times(media, _TIMES):
            yield Rejected(recording_id=name, reason=REASON, detail=span, path=_address(media))
            continue
        address = _address(media)
        if address and address in seen:
            yield Rejected(recording_id=name, reason="repeated_sound", path=address)
            continue
        seen.add(address)
        yield _READERS[source](core, media, number, asked)


def source_of(core: Row, media: Sequence[Row]) -> str:
    """Return "xc", "inat" or "asa" for the datasets that have readers of their own, else "gbif"."""
    known = DATASETS.get(core.get("datasetkey", "").lower())
    if known:
        return known
    hosts = {_host(_address(row)) for row in media}
    if any(host == "xeno-canto.org" or host.endswith(".xeno-canto.org") for host in hosts):
        return XC
    if core["id"].endswith("@XC"):
        return XC
    if any(host.endswith("inaturalist.org") for host in hosts):
        return INAT
    return ASA if core.get("catalognumber", "").startswith("TSA:") else GBIF


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:  # brackets in the host
        return ""


def _address(media: Row) -> str:
    """Return the address of the file. Audubon Core has it in accessURI, others in identifier."""
    found = [media.get("accessuri", ""), media.get("identifier", "")]
    full = [xeno_canto.full_url(text) for text in found]
    return next((text for text in full if text.lower().startswith(("http://", "https://"))), "")


def _from_xeno_canto(core: Row, media: Row, number: int, asked: Asked) -> Recording | Rejected:
    places = (core.get("catalognumber", ""), core["id"], core.get("occurrenceid", ""),
              core.get("references", ""), _address(media))  # fmt: skip
    found = next((m for text in places if (m := _XC_NUMBER.search(text))), None)
    source_id = next((group for group in found.groups() if group), "") if found else ""
    stated = core.get("verbatimscientificname", "")
    words = [core.get(key, "") for key in ("genus", "specificepithet", "infraspecificepithet")]
    if stated:
        parsed = xeno_canto.read_name(stated)  # it may have an author; marks of doubt are kept
        whole = parsed.canonical if parsed.canonical and not parsed.doubt else ""
        words = whole.split(" ") if whole else stated.split(" ", 1)
    words = [*words, "", "", ""]
    reason = xeno_canto.why_not(words[0], words[1], core.get("vernacularname", ""))
    remarks = core.get("fieldnotes", "") + core.get("occurrenceremarks", "")
    if not reason and xeno_canto.QUESTIONED in remarks.replace(" ", ""):
        reason = "identity_questioned"
    label = xeno_canto.name_label(words[0], words[1], words[2])
    if not source_id or reason or label is None:
        return Rejected(
            recording_id=f"xc:{source_id}" if source_id else f"gbif:{core['id']}",
            reason=reason or ("no_name" if source_id else "no_id"),
            detail=tidy_name(" ".join(words)),
            path=_address(media),
        )
    if number:  # a recording has one sound; its number cannot stand for a second
        return Rejected(recording_id=f"xc:{source_id}", reason="second_sound", path=_address(media))
    also = xeno_canto.names_in(core.get("associatedtaxa", ""))
    background = (text.rpartition(":")[2] for text in also)
    label = Label(label.name, label.rank, taxonomy=label.taxonomy, ids=_ids(core))
    return _recording(
        core,
        media,
        XC,
        source_id,
        (label, *xeno_canto.background_labels(background, label.name)),
        path=asked.audio.find(f"XC{source_id}") if asked.audio else "",
        quality=xeno_canto.quality(media.get("rating", "")),
    )


def _from_inaturalist(core: Row, media: Row, number: int, asked: Asked) -> Recording | Rejected:
    url = bare_url(_address(media))
    source_id = sound_number(url)
    if not source_id:
        return _from_any(core, media, number, asked)
    stated = core.get("verbatimscientificname", "") or core.get("scientificname", "")
    label = _label(stated, core.get("taxonrank", ""), inaturalist.TAXONOMY, core)
    if label is None:
        return _nameless(f"inat:{source_id}", stated, url)
    taxon = core.get("taxonid", "")
    ids = (("inat", taxon),) if taxon.isdecimal() else ()
    label = Label(label.name, label.rank, taxonomy=label.taxonomy, ids=(*ids, *label.ids))
    path = asked.audio.find(source_id) if asked.audio else ""
    media = media | {"accessuri": "", "identifier": url}
    found = _recording(core, media, INAT, source_id, (label,), path=path)
    if "obscured" in core.get("informationwithheld", "").lower():
        # Such positions are random for each observation, so they cannot tell groups.
        group = group_of(found.recordist, None, None, found.datetime, f"gbif:{core['id']}")
        return dataclasses.replace(found, group_id=group)
    return found


def _from_animal_sound_archive(
    core: Row, media: Row, number: int, asked: Asked
) -> Recording | Rejected:
    source_id = core.get("catalognumber", "").removeprefix("TSA:") or core["id"]
    source_id += f"-{number + 1}" if number else ""
    stated = core.get("verbatimscientificname", "") or core.get("scientificname", "")
    label = _label(stated, core.get("taxonrank", ""), "", core)
    if label is None:
        return _nameless(f"asa:{source_id}", stated, _address(media))
    path = ""
    if asked.audio:
        # The host of the address no longer exists, but the files keep the base name.
        names = [*asa_key(_address(media).rpartition("/")[2])]
        names += asa_key(source_id) if not number else ()
        path = next((path for name in names if (path := asked.audio.find(name))), "")
    if not _licence(media):
        asked.notes["no_licence"] += 1
        media = media | {"license": ASA_LICENCE}
    return _recording(core, media, ASA, source_id, (label,), path=path)


def _from_any(core: Row, media: Row, number: int, asked: Asked) -> Recording | Rejected:
    source_id = core["id"] + (f"-{number + 1}" if number else "")
    key = core.get("acceptedtaxonkey", "") or core.get("taxonkey", "")
    taxonomy = {"gbif": "gbif-backbone", "colxr": "colxr"}.get(_key_kind(key), "")
    rank = core.get("taxonrank", "").lower()
    name = core.get("acceptedscientificname", "") or core.get("scientificname", "")
    if rank in ("species", "genus") and core.get(rank):
        name = core[rank]  # without author, of the accepted name
    label = _label(name, rank, taxonomy, core)
    if label is None:
        return _nameless(f"gbif:{source_id}", name, _address(media))
    return _recording(core, media, GBIF, source_id, (label,), path="")


def _nameless(name: str, stated: str, url: str) -> Rejected:
    return Rejected(recording_id=name, reason="no_name", detail=stated, path=url)


def _label(stated: str, rank: str, taxonomy: str, core: Row) -> Label | None:
    """Return the label of a name with its author; None where it is no name."""
    found = xeno_canto.read_name(stated)
    if not found.canonical or is_nothing(stated):
        return None
    usual = ("", rank.lower() if rank.lower() in RANKS else "genus", "species", "subspecies")
    below = rank.lower() in ("variety", "form")
    rank = rank.lower() if below and found.words == 3 else usual[found.words]
    if found.words == 1 and rank in ("species", "subspecies"):
        rank = "genus"  # "Gryllus sp." of a row that says species
    if found.doubt and found.doubt != "undetermined":
        return Label(tidy_name(stated), "", taxonomy=taxonomy, ids=_ids(core))
    return Label(found.canonical, rank, taxonomy=taxonomy, ids=_ids(core))


def _ids(core: Row) -> tuple[tuple[str, str], ...]:
    """Return GBIF's key for the taxon and the names above it."""
    key = core.get("acceptedtaxonkey", "") or core.get("taxonkey", "")
    kind = _key_kind(key)
    ids = [(kind, key)] if kind else []
    return (*ids, *((rank, core[rank]) for rank in HIGHER if core.get(rank)))


def _key_kind(key: str) -> str:
    """Return "gbif" for the old numeric keys, "colxr" for those since June 2026 ("Q2M4")."""
    if key.isdecimal():
        return "gbif"
    return "colxr" if _ALPHA_KEY.fullmatch(key) else ""


def _recording(
    core: Row,
    media: Row,
    source: str,
    source_id: str,
    labels: tuple[Label, ...],
    *,
    path: str,
    quality: str = "",
) -> Recording:
    """Return the recording with the fields that are alike in all sources."""
    lat, lon = xeno_canto.coordinates(
        core.get("decimallatitude") or core.get("latitudedecimal"),
        core.get("decimallongitude") or core.get("longitudedecimal"),
    )
    recordist = tidy_name(
        core.get("recordedby", "") or media.get("creator", "") or media.get("rightsholder", "")
    )
    date = _date(core)
    # All sounds of an occurrence were recorded at once.
    group = group_of(recordist, lat, lon, date, f"gbif:{core['id']}", core.get("locality", ""))
    return Recording(
        id=f"{source}:{source_id}",
        source=source,
        source_id=source_id,
        path=path,
        url=_address(media),
        licence_url=_licence(media),
        # The licence asks to name who made the file, where that is someone else.
        attribution=_credit(source, source_id, media.get("creator", "") or recordist, core),
        recordist=recordist,
        labels=labels,
        quality=quality,
        sound_type=core.get("behavior", ""),
        datetime=date,
        lat=lat,
        lon=lon,
        uncertainty_m=uncertainty_of(
            core.get("coordinateuncertaintyinmeters"),
            core.get("datageneralizations", ""),
            core.get("informationwithheld", ""),
        ),
        country=core.get("countrycode", "") or core.get("country", ""),
        duration_s=xeno_canto.seconds(media.get("description", "")),
        group_id=group,
    )


def _credit(source: str, source_id: str, who: str, core: Row) -> str:
    """Return the line that credits a recording."""
    if source == XC:
        return xeno_canto.credit(who, source_id)
    if source == INAT:
        observation = core.get("catalognumber", "")
        return inaturalist.credit(who, source_id, observation)
    where = {
        ASA: f"Tierstimmenarchiv {source_id}, Museum für Naturkunde Berlin",
        GBIF: f"gbif.org/occurrence/{core['id']}",
    }[source]
    return tidy_name(f"{who or 'unknown recordist'}, {where}")


def _date(core: Row) -> str:
    """Return the time of an event; of an interval, the part that its two ends share."""
    first, _, last = core.get("eventdate", "").partition("/")
    begin, end = date_of(first), date_of(last)
    if end and end != begin:
        shared = 0
        for length in (4, 7, 10):
            if begin[:length] == end[:length] and len(begin) >= length:
                shared = length
        return begin[:shared]
    time = core.get("eventtime", "")
    if begin.endswith("T00:00") and not time:
        begin = begin[:10]  # how GBIF writes a day
    return xeno_canto.when(begin, time) if time and len(begin) == 10 else begin


_READERS: dict[str, Callable[[Row, Row, int, Asked], Recording | Rejected]] = {
    XC: _from_xeno_canto,
    INAT: _from_inaturalist,
    ASA: _from_animal_sound_archive,
    GBIF: _from_any,
}


def _licence(media: Row) -> str:
    """The address (or text) of the first of two columns that states a licence; else ""."""
    stated = (read_licence(media.get(name, "")).url for name in ("license", "rights"))
    return next(filter(None, stated), "")
