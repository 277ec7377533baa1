"""Imports Lightning without what it imports and this project never uses.

`import pytorch_lightning` imports all of torchmetrics, which imports transformers and scipy.signal
where they are installed: 1.5 of 4.1 core-seconds, on every rank of every start.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from unittest.mock import patch

_UNUSED = ("scipy", "torchvision", "transformers")


def import_lightning() -> None:
    """Import Lightning while torchmetrics believes that `_UNUSED` are not installed.

    For our own commands alone: torchmetrics' text and image metrics do not work in this process
    afterwards. What these packages do for others stays as it is, and a version of Lightning that
    asks in another way is imported as usual.
    """
    asked = importlib.import_module("lightning_utilities.core.imports")
    version, available = asked._version, asked.package_available

    def version_or_absent(name: str) -> str:
        if name in _UNUSED:
            raise PackageNotFoundError(name)
        return str(version(name))

    def is_there(name: str) -> bool:
        return name not in _UNUSED and bool(available(name))

    with (
        patch.object(asked, "_version", version_or_absent),
        patch.object(asked, "package_available", is_there),
    ):
        importlib.import_module("pytorch_lightning")
