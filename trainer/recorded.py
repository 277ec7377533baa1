"""A recipe as it is recorded: every value, but paths that read the environment as written."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, PrivateAttr

from dawnchorus.trainer.references import Key, Written


class Recorded(BaseModel):
    """A model of a recipe that is written into run folders, checkpoints or datasets."""

    _written: dict[Key, tuple[Any, str]] = PrivateAttr(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, as they hold on this machine."""
        return self.model_dump(mode="json")

    def resolved(self) -> dict[str, Any]:
        """`values` as records and checkpoints hold them.

        A path that reads the environment stands there as it was written: each machine fills in its
        own.
        """
        plain = self.values()
        for (*sections, key), (value, text) in self._written.items():
            section = plain
            for name in sections:
                section = section.get(name) or {}
            # A path that was set to something else since then is recorded as it is now.
            if section.get(key) == value:
                section[key] = text
        return plain

    def remember(self, written: Written) -> Self:
        """The same recipe, which now knows how those paths were written."""
        plain = self.values()
        for key, text in written.items():
            value: Any = plain
            for name in key:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                self._written[key] = value, text
        return self
