"""Command-line options made from the option classes, so that every option is described once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from dawnchorus.data_prep.archives.columns import FIELDS, NOT_USED

COLUMNS = f"Columns of the table, where they have unusual names ('{NOT_USED}': do not use one)"


def with_options(
    *kinds: type, columns: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of the option classes and, if asked, per column.

    `archives.columns` and `dataset.options` are the only lists of options; the command receives the
    values in its `**options`.
    """
    added = [
        _parameter(field.parameter, str | None, None, COLUMNS, field.option_help, "COLUMN")
        for field in FIELDS
        if columns
    ]
    for kind in kinds:
        hints = get_type_hints(kind)
        added += [
            _parameter(
                item.name,
                hints[item.name],
                item.default,
                item.metadata["panel"],
                item.metadata["help"],
            )
            for item in dataclasses.fields(kind)
            if item.metadata
        ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]

        @functools.wraps(command)
        def with_options(**options: Any) -> None:
            command(**options)

        with_options.__dict__["__signature__"] = signature.replace(parameters=own + added)
        with_options.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return with_options

    return decorate


def _parameter(
    name: str, kind: Any, default: Any, panel: str, text: str, metavar: str | None = None
) -> inspect.Parameter:
    flag = [f"--{name.replace('_', '-')}"]  # without it typer adds a --no-… twin to switches
    option = typer.Option(*flag, help=text, rich_help_panel=panel, metavar=metavar)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )
