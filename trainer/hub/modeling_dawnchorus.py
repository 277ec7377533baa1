"""The model for `transformers`: waveform in, embeddings (and class logits) out.

    from transformers import AutoModel
    model = AutoModel.from_pretrained("<this repository>", trust_remote_code=True)
    embedding_BD = model(wav_BT).pooler_output

An exported repository has this file, and beside it the files of the encoder and the front end,
which `parts.py` names. It needs transformers and what those files import (torch; some of them timm
or torchaudio).

Shape legend: B clips, T samples, N tokens, D channels, C classes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, cached_file, logging

# These lie beside this file once it is exported.
from .parts import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    EncoderModel,
    EncoderNumbers,
    FrontendModel,
)
from .pooling import STATISTICS, pool  # type: ignore[import-not-found, import-untyped, unused-ignore]

LOUDEST = 16.0
"""Sound in [-1, 1] may overshoot a little. A larger sample was not scaled at all."""
WARN_S = 60.0
"""Clips of this length or longer raise a warning, because attention takes memory by the square."""
KEPT = ("README.md", "CREDITS.md", "LICENSE", "preprocessor_config.json", "data.json")
"""Files of the repository that `save_pretrained` copies."""

logger = logging.get_logger(__name__)


class DawnchorusConfig(PretrainedConfig):  # type: ignore[misc]
    """The numbers of the encoder and the front end, and whether there is a head.

    Args:
        encoder: `name` and the other fields of the encoder's config, which include the front end's.
        classification_head: whether a linear head maps the pooled tokens to `id2label`.
        pooling: what the head sees of the tokens: `mean`, `mean_std`, `mean_std_max` or `cls`.
    """

    model_type = "dawnchorus"
    # `Trainer` passes the other outputs to its metrics: the logits alone.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "last_hidden_state", "pooler_output", "token_mask", "hidden_states",
    ]  # fmt: skip

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        classification_head: bool = False,
        pooling: str = "mean",
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {})
        self.classification_head = classification_head
        self.pooling = pooling
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
        return int(getattr(self.encoder_config(), "layers", 0))

    def encoder_config(self) -> Any:
        """The encoder's own config object."""
        return EncoderNumbers(**self.encoder)


@dataclass
class DawnchorusOutput(ModelOutput):  # type: ignore[misc]
    """The output of the model."""

    loss: Tensor | None = None
    """Mean over the clips, float32; None without `labels`."""
    last_hidden_state: Tensor | None = None
    """Tokens [B, N, D] of the last block; unspecified where `token_mask` is false."""
    pooler_output: Tensor | None = None
    """The embedding [B, D]: mean over the valid tokens, float32."""
    logits: Tensor | None = None
    """[B, C], one per class of `id2label`; None without a head."""
    token_mask: Tensor | None = None
    """Bool [B, N]: which tokens are sound rather than padding."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The input of the first block, then the output of each block; None unless asked for."""


class DawnchorusModel(PreTrainedModel):  # type: ignore[misc]
    """Front end, encoder, and a linear head if the model was trained with labels."""

    config_class = DawnchorusConfig
    base_model_prefix = "dawnchorus"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    # In half precision the log-mel has a larger error than all the rest of the network.
    _keep_in_fp32_modules_strict = ["frontend"]  # noqa: RUF012
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: DawnchorusConfig) -> None:
        super().__init__(config)
        encoder_config = config.encoder_config()
        self.frontend = FrontendModel.from_config(encoder_config)
        self.encoder = EncoderModel(encoder_config)
        self.head: nn.Linear | None = None
        if config.classification_head:
            width = STATISTICS[config.pooling] * encoder_config.dim
            self.head = nn.Linear(width, config.num_labels)
        self.gradient_checkpointing = bool(self.encoder.grad_checkpoint)
        self._heard = False
        self._trained = False
        self.post_init()

    def _set_gradient_checkpointing(self, enable: bool = True, *_: Any, **__: Any) -> None:
        # The encoder recomputes its own blocks, and never re-entrantly, whatever is asked for.
        self.gradient_checkpointing = enable
        self.encoder.grad_checkpoint = enable

    def _init_weights(self, module: nn.Module) -> None:
        # Encoder and front end initialise themselves, and every checkpoint has them whole. Only a
        # head of another size (for new labels) is initialised here.
        if module is self.head and self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load the model as transformers does, but raise an error where weights would be random.

        A new head for labels of your own has to be asked for: give `ignore_mismatched_sizes=True`
        and `num_labels`, and `classification_head=True` if the model has no head.

        Raises:
            ValueError: the file lacks tensors, or has others or tensors of another shape; the
                message names them.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        fresh_head = bool(kwargs.get("ignore_mismatched_sizes", False))
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        lost = [
            f"{what.removesuffix('_keys')} {key}"
            for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
            for key in sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[what])
            if not (key.startswith("head.") and fresh_head)
        ]
        if lost:
            only_head = all(key.split()[-1].startswith("head.") for key in lost)
            raise ValueError(
                "the weights do not fit the model that config.json describes: "
                + ", ".join(lost[:10])
                + (f", … ({len(lost)} in all)" if len(lost) > 10 else "")
                + (
                    ". For a new head, to be trained, give ignore_mismatched_sizes=True"
                    if only_head
                    else ""
                )
            )
        return (model, info) if wants_info else model

    def train(self, mode: bool = True) -> DawnchorusModel:
        """Set the mode as torch does, and remember that the weights may differ from the card's."""
        self._trained = self._trained or mode
        super().train(mode)
        return self

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model as transformers does, with its card, licence, credits and preprocessor.

        A file that is already there stays. If the model was in training mode since it was loaded,
        the card gets a note that it describes the earlier weights.
        """
        if kwargs.get("push_to_hub"):
            self._refuse_push()
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        for name in KEPT:
            found = self._beside(name)
            if found is not None and not (folder / name).exists():
                shutil.copyfile(found, folder / name)
                if name == "README.md" and self._trained:
                    _say_trained_on(folder / name)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push as transformers does. An export for private use raises ValueError instead."""
        self._refuse_push()
        return super().push_to_hub(*args, **kwargs)

    def _refuse_push(self) -> None:
        if missing := getattr(self.config, "not_for_publication", None):
            lines = "\n".join(f"  {line}" for line in missing)
            raise ValueError(f"this model is for private use; to be published it lacks:\n{lines}")

    def _beside(self, name: str) -> str | None:
        """Return the path of a file from the repository that the model was loaded from, or None."""
        source = self.config._name_or_path
        if not source:
            return None
        try:
            path: str | None = cached_file(
                source,
                name,
                revision=getattr(self.config, "_commit_hash", None),
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except (OSError, ValueError):
            return None
        return path

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DawnchorusOutput | tuple[Any, ...]:
        """Encode a batch of clips.

        Args:
            input_values: waveforms [B, T] at `config.sampling_rate`, float in [-1, 1] or 16-bit
                integers (divided by 32768 here); shorter clips padded on the right.
            attention_mask: [B, T], 1 for sound, then 0 for padding.
            lengths: [B], samples of each clip. It means the same as a mask, and is cheaper.
            labels: labels of the clips, for the loss. Multi-label
                (`config.problem_type`, the default): [B, C], 1 or 0. Single-label: class numbers
                [B], or [B, C] as above with a share of 1 / k for each of k labels.
            output_hidden_states: also return the output of every block.
            return_dict: false for a plain tuple.

        Raises:
            ValueError: wrong shapes, an empty clip, sound that was not scaled, padding on the
                left, both a mask and lengths, or labels that the head cannot have.
        """
        wav_BT = self._as_float(input_values)
        if attention_mask is not None:
            if lengths is not None:
                raise ValueError("give attention_mask or lengths, not both")
            if attention_mask.shape != wav_BT.shape and not torch.compiler.is_compiling():
                raise ValueError(
                    f"attention_mask of shape {tuple(attention_mask.shape)} for input_values of "
                    f"shape {tuple(wav_BT.shape)}: it has one value for each sample"
                )
            lengths = lengths_of(attention_mask)
        if lengths is not None and not torch.compiler.is_compiling():
            _check_lengths(lengths, wav_BT)
        self._warn_of_length(wav_BT.shape[1])
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        x, steps_B = self.frontend(wav_BT, lengths)
        x = x.to(next(self.encoder.parameters()).dtype)
        out = self.encoder(x, steps_B, layers=bool(output_hidden_states))
        embedding_BD = pool(out.tokens_BND, out.valid_BN)
        logit_BC = None
        if self.head is not None:
            pooled = pool(out.tokens_BND, out.valid_BN, self.config.pooling)
            logit_BC = self.head(pooled.to(self.head.weight.dtype))
        output = DawnchorusOutput(
            loss=None if labels is None else self._loss(logit_BC, labels),
            last_hidden_state=out.tokens_BND,
            pooler_output=embedding_BD,
            logits=logit_BC,
            token_mask=out.valid_BN,
            hidden_states=tuple(out.layers) if out.layers is not None else None,
        )
        return output.to_tuple() if return_dict is False else output

    def _as_float(self, input_values: Tensor) -> Tensor:
        """Return the waveforms as float32 in [-1, 1]. Raises ValueError for any other input."""
        if not isinstance(input_values, Tensor):
            raise ValueError(
                f"input_values are a {type(input_values).__name__}: give a tensor "
                "[clips, samples], for example torch.as_tensor(waveform)[None]"
            )
        if input_values.dim() != 2 or 0 in input_values.shape:
            raise ValueError(
                f"input_values must be [clips, samples], not {tuple(input_values.shape)}: "
                "mix channels down and add a batch dimension; a clip without samples has no sound"
            )
        if input_values.dtype == torch.int16:
            return input_values.float() / 32768.0
        if not input_values.is_floating_point():
            raise ValueError(
                f"input_values are {input_values.dtype}: give float in [-1, 1] or 16-bit integers"
            )
        wav_BT = input_values.float()
        # Reading a value makes the host wait for a GPU, so there only the first batch is checked.
        on_cpu = wav_BT.device.type == "cpu"
        if not torch.compiler.is_compiling() and (on_cpu or not self._heard):
            self._heard = True
            loudest = float(wav_BT.detach().abs().amax())
            if loudest > LOUDEST:
                raise ValueError(
                    f"input_values reach {loudest:.6g}, and sound lies in [-1, 1]: divide 16-bit "
                    "samples by 32768"
                )
        return wav_BT

    def _warn_of_length(self, samples: int) -> None:
        if torch.compiler.is_compiling() or samples < WARN_S * self.config.sampling_rate:
            return
        hop = round(self.frontend.hop_s * self.config.sampling_rate)
        tokens = self.encoder.grid(samples // hop).tokens
        heads = getattr(self.config.encoder_config(), "heads", None)
        attention = (
            f" Attention over them needs about {4 * heads * tokens**2 / 1e9:.1f} GB per clip and "
            "array, and grows with the square of the length."
            if heads
            else ""
        )
        logger.warning_once(
            f"clips of {samples / self.config.sampling_rate:.0f} s have {tokens:,} tokens."
            f"{attention} The model was trained on short windows: cut the recording into those"
        )

    def _loss(self, logit_BC: Tensor | None, labels: Tensor) -> Tensor:
        """Return the loss of post-training: the mean over clips (BCE: and over all classes)."""
        if logit_BC is None:
            raise ValueError(
                "labels need a head and this model has none: load it with "
                "classification_head=True, num_labels=… and ignore_mismatched_sizes=True"
            )
        kind = self.config.problem_type or "multi_label_classification"
        logit_BC = logit_BC.float()
        clips, classes = logit_BC.shape
        several = tuple(labels.shape) == (clips, classes)
        if kind == "multi_label_classification" and several:
            return F.binary_cross_entropy_with_logits(logit_BC, labels.float())
        if kind == "single_label_classification" and several and classes > 1:
            share_BC = labels.float()
            share_BC = share_BC / share_BC.sum(1, keepdim=True).clamp(min=1.0)
            return F.cross_entropy(logit_BC, share_BC)
        one = tuple(labels.shape) in {(clips,), (clips, 1)} and not labels.is_floating_point()
        if kind == "single_label_classification" and one:
            return F.cross_entropy(logit_BC, labels.flatten().long())
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} for {clips} clips and "
            f"{classes} classes, with config.problem_type={kind!r}. A multi_label_classification "
            "takes [clips, classes] of 0 and 1, a single_label_classification class numbers [clips]"
        )


def lengths_of(attention_mask_BT: Tensor) -> Tensor:
    """Return the samples of each clip, int64 [B].

    Raises ValueError for a mask with padding before or inside the sound. A traced graph
    (`torch.compile`, `torch.export`, ONNX) cannot check that.
    """
    sound_BT = attention_mask_BT.bool()
    looks = not torch.compiler.is_compiling()
    if looks and bool((sound_BT[:, 1:] & ~sound_BT[:, :-1]).any()):
        raise ValueError("attention_mask has padding before or inside the sound: pad on the right")
    return sound_BT.sum(1)


def _say_trained_on(card: Path) -> None:
    """Add the sentence that the weights were trained further, below the card's front matter."""
    text = card.read_text(encoding="utf-8")
    end = text.find("\n---\n", 3) if text.startswith("---\n") else -1
    head = 0 if end < 0 else end + len("\n---\n")
    note = (
        "\n**These weights were trained further.** What follows describes the model that this "
        "began with.\n"
    )
    card.write_text(text[:head] + note + text[head:], encoding="utf-8")


def _check_lengths(length_B: Tensor, wav_BT: Tensor) -> None:
    """Raise ValueError for clips without sound, and for lengths that do not fit the batch."""
    if length_B.shape != wav_BT.shape[:1]:
        raise ValueError(f"{tuple(length_B.shape)} lengths for {len(wav_BT)} clips: give one each")
    shortest, longest = torch.stack([length_B.min(), length_B.max()]).tolist()
    if shortest < 1 or longest > wav_BT.shape[1]:
        raise ValueError(
            f"lengths from {shortest} to {longest} samples in a batch of {wav_BT.shape[1]}: a clip "
            "has at least 1 sample and at most those of the batch. Leave empty clips out"
        )
