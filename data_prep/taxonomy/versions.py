"""Which release of a taxonomy a file is: from its metadata, its heading or its name."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from dawnchorus.data_prep.errors import PrepError

_NAMES = {"gbif": "gbif-backbone", "colxr": "colxr", "inat": "inaturalist", "ebird": "ebird"}
_METADATA = ("eml.xml", "metadata.xml", "metadata.yaml", "metadata.yml")
_MOST = 4 << 20
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)(?:[-_.]?(0[1-9]|1[0-2]))?(?:[-_.]?\d\d)?(?!\d)")
_YEAR = re.compile(r"(?<!\d)(20[0-4]\d)(?!\d)")


def version_of(path: Path, kind: str, headings: tuple[str, ...]) -> str:
    """Return the label of a taxonomy: "gbif-backbone-2023-08", "ebird-2021", "colxr".

    Without any date the plain name; a plain table is called like its file. Raises PrepError for an
    eBird file without a year, because its codes mean different birds in different years.
    """
    if kind == "plain":
        return path.name.split(".")[0]
    if kind == "ebird":
        found = _YEAR.search(path.name) or next(filter(None, map(_YEAR.search, headings)), None)
        if found is None:
            raise PrepError(
                f"{path} does not say which year's eBird taxonomy it is, and codes change from "
                f"year to year. Say it: --taxonomy ebird-2024={path}"
            )
        return f"ebird-{found[1]}"
    date = "" if kind == "inat" else _published(path)
    if not date and (found := _DATE.search(path.name)):
        date = "-".join(part for part in found.groups() if part)
    return f"{_NAMES[kind]}-{date}" if date else _NAMES[kind]


def _published(path: Path) -> str:
    """Return year and month from the metadata in the zip or beside the file."""
    for name, data in _metadata(path):
        text = data.decode("utf-8", "replace")
        if name.endswith(".xml"):
            text = _pub_date(data)
        elif found := re.search(r"(?m)^issued:\s*[\"']?(\S+?)[\"']?\s*$", text):
            text = found[1]
        else:
            continue
        if date := _DATE.search(text):
            return "-".join(part for part in date.groups() if part)
    return ""


def _pub_date(data: bytes) -> str:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        root = fromstring(data)
    except (ParseError, DefusedXmlException, ValueError):
        return ""
    dates = [item.text or "" for item in root.iter() if item.tag.rsplit("}", 1)[-1] == "pubDate"]
    return dates[0].strip() if dates else ""


def _metadata(path: Path) -> list[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            infos = [
                info
                for info in archive.infolist()
                if Path(info.filename).name.lower() in _METADATA
                and info.file_size <= _MOST
                and info.filename.count("/") <= 1
            ]
            return [(info.filename.lower(), archive.read(info)) for info in infos]
    beside = [path.parent / name for name in _METADATA]
    return [(f.name, f.read_bytes()) for f in beside if f.is_file() and f.stat().st_size <= _MOST]
