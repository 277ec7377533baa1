"""Ranges of a config's numbers, stated once: in the annotations of its fields.

pydantic reads them when a recipe is checked, the JSON Schema shows them to an editor, and a config
that is built in Python checks them by `check_ranges`. Imports no torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, get_args, get_origin

from pydantic import Field

from dawnchorus.trainer.overrides import fields_of

Count = Annotated[int, Field(ge=1)]
"""At least one."""
Whole = Annotated[int, Field(ge=0)]
"""Zero or more."""
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
"""From nothing to all."""
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]


def check_ranges(config: Any) -> None:
    """Look at every number of a dataclass whose annotation states a range.

    Raises:
        ValueError: with one line per number outside of it.
    """
    problems = []
    for name, annotation in fields_of(type(config)).items():
        value = getattr(config, name)
        for low, low_ok, high, high_ok in _ranges(annotation):
            several = value if isinstance(value, list | tuple) else [value]
            for number in several:
                if isinstance(number, bool) or not isinstance(number, int | float):
                    continue
                above = number >= low if low_ok else number > low
                below = number <= high if high_ok else number < high
                if not (above and below):
                    allowed = _told(low, low_ok, high, high_ok)
                    problems.append(f"{name} is {value}; it must be {allowed}")
                    break
    if problems:
        raise ValueError("\n".join(problems))


def _ranges(annotation: Any) -> list[tuple[float, bool, float, bool]]:
    """(low, whether it is allowed, high, whether it is allowed) of each range in an annotation."""
    found = []
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        limits = {
            key: getattr(limit, key)
            for extra in extras
            for limit in (extra, *getattr(extra, "metadata", ()))
            for key in ("ge", "gt", "le", "lt")
            if isinstance(getattr(limit, key, None), int | float)
        }
        if limits:
            low = limits.get("ge", limits.get("gt", -math.inf))
            high = limits.get("le", limits.get("lt", math.inf))
            found.append((low, "gt" not in limits, high, "lt" not in limits))
        return found + _ranges(inner)
    return [one for argument in get_args(annotation) for one in _ranges(argument)]


def _told(low: float, low_ok: bool, high: float, high_ok: bool) -> str:
    if high == math.inf:
        return f"at least {low:g}" if low_ok else f"above {low:g}"
    return f"in {'[' if low_ok else '('}{low:g}, {high:g}{']' if high_ok else ')'}"
