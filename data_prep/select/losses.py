"""Why a selection is empty: which keys of the recipe removed how many recordings."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dawnchorus.data_prep.select.selection_recipe import SelectRecipe
    from dawnchorus.data_prep.select.selection_rows import Rows

# The keys that decide about each reason.
_KEYS: dict[str, tuple[str, ...]] = {
    "licence": ("filters.licences.allow", "filters.licences.deny"),
    "source": ("filters.sources", "filters.not_sources"),
    "quality": ("filters.quality.at_least", "filters.quality.unknown"),
    "duration": ("filters.duration.min_s", "filters.duration.max_s", "filters.duration.unknown"),
    "unlabelled": ("filters.labelled",),
    "rank": ("filters.ranks",),
    "sound_type": ("filters.sound_types", "filters.not_sound_types"),
    "taxon": ("filters.taxa", "filters.not_taxa"),
    "cap_recordist": ("caps.per_recordist",),
    "cap_class": ("caps.per_class",),
    "rare_class": ("caps.min_per_class",),
    "amount": ("tables",),
    "evaluation_held_out_species": ("evaluation.species", "evaluation.species_file"),
    "missing": ("tables",),
}
_BEGINNINGS = {"evaluation_": ("evaluation.sets",), "duplicate_": ("duplicates",)}
_EXAMPLES = 3


def why_nothing(rows: Rows, recipe: SelectRecipe) -> str:
    """Return a line for each reason, the greatest loss first: how many, the key and its value, and
    what the recordings had there.
    """
    details: dict[str, Counter[str]] = {}
    for reason, detail in zip(rows.reason_R, rows.detail_R, strict=True):
        if reason:
            details.setdefault(str(reason), Counter())[str(detail)] += 1
    lines = []
    for reason, found in sorted(details.items(), key=lambda item: -item[1].total()):
        line = f"  {found.total():,} by {_setting(reason, recipe)}"
        examples = [f"{text[:60]!r} {count:,}" for text, count in found.most_common() if text]
        if examples:
            more = f" and {len(examples) - _EXAMPLES} more" if len(examples) > _EXAMPLES else ""
            line += f": they have {', '.join(examples[:_EXAMPLES])}{more}"
        lines.append(line)
    return "\n".join(lines)


def _setting(reason: str, recipe: SelectRecipe) -> str:
    """Return "filters.licences.deny=[...] (licence)", or the reason alone where no key decides."""
    keys = _KEYS.get(reason) or next(
        (keys for start, keys in _BEGINNINGS.items() if reason.startswith(start)), ()
    )
    if not keys:
        return f"the sound itself ({reason})"
    given = [(key, value) for key in keys if (value := _value(recipe, key)) not in (None, [])]
    if reason == "duration":
        given = [(key, value) for key, value in given if value not in (0.0, True)]
    shown = [
        key if isinstance(value, (dict, str)) and key.count(".") < 2 else f"{key}={_text(value)}"
        for key, value in given
    ]
    return f"{', '.join(shown or keys)} ({reason})"


def _value(recipe: SelectRecipe, key: str) -> Any:
    value: Any = recipe.resolved()
    for name in key.split("."):
        value = value[name]
    return value


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False).replace('"', "")
    return text if len(text) <= 80 else f"{text[:77]}..."
