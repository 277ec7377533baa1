"""How the archives ask to be cited."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Citation:
    """The entry of a source in a bibliography."""

    title: str
    author: str
    year: str = ""
    where: str = ""
    doi: str = ""
    url: str = ""
    note: str = ""


SOURCES = {
    "xc": "Xeno-canto",
    "inat": "iNaturalist",
    "inatsounds": "iNatSounds 2024",
    "audioset": "AudioSet",
    "watkins": "Watkins",
    "asa": "Animal Sound Archive",
    "gbif": "GBIF",
    "birdset": "BirdSet",
}

CITATIONS = {
    "xc": Citation(
        "Xeno-canto: sharing wildlife sounds from around the world",
        "{Xeno-canto Foundation for Nature Sounds}",
        url="https://xeno-canto.org",
        note="on GBIF as Vellinga, W.: Xeno-canto - Bird sounds from around the world, "
        "https://doi.org/10.15468/qv0ksn, and Orthoptera, https://doi.org/10.15468/76yp6j",
    ),
    "inat": Citation(
        "iNaturalist Research-grade Observations",
        "{iNaturalist contributors}",
        where="iNaturalist.org",
        doi="10.15468/ab3s5x",
    ),
    "inatsounds": Citation(
        "The iNaturalist Sounds Dataset",
        "Chasmai, Mustafa and Shepard, Alexander and Maji, Subhransu and Van Horn, Grant",
        year="2024",
        where="Advances in Neural Information Processing Systems 37",
        url="https://arxiv.org/abs/2506.00343",
    ),
    "audioset": Citation(
        "Audio Set: An ontology and human-labeled dataset for audio events",
        "Gemmeke, Jort F. and Ellis, Daniel P. W. and Freedman, Dylan and Jansen, Aren and "
        "Lawrence, Wade and Moore, R. Channing and Plakal, Manoj and Ritter, Marvin",
        year="2017",
        where="ICASSP 2017, 776-780",
        doi="10.1109/ICASSP.2017.7952261",
        note="labels under CC BY 4.0; the sound belongs to those who uploaded it",
    ),
    "watkins": Citation(
        "The Watkins Marine Mammal Sound Database: An online, freely accessible resource",
        "Sayigh, Laela and Daher, Mary Ann and Allen, Julie and Gordon, Helen and "
        "Joyce, Katherine and Stuhlmann, Claire and Tyack, Peter",
        year="2016",
        where="Proceedings of Meetings on Acoustics 27, 040013",
        doi="10.1121/2.0000358",
        note="Woods Hole Oceanographic Institution and New Bedford Whaling Museum",
    ),
    "asa": Citation(
        "Animal Sound Archive",
        "{Museum für Naturkunde Berlin}",
        doi="10.15468/0bpalr",
    ),
    "birdset": Citation(
        "BirdSet: A Large-Scale Dataset for Audio Classification in Avian Bioacoustics",
        "Rauch, Lukas and others",
        year="2024",
        url="https://arxiv.org/abs/2403.10380",
        note="its recordings are those of Xeno-canto and of the soundscape sets it names",
    ),
    "gbif": Citation(
        "GBIF Occurrence Download",
        "{GBIF.org}",
        url="https://www.gbif.org",
        note="cite the DOI of your own download: it stands in its confirmation and on your "
        "downloads page",
    ),
}


def citation(source: str) -> str:
    """Return the citation of a source in one line, or "" where it is not one we know."""
    known = CITATIONS.get(source)
    if known is None:
        return ""
    author = known.author.strip("{}").replace(" and ", "; ")
    link = f"https://doi.org/{known.doi}" if known.doi else known.url
    year = f" ({known.year})" if known.year else ""
    parts = [f"{author}{year}", known.title, known.where, link, known.note]
    return ". ".join(part for part in parts if part)


def bibtex(source: str) -> str:
    """Return the BibTeX entry of a source, or "" where it is not one we know."""
    known = CITATIONS.get(source)
    if known is None:
        return ""
    fields = {
        "title": f"{{{known.title}}}",
        "author": known.author,
        "year": known.year,
        "howpublished": known.where,
        "doi": known.doi,
        "url": known.url,
        "note": known.note,
    }
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@misc{{{source},\n" + ",\n".join(lines) + "\n}"


def source_name(source: str) -> str:
    """Return the archive's own name."""
    return SOURCES.get(source, source or "not stated")
