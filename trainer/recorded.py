"""A recipe as it is recorded: resolved, except for paths that refer to the environment."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, PrivateAttr

from dawnchorus.trainer.references import Key, Written


class Recorded(BaseModel):
    """A model of a recipe that is written into run folders, checkpoints or datasets."""

    _written: dict[Key, tuple[Any, str]] = PrivateAttr(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, with the values of this machine."""
        return self.model_dump(mode="json")

    def resolved(self) -> dict[str, Any]:
        """`values` as records and checkpoints hold them.

        A path that refers to the environment is recorded as it was written, because each machine
        has other values.
        """
        plain = self.values()
        for (*sections, key), (value, text) in self._written.items():
            section = plain
            for name in sections:
                section = section.get(name) or {}
            # A path that was changed since then is recorded with its present value.
            if section.get(key) == value:
                section[key] = text
        return plain

    def remember(self, written: Written) -> Self:
        """Remember how those paths were written; returns the recipe itself."""
        plain = self.values()
        for key, text in written.items():
            value: Any = plain
            for name in key:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                self._written[key] = value, text
        return self
