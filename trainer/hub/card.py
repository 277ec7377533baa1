"""The model card: collected from the run, refused while a required part is empty, and rendered.

A card with "[More Information Needed]" in it tells users nothing and leaves the recordists without
credit. So an empty required part stops the export, and the message lists all of them at once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dawnchorus import trainer
from dawnchorus.trainer.encoders.base_config import EncoderConfig
from dawnchorus.trainer.errors import CheckpointError, RecipeError
from dawnchorus.trainer.evaluation.embed import weights_digest
from dawnchorus.trainer.hub import licences
from dawnchorus.trainer.hub.card_config import CardConfig
from dawnchorus.trainer.hub.measurements import Evaluation, read_evaluations
from dawnchorus.trainer.hub.missing import empty_card, empty_data, wrong_name
from dawnchorus.trainer.hub.provenance import Ledger, Share, Stage, ledger, stages_behind, title_of
from dawnchorus.trainer.hub.reading import Weights
from dawnchorus.trainer.licences import Licence, read_licence
from dawnchorus.trainer.markdown import link, plain
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.public import without_places
from dawnchorus.trainer.registry import ENCODERS

logger = logging.getLogger(__name__)

CREDITS_IN_CARD = 40
"""Longer lists of recordists go to CREDITS.md; the card then names those with most hours."""
WARN_S = 60
"""From clips of this length on, in seconds, the exported model warns (`modeling_dawnchorus.py`)."""


@dataclass
class CardFacts:
    """Everything that the templates print."""

    card: CardConfig
    """With the licence filled in."""
    recipe: dict[str, Any]
    stages: list[Stage]
    ledger: Ledger
    evaluations: list[Evaluation]
    labels: tuple[str, ...] | None
    parameters: int
    encoder: dict[str, Any]
    step: int | None
    samples_seen: int | None
    averaged: bool
    avex: str
    """"full", "embeddings" (no classifier), or "no"."""
    conflicts: list[str] = field(default_factory=list)
    missing: list[str] | None = None
    """For a private export: the parts that publication would need. None: it may be published."""

    @property
    def repo_name(self) -> str:
        """The part of the repo id after the organisation."""
        return str(self.card.repo_id).rsplit("/", 1)[-1]

    @property
    def numbers(self) -> EncoderConfig:
        """The encoder's config."""
        return ENCODERS.config(self.encoder["name"])(**self.encoder)

    @property
    def scores(self) -> str:
        """The function from logits to scores: "softmax" if the loss used it, else "sigmoid"."""
        loss = (self.recipe.get("objective") or {}).get("loss")
        return "softmax" if loss == "softmax" and len(self.labels or ()) > 1 else "sigmoid"


def merge_card(
    recipe: Mapping[str, Any], given: CardConfig | Mapping[str, Any] | None, repo_id: str
) -> CardConfig:
    """The recipe's `card` section, overridden by the given fields; `repo_id` is a default.

    Raises:
        RecipeError: a field is unknown; the message lists the known ones.
    """
    if isinstance(given, CardConfig):
        given = {k: v for k, v in dataclasses.asdict(given).items() if v}
    fields = {f.name for f in dataclasses.fields(CardConfig)}
    merged = {**(recipe.get("card") or {}), **(given or {})}
    unknown = sorted(set(merged) - fields)
    if unknown:
        raise RecipeError(
            f"a model card has no {', '.join(unknown)}; its fields are {', '.join(sorted(fields))}"
        )
    for name in ("datasets", "tags"):
        if isinstance(merged.get(name), str):
            merged[name] = (merged[name],)
        elif name in merged:
            merged[name] = tuple(merged[name] or ())
    merged["repo_id"] = merged.get("repo_id") or repo_id
    return CardConfig(**merged)


def gather(
    weights: Weights,
    run: Path,
    card: CardConfig,
    model: BioEncoder,
    *,
    avex: str,
    private: bool = False,
) -> CardFacts:
    """Collect what the card says and refuse to go on while something required is empty.

    Args:
        weights: what is exported.
        run: the folder of its run.
        card: what only a person can say.
        model: the weights as a model.
        avex: see `CardFacts.avex`.
        private: for oneself: what is empty, and a licence that contradicts the data's, is written
            into the card instead.

    Raises:
        CheckpointError: lists every empty part and how to fill it; or the licence of the weights
            contradicts that of the data.
    """
    stages = stages_behind(weights)
    book = ledger(stages)
    evaluations, others = read_evaluations(run, weights_digest(model), weights.step)
    known = [share.licence for share in book.licences]
    suggested = licences.strictest(known)
    chosen = (card.licence or suggested or "").lower()
    filled = _without_places(dataclasses.replace(card, licence=chosen or None))
    empty = [*empty_card(filled, known), *empty_data(stages, book, filled)]
    if not evaluations:
        empty.append(_no_metrics(run, others))
    if not weights.recipe:
        empty.append(f"recipe: {weights.file} carries none. Export the run that made it")
    _refuse_empty(run, wrong_name(filled), [] if private else empty)
    for sentence in others:
        logger.warning("%s: not in the card", sentence)
    conflicts = licences.contradictions(chosen, known) if chosen else []
    if private:
        empty += conflicts
    elif not card.accept_licence_conflict:
        _refuse_conflicts(conflicts, suggested)
    return CardFacts(
        card=filled,
        recipe=dict(weights.recipe or {}),
        stages=stages,
        ledger=book,
        evaluations=[_named(evaluation) for evaluation in evaluations],
        labels=weights.labels,
        parameters=sum(p.numel() for p in model.parameters()),
        encoder=weights.encoder,
        step=weights.step,
        samples_seen=weights.samples_seen,
        averaged=weights.averaged,
        avex=avex,
        conflicts=conflicts,
        missing=[_without_run(line, run) for line in empty] if private else None,
    )


def _without_run(line: str, run: Path) -> str:
    """A sentence without folders; a relative path of the run looks like none, and is one."""
    given = str(run)
    return without_places(line.replace(given, run.resolve().name) if "/" in given else line)


def _no_metrics(run: Path, others: list[str]) -> str:
    """What is missing where nothing was measured; `others` says what was measured instead."""
    return (
        f"metrics: {run / 'evaluation'} holds no results of these weights. Run `chorus "
        f"evaluate {run} data=…`" + "".join(f"; {sentence}" for sentence in others)
    )


def _named(evaluation: Evaluation) -> Evaluation:
    """An evaluation whose sentences name datasets, not folders."""
    warnings = tuple(without_places(warning) for warning in evaluation.warnings)
    return dataclasses.replace(evaluation, warnings=warnings)


def _without_places(card: CardConfig) -> CardConfig:
    """The card's texts without folders of this machine."""
    texts = ("description", "limitations", "initial_weights", "citation")
    given: dict[str, Any] = {name: getattr(card, name) for name in texts}
    changes: dict[str, Any] = {k: without_places(text) for k, text in given.items() if text}
    return dataclasses.replace(card, **changes)


def _refuse_empty(run: Path, name: Sequence[str], empty: Sequence[str]) -> None:
    """Raise CheckpointError where the name will not do, or something is empty."""
    way_out = "\nFor a model that stays with you, give --private" if empty else ""
    empty = [*name, *empty]
    if empty:
        lines = "\n".join(f"  {line}" for line in empty)
        raise CheckpointError(
            f"the model card of {run} would have {len(empty)} empty part"
            f"{'s' if len(empty) > 1 else ''}; nothing was written:\n{lines}{way_out}"
        )


def _refuse_conflicts(conflicts: Sequence[str], suggested: str | None) -> None:
    """Raise CheckpointError where the licence of the weights contradicts that of the data."""
    if conflicts:
        lines = "\n".join(f"  {line}" for line in conflicts)
        raise CheckpointError(
            f"the licence of the weights contradicts that of the data:\n{lines}\n"
            f"Take {suggested or 'one that passes these terms on'} (card.licence), leave out that "
            "data, or, if you are sure that you may, set card.accept_licence_conflict=true; the "
            "card then says so"
        )


# --------------------------------------------------------------------------- printing


def render(facts: CardFacts) -> dict[str, str]:
    """README.md, LICENSE and, where the credits are long, CREDITS.md.

    Returns:
        File name -> text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dawnchorus.trainer.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; `cell` and `link` take care of what others wrote
    )
    environment.filters["cell"] = plain
    environment.filters["hours"] = _hours
    environment.filters["link"] = _link
    environment.filters["title_of"] = title_of
    long_credits = len(facts.ledger.recordists) > CREDITS_IN_CARD
    values = {
        "facts": facts,
        "version": trainer.__version__,
        "card": facts.card,
        "front_matter": front_matter(facts),
        "description": facts.card.description or describe(facts),
        "credits": _most_hours(facts.ledger.recordists, CREDITS_IN_CARD),
        "credits_by_licence": _by_licence(facts.ledger.recordists),
        "long_credits": long_credits,
        "licence_text": _licence_text(facts.card),
        "no_derivatives": _hours_with(facts.ledger.licences, "nd"),
        "not_understood": [s for s in facts.ledger.licences if not s.licence.creative_commons],
        "recipe_rows": _recipe_rows(facts),
        "window_s": (facts.recipe.get("data") or {}).get("window_s"),
        "warn_s": WARN_S,
    }
    files = {
        "README.md": environment.get_template("README.md.jinja").render(values),
        "LICENSE": environment.get_template("LICENSE.jinja").render(values),
    }
    if long_credits:
        files["CREDITS.md"] = environment.get_template("CREDITS.md.jinja").render(values)
    return files


def front_matter(facts: CardFacts) -> str:
    """The YAML header as the Hub reads it, without its `---` lines."""
    from huggingface_hub import EvalResult, ModelCardData

    card = facts.card
    task = "audio-classification" if facts.labels else "feature-extraction"
    figures = [m for evaluation in facts.evaluations for m in evaluation.measurements]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=m.dataset,
            dataset_name=m.dataset,
            metric_type=m.metric,
            metric_name=m.what,
            metric_value=round(m.value, 4),
        )
        for m in figures
    ]
    tags = ["audio", "bioacoustics", "animal-sounds", "dawnchorus", str(facts.encoder["name"])]
    data = ModelCardData(
        license=card.licence,
        license_name=card.licence_name,
        license_link=card.licence_link,
        library_name="transformers",
        pipeline_tag=task,
        tags=[*tags, *card.tags],
        datasets=list(card.datasets) or sorted({name for name, _, _ in facts.ledger.sources}),
        metrics=sorted({m.metric for m in figures}),
        model_name=facts.repo_name,
        eval_results=results,
    )
    header: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=100)


def describe(facts: CardFacts) -> str:
    """A sentence from the recipe, where the publisher gave none."""
    hours = _hours(facts.ledger.hours)
    count = facts.parameters
    size = f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
    title = ENCODERS.config(facts.encoder["name"]).title
    what = f"A {title} audio encoder ({size} parameters)"
    if facts.labels:
        before = " after self-supervised pre-training" if len(facts.stages) > 1 else ""
        labels = f"{len(facts.labels)} labels{before}"
        return f"{what}, trained to recognise {labels}, on {hours} h of sound."
    return f"{what}, pre-trained without labels on {hours} h of sound."


def _recipe_rows(facts: CardFacts) -> list[tuple[str, str]]:
    recipe, encoder = facts.recipe, facts.encoder
    rows: list[tuple[str, object]] = [
        ("Objective", (recipe.get("objective") or {}).get("name", "–")),
        ("Encoder", ENCODERS.config(encoder["name"]).title),
        *facts.numbers.summary().items(),
        ("Optimiser steps", facts.step),
        ("Clips seen", facts.samples_seen),
        ("Clips per step", (recipe.get("train") or {}).get("global_batch")),
        ("Learning rate", (recipe.get("optim") or {}).get("lr")),
        ("Precision", (recipe.get("train") or {}).get("precision")),
        ("Seed", recipe.get("seed")),
        (
            "Weights",
            "exponential moving average" if facts.averaged else "of that step, not averaged",
        ),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _most_hours(shares: Sequence[Share], most: int) -> list[Share]:
    """Those with most hours, in the order they came in."""
    chosen = sorted(shares, key=lambda share: -share.hours)[:most]
    return [share for share in shares if share in chosen]


def _by_licence(shares: Sequence[Share]) -> list[tuple[Licence, list[Share]]]:
    """Grouped, in the order they came in."""
    groups: dict[Licence, list[Share]] = {}
    for share in shares:
        groups.setdefault(share.licence, []).append(share)
    return list(groups.items())


def _link(licence: Licence) -> str:
    """A licence as Markdown, with a link where the data gave one."""
    if not licence.creative_commons or "//" not in licence.url:
        return plain(licence.name)
    return link(licence.name, licence.url)


def _hours_with(shares: Sequence[Share], term: str) -> float:
    return sum(share.hours for share in shares if term in share.licence.terms)


def _licence_text(card: CardConfig) -> str:
    if not card.licence:
        return "no licence: they are not for publication"
    if card.licence == "other":
        return f"[{card.licence_name}]({card.licence_link})"
    return read_licence(str(card.licence)).name


def _hours(value: float) -> str:
    """Hours, so that a small share does not read as none."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"
