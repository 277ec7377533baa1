"""Lists the missing parts of a model card, each with the way to fill it."""

from __future__ import annotations

from collections.abc import Sequence

from dawnchorus.trainer.hub.card_config import CardConfig
from dawnchorus.trainer.hub.provenance import Ledger, Stage, title_of
from dawnchorus.trainer.licences import HUB_LICENCES, Licence
from dawnchorus.trainer.sound_folders import PREPARE_AGAIN


def wrong_name(card: CardConfig) -> list[str]:
    """Why the repository cannot have this name; empty if it can."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(str(card.repo_id))
        if str(card.repo_id).rsplit("/", 1)[-1] == "model":
            raise HFValidationError("the weights for avex would be called model.safetensors too")
    except HFValidationError as error:
        return [
            f"card.repo_id: {card.repo_id!r} will not do ({error}). Set card.repo_id to "
            "organisation/name"
        ]
    return []


def empty_card(card: CardConfig, data: Sequence[Licence]) -> list[str]:
    """Missing parts that only a person can fill in."""
    empty = []
    if not card.author:
        empty.append("card.author: set card.author to who publishes the model")
    if not card.licence:
        strange = sorted(
            {licence.text or "(none)" for licence in data if not licence.creative_commons}
        )
        why = f" (not understood: {', '.join(strange[:5])})" if strange else ""
        empty.append(
            f"card.licence: none follows from the data{why}. Set card.licence, for example to "
            "cc-by-nc-sa-4.0"
        )
    elif card.licence not in HUB_LICENCES:
        empty.append(
            f"card.licence: {card.licence!r} is no name that the Hub knows. Use one of "
            f"{', '.join(HUB_LICENCES)}"
        )
    elif card.licence == "other" and not (card.licence_name and card.licence_link):
        empty.append("card.licence_name and card.licence_link: card.licence=other needs both")
    return empty


def empty_data(stages: Sequence[Stage], book: Ledger, card: CardConfig) -> list[str]:
    """Missing parts that the ledger of the data should contain."""
    empty = []
    for stage in stages:
        if stage.external and not card.initial_weights:
            empty.append(
                f"card.initial_weights: training started from {stage.name}, which is not of this "
                "project. Say where it is from, what data it was trained on, and its licence"
            )
        if stage.problem:
            empty.append(
                f"data of {stage.kind} {stage.name!r}: {stage.problem}. Put the file back, or "
                "export where the run folder is"
            )
        for source in stage.sources:
            name = title_of(source)
            for part in ("licences", "recordists"):
                if not source.get(part):
                    empty.append(
                        f"{part} of {name!r} ({stage.name}): data.json has none. Its dataset "
                        f"needs licences.parquet: {PREPARE_AGAIN}"
                    )
            if not float(source.get("hours") or 0) > 0:
                empty.append(f"hours of {name!r} ({stage.name}): data.json says none")
    if any(stage.external or stage.problem is None for stage in stages) and not book.sources:
        empty.append("data: no stage names a source")
    for share in book.licences:
        if not share.licence.text:
            empty.append(
                f"licences: {share.clips} clips ({share.hours:.2f} h) have no licence. Give the "
                f"recordings one (column licence of metadata.csv), then {PREPARE_AGAIN}"
            )
    return empty
