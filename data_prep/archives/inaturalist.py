"""iNaturalist: observations with sounds, as the API gives them (v1 or v2), saved as JSON.

One recording per sound; the sounds of an observation share a group. The key of a recording is the
number of the sound ("inat:263113"), which is in the address of the file and never changes; ids of
observations and of sounds are different numbers.

Sources: https://api.inaturalist.org/v1/docs/, https://api.inaturalist.org/v2/docs/ and the sample
responses of pyinaturalist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from dawnchorus.data_prep.archives.checked import (
    OBSCURED_M,
    checked,
    date_of,
    group_of,
    number_of,
    text_of,
    uncertainty_of,
)
from dawnchorus.data_prep.archives.file_index import FileIndex
from dawnchorus.data_prep.archives.json_files import Document, items, top_level_keys
from dawnchorus.data_prep.table.recording import Label, Recording, tidy_name
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.licences import read_licence

TAXONOMY = "inaturalist"
ALL_RIGHTS_RESERVED = "all rights reserved"
MAX_OBSERVATION_BYTES = 64 << 20
"""An observation has some 10 kB, with all comments and identifications some MB."""
_SOUND_NUMBER = re.compile(r"(\d+)(?:\.\w+)?$")
_LOCAL_NAME = re.compile(r"(?:inat[-_ ]?)?(\d+)$", re.IGNORECASE)
# The site's licences are those of version 4.0 (inaturalist.org, "Licence" of an observation).
_CODES = {
    **{
        code: f"https://creativecommons.org/licenses/{code.removeprefix('cc-')}/4.0/"
        for code in ("cc-by", "cc-by-nc", "cc-by-sa", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd")
    },
    "cc0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "pd": "https://creativecommons.org/publicdomain/mark/1.0/",
}
RANK_KEYS = ("kingdom", "phylum", "class", "order", "family")
# What `iconic_taxon_name` says about a taxon, where the ancestors are not given.
_ICONIC = {
    "Aves": "class", "Amphibia": "class", "Reptilia": "class", "Mammalia": "class",
    "Actinopterygii": "class", "Insecta": "class", "Arachnida": "class", "Mollusca": "phylum",
    "Animalia": "kingdom", "Plantae": "kingdom", "Fungi": "kingdom",
}  # fmt: skip


def sound_key(name: str) -> list[str]:
    """Return the number in the name of a file ("263113.m4a", "inat_263113.wav"), as its key."""
    found = _LOCAL_NAME.match(name.rpartition(".")[0] or name)
    return [str(int(found.group(1)))] if found else []


def sound_number(url: str) -> str:
    """Return the number of a sound from its address ("…/sounds/263113.wav?1624793769"), or ''."""
    try:
        path = urlsplit(url).path
    except ValueError:  # brackets in the host
        return ""
    found = _SOUND_NUMBER.search(path.rpartition("/")[2])
    return str(int(found.group(1))) if found else ""


def bare_url(url: str) -> str:
    """Return the address without `?timestamp`, with a scheme."""
    url = url.partition("?")[0]
    return f"https:{url}" if url.startswith("//") else url


def licence_of_code(code: str) -> str:
    """Return the licence of iNaturalist's code ("cc-by-nc"); other codes as they are."""
    return _CODES.get(code.lower(), "") or read_licence(code).url


def credit(name: str, sound: str, observation: str) -> str:
    """Return the line that credits a recording."""
    where = f"inaturalist.org/observations/{observation}" if observation else "inaturalist.org"
    return tidy_name(f"{name or 'unknown recordist'}, iNaturalist sound {sound}, {where}")


def kind_of(document: Document) -> str:
    """Return what a JSON text holds: "api", "inatsounds" or ''."""
    keys = top_level_keys(document)
    if {"audio", "annotations"} <= keys or {"audio", "categories"} <= keys:
        return "inatsounds"
    return "api" if keys & {"results", "total_results", "sounds", "taxon", "uuid"} else ""


def read_pages(document: Document, local: FileIndex | None) -> Iterator[Recording | Rejected]:
    """Yield the sounds of saved API answers: pages, several after another, or observations.

    Accepts `{"results": […]}` of v1 and v2, an array of observations, and JSON lines of either.
    Raises PrepError when the text is no JSON or breaks off.
    """
    keys = top_level_keys(document)
    prefix = "item" if "[" in keys else "results.item" if "results" in keys else ""
    for item in items(document, prefix, MAX_OBSERVATION_BYTES):
        pages = item["results"] if isinstance(item, dict) and "results" in item else [item]
        for observation in _list(pages):
            yield from checked(observation_rows(observation, local))


def observation_rows(observation: Any, local: FileIndex | None) -> Iterator[Recording | Rejected]:
    """Yield one row per sound of an observation, as the API (v1 or v2) gives it.

    Rejected: observations that have no sounds or no taxon or are spam, sounds that are hidden,
    moderated or flagged, sounds without a file.
    """
    observation = _dict(observation)
    number = text_of(observation.get("id")) or text_of(observation.get("uuid"))
    where = f"inat:observation/{number or '?'}"
    sounds = [_dict(s) for s in _list(observation.get("sounds"))] or [
        _dict(_dict(s).get("sound")) for s in _list(observation.get("observation_sounds"))
    ]
    if not sounds:
        detail = "" if "sounds" in observation else "API v2 gives only what `fields` asks for"
        yield Rejected(recording_id=where, reason="no_sound", detail=detail)
        return
    label = _label(_dict(observation.get("taxon")), observation)
    for sound in sounds:
        url = text_of(sound.get("file_url"))
        key = sound_number(url) or text_of(sound.get("id"))
        identity = f"inat:{key}" if key else where
        reason, detail = _unwanted(observation, sound)
        if not reason and label is None:
            reason, detail = "unidentified", text_of(_dict(observation.get("taxon")).get("name"))
        if reason:
            yield Rejected(recording_id=identity, reason=reason, detail=detail, path=url)
        elif label is not None:
            yield _recording(observation, sound, label, key, number, local)


def _unwanted(observation: Mapping[str, Any], sound: Mapping[str, Any]) -> tuple[str, str]:
    """Return (reason, detail) where iNaturalist's moderators have hidden the sound."""
    if sound.get("hidden"):
        return "hidden", ""
    actions = [text_of(_dict(a).get("action")) for a in _list(sound.get("moderator_actions"))]
    if actions and actions[-1] != "unhide":
        return "moderated", actions[-1]
    for holder in (sound, observation):
        open_flags = [f for f in map(_dict, _list(holder.get("flags"))) if not f.get("resolved")]
        if open_flags:
            return "flagged", text_of(open_flags[0].get("flag"))
    if observation.get("spam"):
        return "spam", ""
    return "", ""


def _recording(
    observation: Mapping[str, Any],
    sound: Mapping[str, Any],
    label: Label,
    key: str,
    number: str,
    local: FileIndex | None,
) -> Recording:
    user = _dict(observation.get("user"))
    login = text_of(user.get("login"))
    name = text_of(user.get("name")) or login
    lat, lon = _position(observation)
    date = date_of(
        text_of(observation.get("time_observed_at")) or text_of(observation.get("observed_on"))
    )
    code = sound.get("license_code", "")
    # Obscured positions are random within 0.2° for each observation, so they cannot tell groups.
    obscured = bool(observation.get("obscured")) or "obscured" in (
        observation.get("geoprivacy"),
        observation.get("taxon_geoprivacy"),
    )
    place = (None, None) if obscured else (lat, lon)
    return Recording(
        id=f"inat:{key}",
        source="inat",
        source_id=key,
        path=local.find(key) if local else "",
        url=bare_url(text_of(sound.get("file_url"))),
        licence_url=ALL_RIGHTS_RESERVED if code is None else licence_of_code(text_of(code)),
        attribution=credit(name, key, number),
        recordist=name,
        labels=(label,),
        quality=text_of(observation.get("quality_grade")),
        datetime=date,
        lat=lat,
        lon=lon,
        uncertainty_m=uncertainty_of(
            observation.get("public_positional_accuracy")
            or (OBSCURED_M if obscured else observation.get("positional_accuracy"))
        ),
        group_id=group_of(login or name, *place, date, f"inat:observation/{number}"),
    )


def _position(observation: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return (lat, lon) from "lat,lon" or, where that is not given, from the GeoJSON point."""
    first, _, second = text_of(observation.get("location")).partition(",")
    lat, lon = number_of(first, 90.0), number_of(second, 180.0)
    if lat is None or lon is None:
        point = _list(_dict(observation.get("geojson")).get("coordinates"))
        if len(point) == 2:
            lat, lon = number_of(point[1], 90.0), number_of(point[0], 180.0)
    return (lat, lon) if lat is not None and lon is not None else (None, None)


def _label(taxon: Mapping[str, Any], observation: Mapping[str, Any]) -> Label | None:
    """Return the label of a taxon with the names of its ancestors; None where there is no useful
    name.
    """
    name, rank, number = (text_of(taxon.get(key)) for key in ("name", "rank", "id"))
    if not name or rank == "stateofmatter":  # "Life"
        return None
    ids = {"inat": number}
    iconic = text_of(taxon.get("iconic_taxon_name"))
    if iconic in _ICONIC:
        ids[_ICONIC[iconic]] = iconic
    for ancestor in map(_dict, _ancestors(taxon, observation)):
        if ancestor.get("rank") in RANK_KEYS:
            ids[ancestor["rank"]] = text_of(ancestor.get("name"))
    return Label(
        name, rank, taxonomy=TAXONOMY, ids=tuple((k, v) for k, v in sorted(ids.items()) if v)
    )


def _ancestors(taxon: Mapping[str, Any], observation: Mapping[str, Any]) -> list[Any]:
    """Return the ancestors. In v1 the taxon of a search result has none, but those who
    identified it stated the same taxon with them.
    """
    if taxon.get("ancestors"):
        return _list(taxon["ancestors"])
    for identification in map(_dict, _list(observation.get("identifications"))):
        stated = _dict(identification.get("taxon"))
        if stated.get("id") == taxon.get("id") and stated.get("ancestors"):
            return _list(stated["ancestors"])
    return []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
