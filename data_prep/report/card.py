"""The dataset card: README.md with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.dataset.places import words
from dawnchorus.data_prep.dataset.same_audio import same_audio_words
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.citations import citation, source_name
from dawnchorus.data_prep.report.credits import licence_name, permissions
from dawnchorus.data_prep.report.events import event_section
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.markdown import link, plain
from dawnchorus.trainer.strong_labels import KEY

if TYPE_CHECKING:
    from dawnchorus.data_prep.report.gather import Facts, Share

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
_SHOWN_LABELS = 50
_SHOWN_ORDERS = 5
_SHOWN_SETTINGS = 60


def card(
    stats: Mapping[str, Any], licences: Sequence[Mapping[str, Any]], facts: Facts | None = None
) -> str:
    """Return the card's text from the dataset's stats and its licence ledger.

    `facts` (`data_prep.report.gather.gather`) adds facts that only the recordings contain: sources,
    taxa, countries, ranks, and how they were selected.
    """
    parts = [_front_matter(stats, licences), f"# {stats['name']}\n", _summary(stats)]
    if facts is not None:
        parts += [_sources(facts), _taxa(facts)]
    parts += [_licence_table(licences), _label_table(stats), event_section(stats)]
    if facts is not None:
        parts += [_selection(facts)]
    parts += [_limits(stats, facts), _loading(stats), _making(stats)]
    return "\n".join(part for part in parts if part)


def card_of(folder: Path, selection: Path | None = None) -> str:
    """Return the card of a dataset folder from the tables in it (`index.parquet` may be missing).

    `selection` is the folder of `chorus prep select`, where its files do not lie in `folder`.
    Raises PrepError where stats, ledger or recordings are missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dawnchorus.data_prep.report.gather import gather

    facts = gather(folder, selection)
    if "clips" not in facts.stats:
        raise PrepError(f"{folder} is no dataset: it has no stats.json. A table has no card yet.")
    try:
        licences = pq.read_table(
            folder / "licences.parquet", columns=["licence_url", "recordist", "clips", "hours"]
        )
    except (OSError, pa.ArrowInvalid) as err:
        raise PrepError(f"{folder}/licences.parquet cannot be read: {err}.") from err
    return card(facts.stats, licences.to_pylist(), facts)


def write_card(folder: Path, selection: Path | None = None) -> Path:
    """Write the README.md of a dataset anew, whole or not at all; return its path."""
    from dawnchorus.data_prep.tools.whole_text import write_lines

    write_lines(folder / "README.md", [card_of(folder, selection).rstrip("\n")])
    return folder / "README.md"


def _front_matter(stats: Mapping[str, Any], licences: Sequence[Mapping[str, Any]]) -> str:
    urls = {row["licence_url"] for row in licences}
    licence = read_licence(next(iter(urls))).hub_id if len(urls) == 1 else "other"
    size = next((name for limit, name in _SIZES if stats["clips"] < limit), "100M<n<1B")
    lines = ["---", f"pretty_name: {json.dumps(stats['name'], ensure_ascii=False)}"]
    lines.append(f"license: {licence}")
    if licence == "other":
        # The field must link to a LICENSE file or an address; the table below is neither.
        lines.append("license_name: several-see-licences")
    lines += ["task_categories:", "- audio-classification"]
    lines += ["tags:", "- bioacoustics", "- audio", "- webdataset"]
    lines += ["size_categories:", f"- {size}"]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in stats["splits"]:
        lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(split + '/*.tar')}"]
    return "\n".join([*lines, "---", ""])


def _sources(facts: Facts) -> str:
    rows = [
        (source_name(share.name), *_numbers(share, people=True)) for share in facts.shares["source"]
    ]
    cited = [citation(share.name) for share in facts.shares["source"]]
    lines = [f"* {text.rstrip('.')}." for text in cited if text]
    table = _table(("source", "recordings", "hours", "species", "recordists"), rows)
    return "## Sources\n\n" + table + ("\n" + "\n".join(lines) + "\n" if lines else "")


def _taxa(facts: Facts) -> str:
    rows = []
    for share in facts.shares["class"]:
        rows.append((plain(share.name), *_numbers(share)))
        rows += [("– " + plain(p.name), *_numbers(p)) for p in share.parts[:_SHOWN_ORDERS]]
        if len(share.parts) > _SHOWN_ORDERS:
            rows.append((f"– {len(share.parts) - _SHOWN_ORDERS} more orders", "", "", ""))
    table = _table(("class, order", "recordings", "hours", "species"), rows)
    known = [share for share in facts.shares["country"] if share.name]
    where = ", ".join(f"{plain(s.name)} {s.recordings:,}" for s in known[:8])
    more = f", and {len(known) - 8:,} more" if len(known) > 8 else ""
    note = f"\nCountries by recordings: {where}{more}.\n" if known else ""
    return (
        "## Taxa\n\nBy the labels in the foreground; a recording of two classes counts in both.\n\n"
        + table
        + note
    )


def _numbers(share: Share, people: bool = False) -> tuple[str, ...]:
    row = (f"{share.recordings:,}", f"{share.hours:,.2f}", f"{share.species:,}")
    return (*row, f"{share.recordists:,}") if people else row


def _selection(facts: Facts) -> str:
    from dawnchorus.data_prep.report.findings import grids

    found = facts.findings
    if not found.selection and found.duplicates is None and found.leakage is None:
        return ""
    lines = ["## How the recordings were selected\n"]
    if found.duplicates is not None:
        kinds = ", ".join(f"{plain(k)} {n:,}" for k, n in found.duplicates.most_common())
        lines.append(f"* Duplicates dropped: {found.duplicates.total():,}" + _in_brackets(kinds))
    if found.leakage is not None and not found.compared:
        lines.append("* Not compared with any evaluation set.")
    elif found.leakage is not None:
        names = ", ".join(sorted({plain(name) for name, _ in found.leakage}))
        lines.append(
            f"* Removed because they occur in evaluation sets: {found.leaked:,}"
            + _in_brackets(names)
        )
    parts = ["\n".join(lines) + "\n"]
    tables, told = grids(found.selection)
    for table in tables:
        rows = [[plain(cell) for cell in row] for row in table.rows[:_SHOWN_SETTINGS]]
        parts.append(f"{table.title.capitalize()}:\n\n" + _table(table.columns, rows))
    settings = [(plain(name), plain(value)) for name, value in told]
    if settings:
        parts.append(_table(("setting", ""), settings[:_SHOWN_SETTINGS]))
    more = len(settings) - _SHOWN_SETTINGS
    if more > 0:
        parts.append(f"and {more:,} more in `selection.json`.\n")
    return "\n".join(parts)


def _in_brackets(text: str) -> str:
    return f" ({text})." if text else "."


def _limits(stats: Mapping[str, Any], facts: Facts | None) -> str:
    lines = []
    if facts is not None and facts.labels:
        ranks = Counter(label.rank or "no rank stated" for label in facts.labels)
        text = ", ".join(f"{plain(rank)} {count:,}" for rank, count in ranks.most_common())
        lines.append(f"* Labels are of several ranks: {text}." if len(ranks) > 1 else
                     f"* All labels are of one rank: {text}.")  # fmt: skip
        rare = sum(label.recordings < 10 for label in facts.labels)
        lines.append(f"* {rare:,} of {len(facts.labels):,} labels have fewer than 10 recordings.")
    if facts is not None and facts.background[0]:
        lines.append(
            f"* {facts.background[1]:,} mentions of {facts.background[0]:,} labels are in the "
            "background (`background_ids`); most archives name what else is heard only now and "
            "then, so a label that is missing does not say that the animal is silent."
        )
    else:
        lines.append(
            "* No background species are labelled: a label that is missing does not say that the "
            "animal is silent."
        )
    if KEY not in stats:
        lines.append(
            "* Labels hold for a recording, not for a moment: a piece of a long one may lack the "
            "sound that its label names."
        )
    if stats["rejected"]:
        lines.append(f"* Recordings left out: {stats['rejected']:,}{_reasons(stats)}.")
    return "## Known limits\n\n" + "\n".join(lines) + "\n"


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
            link(licence_name(url), url),
            f"{count:,}",
            f"{hours[url]:.2f}",
            f"{len(people[url] - {''}):,}",
        )
        for url, count in sorted(clips.items(), key=lambda item: (-item[1], item[0]))
    ]
    whole = "\n".join(f"* {text}" for text in permissions(hours))
    return (
        "## Licences\n\nEvery recording keeps the licence and the recordist it came with: "
        "`licences.parquet` says who recorded how much under which licence, the JSON beside every "
        "clip says it for that clip. Where a licence asks for credit, give it per recordist: "
        "`chorus data credits` prints the text.\n\n"
        + _table(("licence", "clips", "hours", "recordists"), rows)
        + f"\nWhat the mixture as a whole permits, the strictest part deciding:\n\n{whole}\n"
    )


def _label_table(stats: Mapping[str, Any]) -> str:
    counts = stats["clips_per_label"]
    if not counts:
        return "## Labels\n\nThe clips have no labels.\n"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(plain(name), f"{count:,}") for name, count in ranked[:_SHOWN_LABELS]]
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
## Places and times

{words(options.get("places")).capitalize()}. {_PLACES_NOTE}

## How it was made

Prepared by dawnchorus. Every recording was decoded, mixed to mono ({_channels(options)}),
resampled with soxr HQ, rounded to 16 bit and stored without loss;
{_levels(options)}.{_trimmed(stats)}
Recordings longer than {options["max_piece_s"]:g} s lie in equal pieces of at most that length.
Clips are in an order shuffled with seed {options["seed"]} in which those of one group lie far
apart.

* original formats: {codecs}
* original sample rates: {rates}
* recordings with the same audio as another: {same_audio_words(stats)}
* recordings that lost more than 20 dB in mixing and resampling (`mix_lost_db`,
  `resample_lost_db` of each are in `recordings.parquet`): {stats.get("weaker_recordings", 0):,}
  kept, {stats["rejected_reasons"].get("lost", 0):,} left out
* recordings left out as too faint: {stats["rejected_reasons"].get("faint", 0):,}; as too short:
  {stats["rejected_reasons"].get("too_short", 0):,}
* recordings with more than 0.1 % of samples at full scale: {stats["saturated_recordings"]:,}
"""


_PLACES_NOTE = """\
Where an archive obscured or generalised a place, it stands here as the
archive shows it; `uncertainty_m` in `recordings.parquet` and in the JSON of every clip says within
how many metres the true place lies, where that is known."""


def _channels(options: Mapping[str, Any]) -> str:
    return "the first channel" if options.get("channels") == "first" else "mean of its channels"


def _levels(options: Mapping[str, Any]) -> str:
    peak = options.get("peak_dbfs")
    if peak is None:
        return "levels were not changed"
    return f"each recording was brought to a peak of {peak:g} dBFS"


def _trimmed(stats: Mapping[str, Any]) -> str:
    seconds = stats["options"].get("trim_silence_s")
    if not seconds:
        return ""
    hours, count = stats.get("trimmed_hours", 0.0), stats.get("trimmed_recordings", 0)
    return (
        f" Silence longer than {seconds:g} s was cut out ({hours:.2f} h of {count:,} recordings)."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
