"""The table of names that is part of the package, and the user's own table.

`builtin.csv` (dawnchorus-builtin-1) lets names resolve without any file. It holds a few hundred
species that tests and first steps need, common higher taxa, and genus moves. For a publication,
give a real taxonomy.
"""

from __future__ import annotations

from pathlib import Path

from dawnchorus.data_prep.archives.delimited import BadRow
from dawnchorus.data_prep.archives.table_rows import open_table
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import tidy_name
from dawnchorus.data_prep.taxonomy.taxonomy_files import Source, find_source

BUILTIN = "dawnchorus-builtin-1"
_FILE = Path(__file__).with_name("builtin.csv")
_MOST_OVERRIDES = 1_000_000


def builtin_source() -> Source:
    """Return the shipped table."""
    return find_source(f"{BUILTIN}={_FILE}")


def read_overrides(path: Path) -> dict[str, str]:
    """Read the user's own table with the columns `name` and `use`: {name as given: name}.

    Raises PrepError for a file that is not a table, an empty cell, or one name with two meanings.
    """
    found: dict[str, str] = {}
    problems = []
    table = open_table(path)
    if missing := {"name", "use"} - set(table.columns):
        raise PrepError(f"{path} needs the columns name and use: no {sorted(missing)}.")
    for number, row in table.numbered():
        if isinstance(row, BadRow):
            problems.append(f"row {number} cannot be read: {row.detail}")
            continue
        name, use = (tidy_name(str(row[key] or "")) for key in ("name", "use"))
        if not name or not use:
            problems.append(f"row {number}: an empty cell")
        elif found.setdefault(name, use) != use:
            problems.append(f"row {number}: {name!r} has another meaning above")
        if len(found) > _MOST_OVERRIDES:
            raise PrepError(f"{path} has more than {_MOST_OVERRIDES:,} rows.")
    if problems:
        shown = "\n  ".join(problems[:10])
        raise PrepError(f"{path} has {len(problems)} mistakes.\n  {shown}")
    return found
