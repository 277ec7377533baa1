"""What probes and measures read of each clip, from the cache or computed: embeddings and tokens.

Shape legend: N clips, L layers, D channels, K statistics.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.evaluation.clips import Clips
from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.evaluation.embed import cached, embed_clips, weights_digest
from dawnchorus.trainer.evaluation.tokens import LiveTokens, TokenSource, open_tokens
from dawnchorus.trainer.pooling import Pooling, pool

FORMAT = 1
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """Makes the features of one dataset for one model after the other."""

    clips: Clips
    config: EvaluateConfig
    device: torch.device
    cache: Path | None

    @property
    def window(self) -> int:
        """Longest piece that goes through a model at once, in samples."""
        return round(self.config.window_s * self.clips.sample_rate_hz)

    def embed(
        self, model: Any, name: str, layer: Any, pooling: Pooling | None = None
    ) -> FloatArray:
        """[N, K D], or [N, L, K D] for all layers; `pooling` None: the config's."""
        config, clips = self.config, self.clips
        pooling = pooling or config.pooling

        def compute(make_store: Any) -> FloatArray:
            return embed_clips(
                model, clips, window=self.window, layer=layer, pooling=pooling,
                long_clips=config.long_clips,
                batch_size=config.batch_size, device=self.device, who=name, make_store=make_store,
            )  # fmt: skip

        if self.cache is None:
            return cached(None, compute)
        key = self._key(model, layer, pooling, config.long_clips)
        return cached(self.cache / f"{name}-{key}.npy", compute)

    def tokens(self, model: Any, name: str) -> TokenSource:
        """The tokens that the config's probe reads: of one layer, or of several."""
        config = self.config
        layers: Any = config.tokens.layers
        if config.probe.needs == "tokens":
            layers = (config.layer,) if isinstance(config.layer, int) else "last"

        def live() -> LiveTokens:
            try:
                return LiveTokens(
                    model, self.clips, window=self.window, layers=layers,
                    stride=config.tokens.stride, batch_size=config.batch_size, device=self.device,
                    who=name,
                )  # fmt: skip
            except IndexError:
                raise RecipeError(
                    f"tokens.layers={list(layers)}: {name} has no layer of one of these numbers; "
                    "0 is what enters the first block, i what leaves block i"
                ) from None

        path = None
        if self.cache is not None:
            key = self._key(model, "tokens", layers, config.tokens.stride)
            path = self.cache / f"{name}-{key}.tokens.npy"
        return open_tokens(live, path, limit_gib=config.tokens.limit_gib)

    def _key(self, model: nn.Module, *options: Any) -> str:
        parts = [FORMAT, weights_digest(model), _code_digest(model), self.clips.digest, self.window]
        text = json.dumps([*parts, *options, self.clips.number_N.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def _code_digest(model: nn.Module) -> str:
    """Digest of the source files of a model, its parts and the pooling, because an edited encoder
    makes other embeddings.
    """
    digest = hashlib.sha256()
    files = {inspect.getfile(pool)}
    for part in model.modules():
        if not type(part).__module__.startswith("torch"):
            try:
                files.add(inspect.getfile(type(part)))
            except (TypeError, OSError):  # defined at a prompt
                continue
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
