"""What every logger is: it takes a copy of each line of `metrics.jsonl` and shows it elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What a logger learns of the run."""

    folder: Path
    """The run folder."""
    name: str
    """Name of the run."""
    recipe: dict[str, Any]
    """The recipe without paths (`public_recipe`): all that may leave the machine."""
    first_step: int
    """Where this session begins. Figures of later steps that were shown before are repeated now."""


class Logger(ABC):
    """Rank 0 has one of each that the recipe asks for."""

    @classmethod
    @abstractmethod
    def start(cls, log: Any, run: LoggedRun) -> Self | None:
        """Begin, or go on with an earlier session of the run.

        Args:
            log: the section `log` of the recipe, which has the keys of this logger's config.
            run: the run.

        Returns:
            None where the recipe does not ask for this logger.

        Raises:
            RecipeError: it is asked for, and its package is not installed.
        """

    @abstractmethod
    def write(self, line: dict[str, Any]) -> None:
        """Take a line as `trainer.metrics_log` describes it."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is left."""


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """The figures of a line under the names that dashboards show: `<kind>/<figure>`."""
    return {
        f"{line['kind']}/{name}": value
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
