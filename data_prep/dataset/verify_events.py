"""The events of clips: the JSON beside the sound, the index and the rule must say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dawnchorus.data_prep.table.recording import FOREGROUND
from dawnchorus.trainer.strong_labels import OverlapRule

_CLOSE_S = 1e-6


def check_events(
    record: Mapping[str, Any], row: Mapping[str, Any], names: list[str], rule: OverlapRule
) -> Iterator[str]:
    """Yield what is wrong with the events of a clip.

    Args:
        record: the JSON.
        row: of the index.
        names: of the dataset's labels.
        rule: which events count for a clip.
    """
    ids = row.get("event_ids")
    strong = ids is not None
    if bool(record.get("strong")) != strong:
        told = "has" if record.get("strong") else "has no"
        yield f"its JSON {told} times of labels, the index says otherwise"
        return
    if ids is None:
        return
    theirs = [
        (event["label"], event["start_s"], event["end_s"])
        for event in record["events"]
        if event["role"] == FOREGROUND
    ]
    ours = list(zip([names[i] for i in ids], row["event_start_s"], row["event_end_s"], strict=True))
    same = len(theirs) == len(ours) and all(
        a[0] == b[0] and abs(a[1] - b[1]) < _CLOSE_S and abs(a[2] - b[2]) < _CLOSE_S
        for a, b in zip(theirs, ours, strict=True)
    )
    if not same:
        yield f"events are {theirs} in its JSON and {ours} in the index"
        return
    start_E = np.array([event[1] for event in ours], np.float64)
    end_E = np.array([event[2] for event in ours], np.float64)
    length_s = row["samples"] / row["sample_rate_hz"]
    counts = rule.counts(start_E, end_E, 0.0, length_s).tolist()
    wanted = sorted({i for i, counted in zip(ids, counts, strict=True) if counted})
    if wanted != row["label_ids"]:
        yield f"its labels are {row['label_ids']}, by its events they are {wanted}"
