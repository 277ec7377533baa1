"""Benchmarks: ratios that are measured in one run on the machine at hand.

Each module here has `run(report)`, which calls `report` with every figure, and `python -m
scripts.bench.NAME`, which prints them as a table.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured number: the middle of several repetitions, and how far they lay apart."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    target: str = ""
    """What is aimed at, e.g. ">= 0.85"; empty for a number that is only information."""

    @property
    def passed(self) -> bool | None:
        """Whether the middle value meets the target; None where there is none."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


Report = Callable[[Figure], None]


def figure(name: str, values: Sequence[float], unit: str, target: str = "") -> Figure:
    """The median of repetitions, with the smallest and the largest."""
    return Figure(name, statistics.median(values), unit, min(values), max(values), target)


def print_table(run: Callable[[Report], None]) -> bool:
    """Run a benchmark and print its figures as they come; returns whether all targets were met."""
    print(f"{'':80}{'median':>10}{'spread':>22}  {'target':10}")
    good = True

    def report(f: Figure) -> None:
        nonlocal good
        spread = f"{f.low:.4g} .. {f.high:.4g}"
        verdict = {None: "", True: "met", False: "MISSED"}[f.passed]
        value = f"{f.value:.4g} {f.unit}".strip()
        print(f"{f.name:74}  {value:>14}  {spread:>20}  {f.target:10} {verdict}", flush=True)
        good &= f.passed is not False

    run(report)
    return good


_LINE = re.compile(
    r"(?P<name>.+?)\s{2,}(?P<value>\S+)(?: (?P<unit>\S+))?\s{2,}"
    r"(?P<low>\S+) \.\. (?P<high>\S+)(?:\s{2,}(?P<target>[<>]= \S+))?"
)


def read_table(log: str) -> list[Figure]:
    """The figures in what `print_table` printed; other lines are passed over."""
    found = [m for line in log.splitlines() if (m := _LINE.match(line))]
    return [
        Figure(
            m["name"], float(m["value"]), m["unit"] or "", float(m["low"]), float(m["high"]),
            m["target"] or "",
        )
        for m in found
    ]  # fmt: skip
