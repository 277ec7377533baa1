"""The model for `transformers`: waveform in, embeddings (and class logits) out.

    from transformers import AutoModel
    model = AutoModel.from_pretrained("<this repository>", trust_remote_code=True)
    embedding_BD = model(wav_BT).pooler_output

Shipped inside exported repositories beside `beats.py`, `beats_config.py` and `frontend.py`; needs
torch and transformers, nothing else.

Shape legend: B clips, T samples, N tokens, D channels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

# These lie beside this file once it is exported.
from .beats import Beats  # type: ignore[import-not-found, import-untyped, unused-ignore]
from .beats_config import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    BeatsConfig,
)
from .frontend import LogMel  # type: ignore[import-not-found, import-untyped, unused-ignore]


class DawnchorusConfig(PretrainedConfig):  # type: ignore[misc]
    """The numbers of encoder and front end, and whether there is a head.

    Args:
        encoder: `name` and the fields of `BeatsConfig`; the front end's numbers are among them.
        classification_head: whether a linear head maps the mean token to `id2label`.
    """

    model_type = "dawnchorus"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        classification_head: bool = False,
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {"name": "beats"})
        self.classification_head = classification_head
        super().__init__(**kwargs)

    @property
    def sampling_rate(self) -> int:
        """The rate that `input_values` must have, in Hz."""
        return int(self.encoder_config().sample_rate_hz)

    @property
    def hidden_size(self) -> int:
        """Channels of a token and of the embedding."""
        return int(self.encoder_config().dim)

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of the encoder."""
        return int(self.encoder_config().layers)

    def encoder_config(self) -> BeatsConfig:
        """The encoder's own config object."""
        name = self.encoder.get("name", "beats")
        if name != "beats":
            raise ValueError(f"config.json names the encoder {name!r}; this file builds 'beats'")
        return BeatsConfig(**{key: value for key, value in self.encoder.items() if key != "name"})


@dataclass
class DawnchorusOutput(ModelOutput):  # type: ignore[misc]
    """What the model answers."""

    last_hidden_state: Tensor | None = None
    """Tokens [B, N, D] of the last block; unspecified where `token_mask` is false."""
    pooler_output: Tensor | None = None
    """The embedding [B, D]: mean over the valid tokens, float32."""
    logits: Tensor | None = None
    """[B, C], one per class of `id2label`; None without a head."""
    token_mask: Tensor | None = None
    """Bool [B, N]: which tokens are sound rather than padding."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The input of the first block, then the output of each block, when asked for."""


class DawnchorusModel(PreTrainedModel):  # type: ignore[misc]
    """Log-mel front end, encoder, and a linear head where the model was trained with labels."""

    config_class = DawnchorusConfig
    base_model_prefix = "dawnchorus"
    main_input_name = "input_values"
    # A log-mel in half precision is off by more than the rest of the network together.
    _keep_in_fp32_modules_strict = ["frontend"]  # noqa: RUF012
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: DawnchorusConfig) -> None:
        super().__init__(config)
        encoder_config = config.encoder_config()
        self.frontend = LogMel.for_encoder(encoder_config)
        self.encoder = Beats(encoder_config)
        self.head: nn.Linear | None = None
        if config.classification_head:
            self.head = nn.Linear(encoder_config.dim, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Encoder and front end initialise themselves when they are built and are complete in every
        # checkpoint; only a head of another size (a new label set) is left for us to fill.
        if module is self.head and self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As everywhere in transformers, but an encoder that is only partly loaded is an error."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        lost = [
            f"{what.removesuffix('_keys')} {key}"
            for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
            for key in sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[what])
            if not key.startswith("head.")
        ]
        if lost:
            raise ValueError(
                "the weights do not fit the model that config.json describes: "
                + ", ".join(lost[:10])
                + (f", … ({len(lost)} in all)" if len(lost) > 10 else "")
            )
        return (model, info) if wants_info else model

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DawnchorusOutput | tuple[Any, ...]:
        """Encode a batch of clips.

        Args:
            input_values: waveforms [B, T], float in [-1, 1], at `config.sampling_rate`; shorter
                clips padded on the right.
            attention_mask: [B, T], 1 for sound, then 0 for padding.
            lengths: [B], samples of each clip; the same as a mask, and cheaper.
            output_hidden_states: also return the output of every block.
            return_dict: false for a plain tuple.

        Raises:
            ValueError: wrong shapes, padding on the left, or both a mask and lengths.
        """
        if input_values.dim() != 2:
            raise ValueError(
                f"input_values must be [clips, samples], not {tuple(input_values.shape)}: "
                "mix channels down and add a batch dimension"
            )
        if attention_mask is not None:
            if lengths is not None:
                raise ValueError("give attention_mask or lengths, not both")
            lengths = lengths_of(attention_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        mel_BTF, frames_B = self.frontend(input_values.float(), lengths)
        weight = self.encoder.patch_embedding.weight
        out = self.encoder(mel_BTF.to(weight.dtype), frames_B, layers=bool(output_hidden_states))
        embedding_BD = masked_mean(out.tokens_BND, out.valid_BN)
        logit_BC = None
        if self.head is not None:
            logit_BC = self.head(embedding_BD.to(self.head.weight.dtype))
        output = DawnchorusOutput(
            last_hidden_state=out.tokens_BND,
            pooler_output=embedding_BD,
            logits=logit_BC,
            token_mask=out.valid_BN,
            hidden_states=tuple(out.layers) if out.layers is not None else None,
        )
        return output.to_tuple() if return_dict is False else output


def lengths_of(attention_mask_BT: Tensor) -> Tensor:
    """Samples of each clip, int64 [B]; refuses masks with padding before or inside the sound."""
    sound_BT = attention_mask_BT.bool()
    if bool((sound_BT[:, 1:] & ~sound_BT[:, :-1]).any()):
        raise ValueError("attention_mask has padding before or inside the sound: pad on the right")
    return sound_BT.sum(1)


def masked_mean(tok_BND: Tensor, valid_BN: Tensor) -> Tensor:
    """Mean over the valid tokens of each clip, float32 [B, D]."""
    weight_BN1 = valid_BN.unsqueeze(-1).to(torch.float32)
    return (tok_BND.float() * weight_BN1).sum(1) / weight_BN1.sum(1).clamp(min=1.0)
