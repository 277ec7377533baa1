"""What a dataset says of its events: how clips were made of them, how many, and its negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dawnchorus.trainer.markdown import plain
from dawnchorus.trainer.strong_labels import KEY

_SHOWN = 50


def negatives_words(stats: Mapping[str, Any]) -> str:
    """Say how many clips are negatives; '' where no recording has events."""
    strong = stats.get(KEY)
    if not strong:
        return ""
    if not strong["negatives"]:
        return (
            "none: a detector trained on it never hears a window without a call, and may find "
            "calls everywhere"
        )
    share = strong["negatives"] / max(1, stats["clips"])
    return f"{strong['negatives']:,} clips ({share:.1%}) in which nothing is heard"


def rule_words(stats: Mapping[str, Any]) -> str:
    """Say how clips were made of recordings with events."""
    rule = stats[KEY]["rule"]
    hop_s = rule["hop_s"] or rule["clip_s"]
    around = (
        "around each event, and of the windows without any"
        if rule["clips_at"] == "events"
        else f"that begin every {hop_s:g} s"
    )
    if rule["least_overlap_s"] is None:
        least = f"at least {rule['least_overlap']:.0%} of the shorter of the two"
    else:
        least = f"at least {rule['least_overlap_s']:g} s, or all of the shorter of the two"
    return (
        f"clips of {rule['clip_s']:g} s {around}; a clip has the label of an event if they share "
        f"{least}; {rule['empty_share']:.0%} of the windows that no event touches are kept as "
        "negatives; windows that events only touch are left out"
    )


def lost_words(stats: Mapping[str, Any]) -> list[str]:
    """Say of which labels events are too high for the dataset's sample rate."""
    limit = stats["sample_rate_hz"] / 2000
    return [
        f"{label}: {count['above_nyquist']:,} of {count['events']:,} events lie above {limit:g} "
        "kHz and give no label"
        for label, count in stats.get(KEY, {}).get("events", {}).items()
        if count["above_nyquist"]
    ]


def event_rows(stats: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return label, events, their mean length in seconds and those too high, most events first."""
    events = stats.get(KEY, {}).get("events", {})
    ranked = sorted(events.items(), key=lambda item: (-item[1]["events"], item[0]))
    return [
        (label, f"{n['events']:,}", f"{n['seconds'] / max(1, n['events']):.3g}",
         f"{n['above_nyquist']:,}")
        for label, n in ranked
    ]  # fmt: skip


def event_section(stats: Mapping[str, Any]) -> str:
    """Return the card's section on events; '' where no recording has any."""
    strong = stats.get(KEY)
    if not strong:
        return ""
    words = rule_words(stats)
    lines = [
        "## Events\n",
        f"Labels have times. {words[0].upper()}{words[1:]}. The JSON of a clip lists its events, "
        "with times relative to the clip; so does `index.parquet` (`event_ids`, `event_start_s`, "
        "`event_end_s`), and a shorter window of a clip has the labels of the events in it, by the "
        "same rule (`labels.json`).\n",
        f"* Negatives: {negatives_words(stats)}; windows without any event: {strong['empty']:,}.",
        f"* Windows left out because no label of them is certain: {strong['unsure']:,}.",
        f"* Events without a label: {strong['unlabelled']:,}.",
        *(f"* {plain(text)}." for text in lost_words(stats)),
    ]
    rows = event_rows(stats)
    lines += ["", "| label | events | mean length (s) | too high |", "|---|---|---|---|"]
    lines += [f"| {plain(a)} | {b} | {c} | {d} |" for a, b, c, d in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"\nand {len(rows) - _SHOWN:,} more in `stats.json`.")
    return "\n".join(lines) + "\n"
