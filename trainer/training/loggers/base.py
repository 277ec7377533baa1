"""What a logger is: it gets a copy of each line of `metrics.jsonl` and shows it elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What a logger is told about the run."""

    folder: Path
    """The run folder."""
    name: str
    """Name of the run."""
    recipe: dict[str, Any]
    """The recipe without paths (`public_recipe`). Nothing else of it may leave the machine."""
    first_step: int
    """The step at which this session begins. It repeats later steps that were logged before."""


class Logger(ABC):
    """Shows the figures of a run elsewhere. Rank 0 starts each logger that the recipe asks for."""

    @classmethod
    @abstractmethod
    def start(cls, log: Any, run: LoggedRun) -> Self | None:
        """Start the logger, or continue what it showed in an earlier session of the run.

        Args:
            log: the section `log` of the recipe, with the keys of this logger's config.
            run: the run.

        Returns:
            The logger; None if the recipe does not ask for it.

        Raises:
            RecipeError: the recipe asks for it, but its package is not installed.
        """

    @abstractmethod
    def write(self, line: dict[str, Any]) -> None:
        """Show a line, which `trainer.metrics_log` describes."""

    @abstractmethod
    def close(self) -> None:
        """Write everything that is still in memory."""


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a line by the names that dashboards show: `<kind>/<figure>`."""
    return {
        f"{line['kind']}/{name}": value
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
