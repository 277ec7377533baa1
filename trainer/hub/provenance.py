"""The origin of weights: every training stage behind them, its sound, and the recordists.

A post-trained model also owes credit for the sound of its pre-training. So the stages are followed
back through `init_from` and through what an objective listens to (a teacher, a tokenizer), and an
exported folder carries its whole history in `data.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.opening import load_json
from dawnchorus.trainer.hub.reading import OURS, Weights, read_weights
from dawnchorus.trainer.licences import Licence, read_licence
from dawnchorus.trainer.public import name_of
from dawnchorus.trainer.training.recorded_paths import recorded_path


@dataclass(frozen=True)
class Stage:
    """One training run, or weights that came from elsewhere."""

    name: str
    kind: str
    """One of "pre-training", "post-training", "supervised training" (from scratch), "weights from
    elsewhere"."""
    sources: tuple[dict[str, Any], ...] = ()
    """The sources as in `data.json`, without paths of this machine."""
    step: int | None = None
    clips_seen: int | None = None
    problem: str | None = None
    """Why the data of the stage is not known; None if it is known."""

    @property
    def external(self) -> bool:
        """Whether only a person can say where the weights come from."""
        return self.kind == "weights from elsewhere"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `data.json`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "step": self.step,
            "clips_seen": self.clips_seen,
            "sources": list(self.sources),
        }


def stages_of(path: str | Path) -> list[Stage]:
    """The stages behind some weights, oldest first; the last one made them.

    Args:
        path: anything that `load_model` reads.

    Raises:
        CheckpointError: the weights themselves cannot be read. Data that is not known is no error
            here: the stage says so in `problem`.
    """
    return stages_behind(read_weights(path))


def stages_behind(weights: Weights, seen: frozenset[Path] = frozenset()) -> list[Stage]:
    """`stages_of`, for weights that were read already. `seen` guards against a circle."""
    if weights.kind == "export":
        return _recorded(load_json(weights.file.parent / "data.json").get("stages"))
    if weights.kind not in OURS:
        return [Stage(weights.file.name, "weights from elsewhere")]
    recipe = weights.recipe or {}
    start = recipe.get("init_from")
    with_labels = "post-training" if start else "supervised training"
    kind = with_labels if weights.labels else "pre-training"
    sources: tuple[dict[str, Any], ...] = ()
    earlier: Any = None
    problem = None
    run = weights.run
    if run is None or not (run / "data.json").is_file():
        problem = f"there is no data.json beside the checkpoints of {weights.file}"
    else:
        record = load_json(run / "data.json")
        sources = tuple(_without_path(source) for source in record.get("sources") or ())
        earlier = record.get("earlier")
        if not sources:
            problem = f"{run / 'data.json'} names no sources"
    own = Stage(
        name=str(recipe.get("name", weights.file.parent.parent.name)),
        kind=kind,
        sources=sources,
        step=weights.step,
        clips_seen=weights.samples_seen,
        problem=problem,
    )
    if earlier:
        return [*_recorded(earlier), own]
    return [*_follow(start, run, seen | {weights.file.resolve()}), own] if start else [own]


def _follow(start: str, run: Path | None, seen: frozenset[Path]) -> list[Stage]:
    """The stages behind `init_from`, as far as they are still at hand."""
    place = recorded_path(start, run)
    if place is None:
        problem = f"init_from {start} is no longer there"
        return [Stage(name_of(start), "pre-training", problem=problem)]
    try:
        weights = read_weights(place)
    except CheckpointError as error:
        return [Stage(name_of(start), "pre-training", problem=str(error))]
    if weights.file.resolve() in seen:
        problem = f"init_from {start} leads back to where it came from"
        return [Stage(name_of(start), "pre-training", problem=problem)]
    return stages_behind(weights, seen)


def _recorded(stages: Any) -> list[Stage]:
    return [
        Stage(
            name=str(stage["name"]),
            kind=str(stage["kind"]),
            sources=tuple(_without_path(source) for source in stage.get("sources") or ()),
            step=stage.get("step"),
            clips_seen=stage.get("clips_seen"),
        )
        for stage in stages or ()
    ]


def _without_path(source: Mapping[str, Any]) -> dict[str, Any]:
    """The source with the name of its dataset instead of its path, which stays on this machine."""
    kept = {key: value for key, value in source.items() if key != "path"}
    if "path" in source:
        kept["dataset"] = name_of(str(source["path"]))
    return kept


def lineage(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The stages behind earlier weights as plain values, for `data.json` ("earlier") of a new run.

    Written down when the run starts, so that the credits survive the earlier runs' deletion.

    Args:
        paths: weights that the run starts from, and models that its objective listens to.
    """
    stages: list[Stage] = []
    for path in paths:
        try:
            stages += stages_of(path)
        except CheckpointError:  # a tokenizer of other people is no model
            stages.append(Stage(name_of(str(path)), "weights from elsewhere"))
    plain = [stage.to_dict() for stage in stages]
    return [stage for i, stage in enumerate(plain) if stage not in plain[:i]]


def to_json(stages: Sequence[Stage]) -> str:
    """`data.json` of an exported folder."""
    content = {"stages": [stage.to_dict() for stage in stages]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# --------------------------------------------------------------------------- the ledger


@dataclass(frozen=True)
class Share:
    """Sound under one licence, or of one recordist under one licence."""

    licence: Licence
    clips: int
    hours: float
    recordist: str = ""


@dataclass
class Ledger:
    """All the sound behind the weights, each source counted once."""

    licences: list[Share] = field(default_factory=list)
    """By hours, most first."""
    recordists: list[Share] = field(default_factory=list)
    """By licence (most hours first), then hours."""
    sources: list[tuple[str, int, float]] = field(default_factory=list)
    """(name, clips, hours)."""

    @property
    def hours(self) -> float:
        """Of all sources."""
        return sum(hours for _, _, hours in self.sources)

    @property
    def clips(self) -> int:
        """Of all sources."""
        return sum(clips for _, clips, _ in self.sources)


def ledger(stages: Sequence[Stage]) -> Ledger:
    """Add up the sources of all stages.

    A source that several stages use (pre-training on all of it, post-training on a fold) counts
    once, with its largest figures.

    Raises:
        CheckpointError: a source lacks its name, clips or hours.
    """
    totals: dict[tuple[str, ...], tuple[int, float]] = {}
    names: dict[tuple[str, ...], str] = {}
    by_licence: dict[tuple[str, ...], tuple[int, float]] = {}
    by_person: dict[tuple[str, ...], tuple[int, float]] = {}
    for stage in stages:
        for source in stage.sources:
            try:
                key = _identity(source)
                names.setdefault(key, title_of(source))
                _largest(totals, key, source)
                for row in source.get("licences") or ():
                    _largest(by_licence, (*key, _licence(row)), row)
                for row in source.get("recordists") or ():
                    who = _licence(row), str(row["recordist"] or "")
                    _largest(by_person, (*key, *who), row)
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"data.json of {stage.name}: a source cannot be read ({error!r}); it needs "
                    "name, clips, hours, licences and recordists, as training writes them"
                ) from None
    licences = _shares(by_licence)
    rank = {share.licence.text: i for i, share in enumerate(licences)}
    people = _shares(by_person)
    people.sort(key=lambda share: rank.get(share.licence.text, len(rank)))
    return Ledger(licences, people, [(names[key], *totals[key]) for key in totals])


def title_of(source: Mapping[str, Any]) -> str:
    """What people call a source: its dataset; a recipe may call it `main`."""
    return str(source.get("dataset") or source["name"])


def _identity(source: Mapping[str, Any]) -> tuple[str, str]:
    """The dataset behind a source: recipes may call one dataset by several names, and several
    datasets by one. The ledger of a dataset is the same whichever fold of it was used.
    """
    rows = source.get("licences") or [source]
    return title_of(source), str(sum(int(r["clips"]) for r in rows))


def _shares(table: Mapping[tuple[str, ...], tuple[int, float]]) -> list[Share]:
    """Sum over (dataset, size): (licence[, recordist]) -> one share each, most hours first."""
    sums: dict[tuple[str, ...], tuple[int, float]] = {}
    for (_, _, *key), (clips, hours) in table.items():
        before = sums.get(tuple(key), (0, 0.0))
        sums[tuple(key)] = (before[0] + clips, before[1] + hours)
    shares = [
        Share(read_licence(key[0]), clips, hours, key[1] if len(key) > 1 else "")
        for key, (clips, hours) in sums.items()
    ]
    return sorted(shares, key=lambda share: (-share.hours, share.recordist))


def _licence(row: Mapping[str, Any]) -> str:
    """The licence in one spelling; "" where none is stated."""
    return read_licence(row["licence_url"]).url


def _largest(table: dict[Any, tuple[int, float]], key: Any, row: Mapping[str, Any]) -> None:
    clips, hours = table.get(key, (0, 0.0))
    table[key] = (max(clips, int(row["clips"])), max(hours, float(row["hours"])))
