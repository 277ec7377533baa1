"""The dataset card: README.md with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.licences import hugging_face_id, short_name

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_SHOWN_LABELS = 50


def card(stats: Mapping[str, Any], licences: Sequence[Mapping[str, Any]]) -> str:
    """Return the card's text from the dataset's stats and its licence ledger."""
    parts = [
        _front_matter(stats, licences),
        f"# {stats['name']}\n",
        _summary(stats),
        _licence_table(licences),
        _label_table(stats),
        _loading(stats),
        _making(stats),
    ]
    return "\n".join(parts)


def _front_matter(stats: Mapping[str, Any], licences: Sequence[Mapping[str, Any]]) -> str:
    urls = {row["licence_url"] for row in licences}
    licence = hugging_face_id(next(iter(urls))) if len(urls) == 1 else "other"
    size = next((name for limit, name in _SIZES if stats["clips"] < limit), "n>10M")
    lines = ["---", f"pretty_name: {json.dumps(stats['name'], ensure_ascii=False)}"]
    lines.append(f"license: {licence}")
    if licence == "other":
        lines.append("license_name: see-the-licence-table")
        lines.append("license_link: README.md")
    lines += ["task_categories:", "- audio-classification"]
    lines += ["tags:", "- bioacoustics", "- webdataset"]
    lines += ["size_categories:", f"- {size}"]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in stats["splits"]:
        lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(split + '/*.tar')}"]
    return "\n".join([*lines, "---", ""])


def _summary(stats: Mapping[str, Any]) -> str:
    rows = [
        ("clips", f"{stats['clips']:,}"),
        ("recordings", f"{stats['recordings']:,}"),
        ("hours", f"{stats['hours']:.2f}"),
        ("labels", f"{stats['labels']:,}"),
        ("recordists", f"{stats['recordists']:,}"),
        ("groups (not to be split)", f"{stats['groups']:,}"),
        ("audio", f"{stats['sample_rate_hz']} Hz, mono, 16 bit, {stats['codec'].upper()}"),
        ("recordings left out", f"{stats['rejected']:,}{_reasons(stats)}"),
    ]
    rows += [
        (f"split `{split}`", f"{part['clips']:,} clips, {part['hours']:.2f} h")
        for split, part in stats["splits"].items()
    ]
    if stats["folds"]:
        folds = ", ".join(f"{fold}: {count:,}" for fold, count in stats["folds"].items())
        rows.append(("recordings per fold", folds))
    return _table(("", ""), rows)


def _reasons(stats: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{name} {count}" for name, count in stats["rejected_reasons"].items())
    return f" ({reasons}; see `rejected.parquet`)" if reasons else ""


def _licence_table(licences: Sequence[Mapping[str, Any]]) -> str:
    clips: Counter[str] = Counter()
    hours: Counter[str] = Counter()
    people: dict[str, set[str]] = {}
    for row in licences:
        url = row["licence_url"]
        clips[url] += row["clips"]
        hours[url] += row["hours"]
        people.setdefault(url, set()).add(row["recordist"])
    rows = [
        (
            f"[{short_name(url)}]({url})" if url.startswith("http") else short_name(url),
            f"{count:,}",
            f"{hours[url]:.2f}",
            f"{len(people[url] - {''}):,}",
        )
        for url, count in sorted(clips.items(), key=lambda item: (-item[1], item[0]))
    ]
    return (
        "## Licences\n\nEvery recording keeps the licence and the recordist it came with: "
        "`licences.parquet` says who recorded how much under which licence, the JSON beside every "
        "clip says it for that clip. Where a licence asks for credit, give it per recordist.\n\n"
        + _table(("licence", "clips", "hours", "recordists"), rows)
    )


def _label_table(stats: Mapping[str, Any]) -> str:
    counts = stats["clips_per_label"]
    if not counts:
        return "## Labels\n\nThe clips have no labels.\n"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(name.replace("|", "\\|"), f"{count:,}") for name, count in ranked[:_SHOWN_LABELS]]
    more = len(ranked) - len(rows)
    note = f"\nand {more:,} more in `labels.json`.\n" if more else ""
    return "## Labels\n\n" + _table(("label", "clips (foreground)"), rows) + note


def _loading(stats: Mapping[str, Any]) -> str:
    split = next(iter(stats["splits"]))
    codec = stats["codec"]
    return f"""\
## Loading

With [webdataset](https://github.com/webdataset/webdataset):

```python
import glob, io, json
import soundfile, webdataset

for sample in webdataset.WebDataset(sorted(glob.glob("{split}/*.tar")), shardshuffle=False):
    wav, rate = soundfile.read(io.BytesIO(sample["{codec}"]))
    names = [label["name"] for label in json.loads(sample["json"])["labels"]]
```

With [datasets](https://huggingface.co/docs/datasets) (it needs `torchcodec` to hand out audio):

```python
from datasets import load_dataset

dataset = load_dataset("webdataset", data_files={{"{split}": "{split}/*.tar"}}, split="{split}")
```

`index.parquet` has the place of every clip in its tar (offset, size), so that one can be read
without touching the rest.
"""


def _making(stats: Mapping[str, Any]) -> str:
    options = stats["options"]
    codecs = ", ".join(f"{name} {count:,}" for name, count in stats["original_codecs"].items())
    rates = ", ".join(
        f"{rate} Hz {count:,}" for rate, count in stats["original_sample_rates_hz"].items()
    )
    return f"""\
## How it was made

Prepared by dawnchorus. Every recording was decoded, mixed to mono (mean of its channels),
resampled with soxr HQ, rounded to 16 bit and stored without loss; levels were not changed.
Recordings longer than {options["max_piece_s"]:g} s lie in equal pieces of at most that length.
Clips are in an order shuffled with seed {options["seed"]} in which those of one group lie far
apart.

* original formats: {codecs}
* original sample rates: {rates}
* recordings with the same audio as another: {stats["same_audio_recordings"]:,}
* recordings with more than 0.1 % of samples at full scale: {stats["saturated_recordings"]:,}
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
