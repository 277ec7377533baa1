"""The recipe of a selection: what is taken from which tables, how much, and how it is split.

Every key has a description; `recipe_file.describe_keys` prints them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from dawnchorus.data_prep.table.recording import RANKS
from dawnchorus.trainer.licences import GROUPS, KINDS, LicenceChoice
from dawnchorus.trainer.recorded import Recorded

LICENCE_WORDS = (*KINDS, *GROUPS)
QUALITIES = ("A", "B", "C", "D", "E")


def _known_licences(words: list[str]) -> list[str]:
    unknown = [word for word in words if word not in LICENCE_WORDS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not one of {', '.join(LICENCE_WORDS)}")
    return words


def _known_ranks(words: list[str]) -> list[str]:
    unknown = [word for word in words if word not in RANKS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not one of {', '.join(sorted(RANKS))}")
    return words


def _without_nulls(found: Any) -> Any:
    """`tables.NAME=null` takes one out of a shipped recipe, as `~tables.NAME` does."""
    if isinstance(found, dict):
        return {name: value for name, value in found.items() if value is not None}
    return found


LicenceWords = Annotated[list[str], AfterValidator(_known_licences)]
RankWords = Annotated[list[str], AfterValidator(_known_ranks)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableChoice(_Part):
    """One recording table. At most one of hours, share and recordings."""

    table: Path = Field(description="recordings.parquet or its folder")
    audio: Path | None = Field(
        None, description="folder that the table's paths start from; default: the table's folder"
    )
    hours: float | None = Field(None, gt=0, description="take about this many hours")
    share: float | None = Field(
        None, gt=0, le=1, description="part of the hours of all tables; all tables have one or none"
    )
    recordings: int | None = Field(None, gt=0, description="take this many recordings")

    @model_validator(mode="after")
    def _one_amount(self) -> TableChoice:
        given = [n for n in ("hours", "share", "recordings") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other: give one")
        return self


class Licences(_Part):
    """Licences of the audio. A recording must be in `allow` (where given) and not in `deny`.

    What permits nothing passes no `deny`; what is not stated or not understood as `keep_unknown`
    says. A text that speaks of what is denied never passes.
    """

    allow: LicenceWords | None = Field(
        None, description=f"only these; words: {', '.join(LICENCE_WORDS)}"
    )
    deny: LicenceWords = Field(
        default_factory=lambda: ["all-rights-reserved"], description="none of these, same words"
    )
    keep_unknown: bool = Field(
        True,
        description="keep what states no licence, or one that is not understood, whatever `deny` "
        "says; false as soon as `deny` is written, unless `allow` names `unknown`",
    )

    @model_validator(mode="before")
    @classmethod
    def _strict_where_something_is_denied(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("keep_unknown") is None:
            named = "unknown" in (data.get("allow") or ())
            return data | {"keep_unknown": named or data.get("deny") is None}
        return data

    @property
    def choice(self) -> LicenceChoice:
        """For one licence at a time."""
        allow = None if self.allow is None else frozenset(self.allow)
        return LicenceChoice(allow, frozenset(self.deny), self.keep_unknown)


class Quality(_Part):
    """The archive's own rating."""

    at_least: Literal["A", "B", "C", "D", "E"] | None = Field(
        None, description="A is best; B takes A and B"
    )
    unknown: bool = Field(True, description="also take recordings without a rating")


class Duration(_Part):
    """Of the original recording, in seconds."""

    min_s: float = Field(0.0, ge=0, description="shorter ones are left out")
    max_s: float | None = Field(None, gt=0, description="longer ones are left out")
    unknown: bool = Field(
        True, description="also take recordings whose length neither table nor file tells"
    )

    @model_validator(mode="after")
    def _order(self) -> Duration:
        if self.max_s is not None and self.max_s < self.min_s:
            raise ValueError(f"max_s ({self.max_s:g}) is below min_s ({self.min_s:g})")
        return self


class Filters(_Part):
    """Conditions on a recording. Empty lists set none."""

    licences: Licences = Field(default_factory=Licences, description="licences of the audio")
    quality: Quality = Field(default_factory=Quality, description="the archive's own rating")
    duration: Duration = Field(
        default_factory=Duration, description="of the original recording, in seconds"
    )
    sources: list[str] = Field(default_factory=list, description="only these (xc, inat, ...)")
    not_sources: list[str] = Field(default_factory=list, description="none of these")
    ranks: RankWords = Field(
        default_factory=list, description="at least one foreground label of one of these ranks"
    )
    sound_types: list[str] = Field(
        default_factory=list, description="at least one of these words in sound_type (song, call)"
    )
    not_sound_types: list[str] = Field(default_factory=list, description="none of these words")
    taxa: list[str] = Field(
        default_factory=list,
        description="a foreground label is one of these names or belongs to one (genus by name; "
        "family, order, class, phylum, kingdom where the labels' ids state them)",
    )
    not_taxa: list[str] = Field(
        default_factory=list,
        description="no foreground label is one of these names or belongs to one",
    )
    labelled: bool = Field(True, description="leave out recordings without a foreground label")


class Caps(_Part):
    """Limits on amounts. Which recordings stay is decided by a hash of their ids."""

    per_recordist: int | None = Field(None, gt=0, description="recordings of one person")
    per_class: int | None = Field(
        None,
        gt=0,
        description="recordings of one foreground label; one with several labels stays when it is "
        "among the first of any of them",
    )
    min_per_class: int = Field(
        0, ge=0, description="labels with fewer recordings are taken off; so are recordings "
        "without another label"
    )  # fmt: skip


class Duplicates(_Part):
    """Several recordings of the same sound."""

    same_id: bool = Field(True, description="find rows with one id, or one archive number")
    same_samples: bool = Field(True, description="find equal decoded samples (reads all audio)")
    near: bool = Field(True, description="find copies in another codec, rate, level, cut")
    distinct_sources: list[str] = Field(
        default_factory=lambda: ["audioset"],
        description="sources of which no recording is a near copy of another of the same source "
        "(AudioSet has one clip of a video): not searched against themselves; equal samples are "
        "found all the same",
    )
    action: Literal["drop", "keep"] = Field(
        "drop", description="drop all but one, or keep them together in one part of the split"
    )
    prefer: tuple[Literal["licence", "quality", "duration"], ...] = Field(
        ("licence", "quality", "duration"),
        description="which one stays: the freest licence, the best rating, the longest, the least "
        "id",
    )
    min_part: float = Field(
        0.5, gt=0, le=1, description="share of the dropped recording that must be in the other one"
    )


class Evaluation(_Part):
    """A set that must not be trained on."""

    path: Path = Field(
        description="recording table, folder of one, dataset of `chorus prep shards`, or a folder "
        "of audio files"
    )
    audio: Path | None = Field(None, description="folder that the table's paths start from")
    same_id: bool = Field(True, description="by id or archive number, also across archives")
    same_samples: bool = Field(True, description="by equal decoded samples")
    near: bool = Field(True, description="by fingerprint")
    same_event: bool = Field(
        False, description="by one species, day and recordist, whatever the archive (weak rule)"
    )


class Held(_Part):
    """What must not be trained on."""

    sets: Annotated[dict[str, Evaluation], BeforeValidator(_without_nulls)] = Field(
        default_factory=dict, description="by name"
    )
    species: list[str] = Field(
        default_factory=list, description="no recording with one of these labels, in any role"
    )
    species_file: Path | None = Field(None, description="text file with such names, one a line")


class Split(_Part):
    """Which recording goes into which part. A hash of the group decides, so data added later moves
    nothing.
    """

    parts: dict[str, float] = Field(
        default_factory=lambda: {"train": 1.0},
        description="name: share; {} keeps the tables' own splits",
    )
    folds: int = Field(0, ge=0, description="number of folds; 0 keeps the tables' own")
    cover: str | None = Field(
        None,
        description="part that every class must occur in: of a class that would miss it, the group "
        "with the least hash goes there",
    )
    by: Literal["group", "recordist", "recording"] = Field(
        "group", description="what is never divided: group_id, all of a person, or one recording"
    )
    salt: str = Field("0", description="another salt gives another split")
    previous: Path | None = Field(
        None, description="an earlier selection: its groups stay where they are"
    )

    @field_validator("parts")
    @classmethod
    def _sum(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (min(value.values()) < 0 or abs(sum(value.values()) - 1) > 1e-6):
            raise ValueError(f"shares must not be negative and sum to 1 (they: {value})")
        bad = [name for name in value if not name.replace("-", "").replace("_", "").isalnum()]
        if bad:
            raise ValueError(f"{bad}: names of letters, digits, '_' and '-' only")
        return value

    @field_validator("folds")
    @classmethod
    def _not_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("0 (none) or at least 2")
        return value

    @model_validator(mode="after")
    def _cover_is_a_part(self) -> Split:
        if self.cover is not None and self.cover not in self.parts:
            raise ValueError(f"cover: {self.cover!r} is none of the parts {list(self.parts)}")
        return self


class Run(_Part):
    """How the work is done, without influence on the result."""

    jobs: int = Field(0, ge=0, description="processes; 0: one per core")
    cache: Path | None = Field(None, description="folder of fingerprints; default: OUT/cache")
    max_fingerprint_s: float = Field(
        600.0, ge=10, description="fingerprint only this much of a recording's beginning"
    )


class SelectRecipe(_Part, Recorded):
    """All that decides what is selected."""

    tables: Annotated[dict[str, TableChoice], BeforeValidator(_without_nulls)] = Field(
        min_length=1, description="by a name of your choice"
    )
    filters: Filters = Field(default_factory=Filters, description="conditions on a recording")
    caps: Caps = Field(default_factory=Caps, description="limits on amounts")
    duplicates: Duplicates = Field(
        default_factory=Duplicates, description="several recordings of the same sound"
    )
    evaluation: Held = Field(default_factory=Held, description="what must not be trained on")
    split: Split = Field(default_factory=Split, description="who goes where")
    run: Run = Field(
        default_factory=Run, description="how the work is done, without influence on the result"
    )

    @model_validator(mode="after")
    def _shares(self) -> SelectRecipe:
        shares = {name: t.share for name, t in self.tables.items() if t.share is not None}
        if shares and (len(shares) < len(self.tables) or abs(sum(shares.values()) - 1) > 1e-6):
            raise ValueError(
                f"tables: shares must be given to all tables and sum to 1 (given: {shares})"
            )
        return self

    @property
    def hears(self) -> bool:
        """The audio has to be read."""
        sets = self.evaluation.sets.values()
        own = self.duplicates.same_samples or self.duplicates.near
        return own or any(s.same_samples or s.near for s in sets)
