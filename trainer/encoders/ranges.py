"""The allowed values of a config's fields, stated once: in their annotations.

pydantic reads them when a recipe is checked, the JSON Schema shows them to an editor, and a config
that is built in Python checks them with `check_ranges`. This file imports neither torch nor
pydantic, because exported models have a copy of it, beside the configs of the encoders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Range:
    """Limits of a number: `Annotated[int, Range(ge=1)]`."""

    ge: float | None = None
    """At least this."""
    gt: float | None = None
    """Above this."""
    le: float | None = None
    """At most this."""
    lt: float | None = None
    """Below this."""
    multiple_of: int | None = None
    """A multiple of this."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Tell pydantic: its schema of a number has keys of the same names."""
        limits = {key: limit for key, limit in vars(self).items() if limit is not None}
        schema = handler(source)
        finite = {"allow_inf_nan": False} if schema["type"] == "float" else {}
        return {**schema, **limits, **finite}

    def __contains__(self, number: float) -> bool:
        """Whether a number is within the limits. NaN and infinity never are."""
        return (
            abs(number) < math.inf
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
            and (self.multiple_of is None or number % self.multiple_of == 0)
        )

    def __str__(self) -> str:
        """Return the words for an error message: `in [0, 1)`, `at least 1`, `a multiple of 4`."""
        low = self.gt if self.ge is None else self.ge
        high = self.lt if self.le is None else self.le
        said = []
        if low is not None and high is not None:
            start, end = "[" if self.gt is None else "(", "]" if self.lt is None else ")"
            said.append(f"in {start}{low:g}, {high:g}{end}")
        elif low is not None:
            said.append(f"{'at least' if self.gt is None else 'above'} {low:g}")
        elif high is not None:
            said.append(f"{'at most' if self.lt is None else 'below'} {high:g}")
        if self.multiple_of is not None:
            said.append(f"a multiple of {self.multiple_of}")
        return " and ".join(said)


Count = Annotated[int, Range(ge=1)]
"""At least one."""
Whole = Annotated[int, Range(ge=0)]
"""Zero or more."""
Size = Annotated[int, Range(ge=1, le=100_000)]
"""Of a part of a model: the largest published ones have some 20,000 channels. A number beyond the
limit is a mistake, or is meant to fill the memory of who loads the model."""
Hertz = Annotated[int, Range(ge=100, le=1_000_000)]
"""A sampling rate: infrasound of elephants to ultrasound of bats."""
Bins = Annotated[int, Range(ge=1, le=4096)]
"""Bands of a spectrogram."""
Positive = Annotated[float, Range(gt=0)]
NotNegative = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, le=1)]
"""From nothing to all."""
ShareBelowOne = Annotated[float, Range(ge=0, lt=1)]
ShareAboveNone = Annotated[float, Range(gt=0, le=1)]


def check_ranges(config: Any) -> None:
    """Compare the fields of a dataclass with the ranges and words that their annotations allow.

    Raises:
        ValueError: with one line per field whose value is not allowed.
    """
    hints = get_type_hints(type(config), include_extras=True)
    problems = [
        problem
        for name in vars(config)
        if name in hints and (problem := _problem(name, getattr(config, name), hints[name]))
    ]
    if problems:
        raise ValueError("\n".join(problems))


def _problem(name: str, value: Any, annotation: Any) -> str:
    """Return what is wrong with one field; "" if nothing is."""
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if kind in (int, float) and not _is(value, kind):
        return f"{name} is {value!r}; it must be a {'whole ' if kind is int else ''}number"
    numbers = value if isinstance(value, list | tuple) else [value]
    for limits in _limits(annotation):
        for number in numbers:
            plain = isinstance(number, int | float) and not isinstance(number, bool)
            if plain and number not in limits:
                return f"{name} is {value}; it must be {limits}"
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    if words and value not in words:
        return f"{name} is {value!r}; allowed: {', '.join(map(repr, words))}"
    return ""


def _is(value: Any, kind: type) -> bool:
    """Whether a value is such a number; a whole one is a float as well."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if kind is int else abs(value) < math.inf


def _limits(annotation: Any) -> Iterator[Range]:
    """Yield every range in an annotation, also within unions and tuples."""
    for argument in get_args(annotation):
        if isinstance(argument, Range):
            yield argument
        else:
            yield from _limits(argument)
