"""Observations as iNaturalist's API gives them."""

from __future__ import annotations

from typing import Any

ANCESTORS = [
    {"id": 1, "name": "Animalia", "rank": "kingdom"},
    {"id": 2, "name": "Chordata", "rank": "phylum"},
    {"id": 3, "name": "Aves", "rank": "class"},
    {"id": 7251, "name": "Passeriformes", "rank": "order"},
    {"id": 71339, "name": "Cardinalidae", "rank": "family"},
    {"id": 10274, "name": "Passerina", "rank": "genus"},
]


def sound(number: int, ext: str = "wav", **changed: Any) -> dict[str, Any]:
    """A sound as v1 gives it."""
    return {
        "id": number,
        "license_code": "cc-by-nc",
        "attribution": "(c) A. Person, some rights reserved (CC BY-NC)",
        "native_sound_id": None,
        "secret_token": None,
        "file_url": f"https://static.inaturalist.org/sounds/{number}.{ext}?1624793769",
        "file_content_type": "audio/x-wav",
        "play_local": True,
        "subtype": None,
        "flags": [],
    } | changed


def observation(number: int, sounds: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """An observation as v1 gives it: the taxon without ancestors, the identifications with."""
    taxon = {
        "id": 10276,
        "name": "Passerina amoena",
        "rank": "species",
        "iconic_taxon_name": "Aves",
        "ancestor_ids": [48460, 1, 2, 3, 7251, 71339, 10274, 10276],
    }
    return {
        "id": number,
        "uuid": f"00000000-0000-0000-0000-{number:012d}",
        "quality_grade": "research",
        "observed_on": "2021-06-27",
        "time_observed_at": "2021-06-27T07:17:05-06:00",
        "location": "43.6571,-103.4143",
        "geojson": {"type": "Point", "coordinates": [-103.4143, 43.6571]},
        "obscured": False,
        "place_guess": "Custer State Park, SD, US",
        "user": {"id": 5, "login": "aperson", "name": "Ann Person"},
        "taxon": taxon,
        "identifications": [{"id": 1, "taxon": {**taxon, "ancestors": ANCESTORS}}],
        "flags": [],
        "sounds": sounds,
    } | changed
