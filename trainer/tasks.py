"""What the labels of a dataset are for: declared when it is prepared, read when it is evaluated."""

from __future__ import annotations

from typing import Literal

DeclaredTask = Literal["single", "multi", "detection"]

TASKS: dict[DeclaredTask, str] = {
    "single": "every clip has one label",
    "multi": "a clip has any number of labels",
    "detection": "a clip without a label is one in which nothing of the kind is heard",
}
"""`task` of a dataset's `labels.json`. Detections are scored as several labels are."""
