"""What a recipe may name, and where it is found; nothing is imported before it is asked for.

An entry has two halves: a config, which needs no torch, so that recipes can be checked and jobs
submitted without it; and the class that is built from it.
"""

from __future__ import annotations

import difflib
from dataclasses import make_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union

from pydantic import Discriminator, Tag

if TYPE_CHECKING:
    from torch import nn

    from dawnchorus.trainer.encoders.base import Encoder
    from dawnchorus.trainer.encoders.base_config import EncoderConfig
    from dawnchorus.trainer.evaluation.probes.base import Probe
    from dawnchorus.trainer.evaluation.probes.base_config import ProbeConfig
    from dawnchorus.trainer.frontends.frontend import Frontend
    from dawnchorus.trainer.objectives.base import Objective
    from dawnchorus.trainer.objectives.base_config import ObjectiveConfig
    from dawnchorus.trainer.objectives.tokenizers.base import Tokenizer
    from dawnchorus.trainer.training.loggers.base import Logger

HERE = __name__.rpartition(".")[0]
Thing = TypeVar("Thing")
Config = TypeVar("Config")


def load(place: str) -> Any:
    """What `module:Name` says; a module that begins with a dot is inside `trainer`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module, HERE), name)


class Registry(Generic[Config, Thing]):
    """Names of one kind of thing.

    Args:
        kind: what they are, for messages.
        entries: name -> (config, class), each as `module:Name`.
    """

    def __init__(self, kind: str, entries: dict[str, tuple[str, str]]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def add(self, name: str, config: str, thing: str) -> None:
        """Make one more known; see `trainer.recipe.rebuild` for those that a recipe names."""
        self._entries[name] = (config, thing)

    def remove(self, name: str) -> None:
        """Forget one."""
        del self._entries[name]

    def config(self, name: str) -> type[Config]:
        """The config class of a name; imports no torch. Raises ValueError for an unknown name."""
        found: type[Config] = load(self._entry(name)[0])
        return found

    def thing(self, name: str) -> type[Thing]:
        """The class of a name. Raises ValueError for an unknown name."""
        found: type[Thing] = load(self._entry(name)[1])
        return found

    def union(self, default: str | None = None) -> Any:
        """The type of a recipe's section: one of the configs, told apart by its `name`.

        Args:
            default: which one a section without a name stands for; None: the name is required.
        """
        kinds = tuple(self.config(name) for name in self._entries)
        if len(kinds) == 1:
            return kinds[0]
        if default is None:
            return Annotated[Union[kinds], Discriminator("name")]  # noqa: UP007

        def name_of(section: Any) -> Any:
            if isinstance(section, dict):
                return section.get("name", default)
            return getattr(section, "name", None)

        tagged = tuple(Annotated[self.config(name), Tag(name)] for name in self._entries)
        chosen = Discriminator(
            name_of,
            custom_error_type="unknown_name",
            custom_error_message=f"there is no {self.kind} of that name; there are: "
            + ", ".join(self.names()),
        )
        return Annotated[Union[tagged], chosen]  # noqa: UP007

    def together(self, name: str, settings: dict[str, Any]) -> Any:
        """A frozen dataclass that has the keys of every config side by side.

        Args:
            name: what it is called.
            settings: attributes of the class, such as its docstring.
        """
        # A dataclass has the fields of its last base first.
        configs = tuple(self.config(entry) for entry in reversed(self._entries))
        return make_dataclass(
            name, [], bases=configs, namespace=settings, frozen=True, kw_only=True
        )

    def _entry(self, name: str) -> tuple[str, str]:
        if name not in self._entries:
            close = difflib.get_close_matches(str(name), self._entries, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"there is no {self.kind} {name!r}.{hint} There are: {', '.join(self.names())}"
            )
        return self._entries[name]


ENCODERS: Registry[EncoderConfig, Encoder] = Registry(
    "encoder",
    {
        "beats": (".encoders.beats_config:BeatsConfig", ".encoders.beats:Beats"),
        "efficientnet": (
            ".encoders.efficientnet_config:EfficientNetConfig",
            ".encoders.efficientnet:EfficientNet",
        ),
        "hubert": (".encoders.hubert_config:HubertConfig", ".encoders.hubert:Hubert"),
        "vit": (".encoders.vit_config:VitConfig", ".encoders.vit:Vit"),
    },
)

OBJECTIVES: Registry[ObjectiveConfig, Objective] = Registry(
    "objective",
    {
        "masked_tokens": (
            ".objectives.masked_tokens_config:MaskedTokensConfig",
            ".objectives.masked_tokens:MaskedTokens",
        ),
        "masked_units": (
            ".objectives.masked_units_config:MaskedUnitsConfig",
            ".objectives.masked_units:MaskedUnits",
        ),
        "multilabel": (
            ".objectives.multilabel_config:MultiLabelConfig",
            ".objectives.multilabel:MultiLabel",
        ),
        "reconstruction": (
            ".objectives.reconstruction_config:ReconstructionConfig",
            ".objectives.reconstruction:Reconstruction",
        ),
        "tokenizer_distillation": (
            ".objectives.tokenizer_distillation_config:TokenizerDistillationConfig",
            ".objectives.tokenizer_distillation:TokenizerDistillation",
        ),
        "utterance_frame": (
            ".objectives.utterance_frame_config:UtteranceFrameConfig",
            ".objectives.utterance_frame:UtteranceFrame",
        ),
    },
)

TOKENIZERS: Registry[Any, Tokenizer] = Registry(
    "tokenizer",
    {
        "learned": (
            ".objectives.tokenizers.learned_config:LearnedConfig",
            ".objectives.tokenizers.learned:LearnedTokenizer",
        ),
        "random_projection": (
            ".objectives.tokenizers.random_projection_config:RandomProjectionConfig",
            ".objectives.tokenizers.random_projection:RandomProjectionTokenizer",
        ),
    },
)

PROBES: Registry[ProbeConfig, Probe[Any]] = Registry(
    "probe",
    {
        "attentive": (
            ".evaluation.probes.attentive_config:AttentiveConfig",
            ".evaluation.probes.attentive:Attentive",
        ),
        "attentive_layers": (
            ".evaluation.probes.attentive_config:AttentiveLayersConfig",
            ".evaluation.probes.attentive:AttentiveLayers",
        ),
        "layer_mix": (
            ".evaluation.probes.linear_config:LayerMixConfig",
            ".evaluation.probes.linear:Linear",
        ),
        "linear": (
            ".evaluation.probes.linear_config:LinearConfig",
            ".evaluation.probes.linear:Linear",
        ),
        "mlp": (".evaluation.probes.mlp_config:MlpConfig", ".evaluation.probes.mlp:Mlp"),
        "prototypes": (
            ".evaluation.probes.prototypes_config:PrototypesConfig",
            ".evaluation.probes.prototypes:Prototypes",
        ),
        "ridge": (".evaluation.probes.ridge_config:RidgeConfig", ".evaluation.probes.ridge:Ridge"),
    },
)

LOGGERS: Registry[Any, Logger] = Registry(
    "logger",
    {
        "wandb": (".training.loggers.wandb_config:WandbConfig", ".training.loggers.wandb:Wandb"),
        "tensorboard": (
            ".training.loggers.tensorboard_config:TensorBoardConfig",
            ".training.loggers.tensorboard:TensorBoard",
        ),
    },
)
"""Their keys stand side by side in the section `log`, each called after its logger."""

CPU_KERNELS = {
    "beats": ".encoders.beats_cpu:quicken",
    "hubert": ".encoders.hubert_cpu:quicken",
}
"""Encoder -> what makes a module's layers of its kind train faster on a CPU. The encoder's own file
works without; it is never part of an exported model."""

FRONTENDS = {
    "beats": ".frontends.kaldi:BeatsLogMel",
    "eat": ".frontends.kaldi:EatLogMel",
    "mel_db": ".frontends.mel_db:MelDb",
    "minmax_mel": ".frontends.minmax_mel:MinMaxMel",
    "waveform": ".frontends.waveform:Waveform",
}
"""Name, as an encoder's config has it in `frontend` -> class."""


def build_encoder(section: dict[str, Any] | EncoderConfig) -> Encoder:
    """An encoder from its config, or from the `encoder` section of a recipe.

    Raises:
        ValueError: there is no such encoder, or its numbers are impossible.
        TypeError: a field that its config does not have.
    """
    if isinstance(section, dict):
        section = ENCODERS.config(str(section.get("name")))(**section)
    return ENCODERS.thing(section.name)(section)


def quicken_on_cpu(encoder: str, *modules: nn.Module) -> None:
    """Let layers of an encoder's kind, wherever in `modules`, train faster on a CPU, if they can.

    Args:
        encoder: its name.
        modules: a model, or an objective with a stack of such layers.
    """
    if encoder in CPU_KERNELS:
        quicken = load(CPU_KERNELS[encoder])
        for module in modules:
            quicken(module)


def build_frontend(config: EncoderConfig) -> Frontend:
    """The front end that an encoder's config asks for, with the config's numbers.

    Raises:
        ValueError: there is no such front end.
    """
    if config.frontend not in FRONTENDS:
        raise ValueError(
            f"there is no front end {config.frontend!r}; there are: {', '.join(sorted(FRONTENDS))}"
        )
    frontend: Frontend = load(FRONTENDS[config.frontend]).from_config(config)
    return frontend


def needs_labels(objective: object) -> bool:
    """Whether an objective learns from labels, by its name in a recipe.

    One that is not known here, of a later version say, counts as one that does: a score that may
    measure memory must not pass for one that does not.
    """
    return str(objective) not in OBJECTIVES or OBJECTIVES.config(str(objective)).needs_labels
