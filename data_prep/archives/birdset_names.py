"""What the codes of BirdSet and BirdCLEF mean, by eBird's taxonomy and the tables beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dawnchorus.data_prep.archives.checked import text_of
from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.inaturalist import TAXONOMY as INATURALIST
from dawnchorus.data_prep.archives.table_rows import RowTable, open_table
from dawnchorus.data_prep.table.recording import Label

_NAME_FILES = ("taxonomy.csv", "eBird_Taxonomy_*.csv", "ebird_taxonomy_*.csv")


@dataclass(frozen=True)
class CodeNames:
    """The meanings of a table's codes, as the files beside it give them."""

    year: str
    names: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def label(self, code: str, role: str, **ids: str) -> Label:
        """Return the label of a code: eBird's, or (digits) the number of a taxon of iNaturalist.

        Without a scientific name the code itself is the name, for the labels step to resolve.
        """
        name = self.names.get(code, code)
        words = name.split()
        rank = "subspecies" if len(words) == 3 and words[-1].islower() else "species"
        if name != code and len(words) == 1 and code.isdigit():
            rank = "genus"
        kind = self.classes.get(code, "" if code.isdigit() else "Aves")
        key = "inat" if code.isdigit() else "ebird"
        known = {key: code, "class": kind} | ids
        taxonomy = INATURALIST if code.isdigit() else f"ebird-{self.year}"
        return Label(name, rank, role, taxonomy, tuple((k, v) for k, v in known.items() if v))


def is_birdclef(table: RowTable) -> bool:
    """Return whether a table has the columns of BirdCLEF."""
    return {"primary_label", "filename"} <= set(table.columns)


def code_names(folder: Path, tables: list[RowTable], year: str) -> CodeNames:
    """Read the scientific names of codes: eBird's CSV, taxonomy.csv, the BirdCLEF table itself."""
    result = CodeNames(year)
    others = [p for pattern in _NAME_FILES for p in sorted(folder.glob(pattern))]
    for table in [*map(open_table, others), *filter(is_birdclef, tables)]:
        for row in table.rows():
            if isinstance(row, BadRow):
                continue
            row = {key.lower(): value for key, value in row.items() if isinstance(key, str)}
            code = text_of(row.get("primary_label") or row.get("species_code"))
            name = text_of(row.get("scientific_name") or row.get("sci_name"))
            if code and name and len(code) < 32:
                result.names.setdefault(code, name)
                if kind := text_of(row.get("class_name")):
                    result.classes.setdefault(code, kind)
    return result
