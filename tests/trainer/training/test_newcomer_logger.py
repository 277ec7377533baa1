"""A logger is one module and its config: nothing else has to know of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from dawnchorus.trainer.recipe import load_recipe, rebuild
from dawnchorus.trainer.recipe_schema import json_schema
from dawnchorus.trainer.registry import LOGGERS
from dawnchorus.trainer.training.loggers.base import LoggedRun, Logger, numbers
from dawnchorus.trainer.training.run import _sinks


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """A text file."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"use_attribute_docstrings": True}

    plain: bool = False
    """Write the figures as text."""


class Plain(Logger):
    """A line of text per line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    @classmethod
    def start(cls, log: PlainConfig, run: LoggedRun) -> Self | None:
        return cls(run.folder / "plain.txt") if log.plain else None

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(f"{line['step']} {json.dumps(numbers(line))}\n")

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def known() -> Iterator[None]:
    module = f"{__name__}:"
    LOGGERS.add("plain", module + "PlainConfig", module + "Plain")
    rebuild()
    yield
    LOGGERS.remove("plain")
    rebuild()


@pytest.mark.usefixtures("known")
def test_a_newcomer_is_one_row(tmp_path: Path) -> None:
    asked = ["log.wandb=off", "log.plain=true", "data.train.a.path=x", f"runs={tmp_path}"]
    recipe = load_recipe("ssl_beats_tiny", asked)
    recipe.folder.mkdir(parents=True)
    metrics, _ = _sinks(recipe, 0)
    metrics.write("train", 3, 24, loss=0.5)
    metrics.close()
    assert '3 {"train/samples_seen": 24' in (recipe.folder / "plain.txt").read_text()
    assert [path.name for path in recipe.folder.iterdir()] in (
        ["metrics.jsonl", "plain.txt"], ["plain.txt", "metrics.jsonl"],
    )  # fmt: skip


def test_the_keys_of_all_loggers_are_described_and_off_by_default_where_they_were() -> None:
    keys = json_schema()["$defs"]["LogConfig"]["properties"]
    assert list(keys) == ["wandb", "wandb_project", "tensorboard"]
    assert all(len(field["description"]) > 10 for field in keys.values())
    log = load_recipe("ssl_beats_tiny", ["data.train.a.path=x"]).log
    assert (log.wandb, log.wandb_project, log.tensorboard) == ("offline", "dawnchorus", False)
