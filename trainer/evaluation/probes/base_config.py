"""What every probe's config says, beside its own numbers. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

Needs = Literal["pooled", "layers", "tokens", "layer_tokens"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """A classifier on frozen embeddings.

    A subclass is a frozen dataclass with a docstring under each field, its `name` among them
    (`name: Literal["mine"] = "mine"`).
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    title: ClassVar[str] = ""
    """The probe as people name it, in cards and tables: `Linear probe`. Empty: `NAME probe`."""

    needs: ClassVar[Needs] = "pooled"
    """What it reads of each clip. `pooled`: one embedding, [N, D]. `layers`: one of each layer,
    [N, L, D]. `tokens`, `layer_tokens`: a `TokenSource` of one layer or of several."""
    unit: ClassVar[str] = "epochs"
    """What the progress bar counts."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Which probe."""

    standardise: bool = True
    """Centre and scale every feature by its mean and standard deviation on the probe's own
    training part. False is the paper's protocol; true lets a probe use features of small
    variance, which matters on small data. The log-mel baseline is always standardised: its
    features have units, an encoder's do not."""

    @property
    def fits(self) -> int:
        """Fits per fold, with seeds 0, 1, ...; one where nothing is drawn."""
        return 1

    @property
    def mixes_layers(self) -> bool:
        """Whether a probe that needs one embedding can take those of all layers too, [N, L, D]."""
        return False

    @property
    def work(self) -> int:
        """Ticks of the progress bar per fold: how often `Probe.measure` calls `advance`."""
        return 1
