"""`chorus evaluate`: a model and its two baselines on a dataset; JSON and a printed table.

Shape legend: N clips, L layers, D channels, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dawnchorus.trainer.errors import DataError, RecipeError
from dawnchorus.trainer.evaluation.clips import Clips
from dawnchorus.trainer.evaluation.clustering import evaluate_clustering
from dawnchorus.trainer.evaluation.config import EvaluateConfig, load_config
from dawnchorus.trainer.evaluation.embed import LogMelStatistics
from dawnchorus.trainer.evaluation.exposure import exposure
from dawnchorus.trainer.evaluation.features import Features, FloatArray
from dawnchorus.trainer.evaluation.knn import evaluate_knn
from dawnchorus.trainer.evaluation.result_file import output_paths, plain, write_result
from dawnchorus.trainer.evaluation.retrieval import evaluate_across, evaluate_retrieval
from dawnchorus.trainer.evaluation.scores import accuracy, macro_average_precision
from dawnchorus.trainer.evaluation.tables import print_result
from dawnchorus.trainer.evaluation.task import Task, describe_task, prepare_task, remarks
from dawnchorus.trainer.objectives.multilabel import ranking_scores, trained_classes
from dawnchorus.trainer.progress import Bar
from dawnchorus.trainer.registry import PROBES

if TYPE_CHECKING:
    from rich.console import Console

    from dawnchorus.trainer.hub.importing import LoadedModel


def choose_device(name: str) -> torch.device:
    """Choose a torch device; `auto` takes a CUDA device if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device={name}: torch knows no such device; try auto or cpu") from None
    try:
        # A missing device and one that cannot compute raise different exceptions.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RecipeError(
            f"device={name} cannot be used on this machine ({str(error).splitlines()[0]}); "
            "try auto or cpu"
        ) from None
    return device


# --------------------------------------------------------------------------- measuring


class _Bench:
    """Embeds and measures one model after the other on one task."""

    def __init__(
        self, task: Task, config: EvaluateConfig, device: torch.device, cache: Path | None
    ) -> None:
        self.task, self.config, self.device = task, config, device
        self.features = Features(task.clips, config, device, cache)

    def probe(self, feature: Any, *, standardise: bool, name: str) -> dict[str, Any]:
        """Fit the probe on what it needs; the linear one also on a learned mix of all layers."""
        task, folds = self.task, self.task.protocol.folds
        config = replace(
            self.config.probe, standardise=standardise or self.config.probe.standardise
        )
        with Bar(config.work * len(folds), f"probing {name}", config.unit, stays=False) as bar:
            result = PROBES.thing(config.name)(config).measure(
                feature, task.clips.label_NC, folds, multi_label=task.multi_label,
                device=self.device, advance=bar.advance,
            )  # fmt: skip
        interval = result.interval(
            task.clips.label_NC, task.clips.group_N, folds, self.config.retrieval.bootstrap
        )
        return result.summary() | {
            "name": config.name, "standardised": config.standardise, "mean_ci95": interval
        }  # fmt: skip

    def measure(
        self,
        emb_ND: FloatArray,
        name: str,
        layer: Any,
        *,
        feature: Any,
        standardise: bool = False,
    ) -> dict[str, Any]:
        """Make a row: retrieval and clustering of one embedding per clip, and the probe on
        `feature`. Without that there is no probe in the row.
        """
        started = time.monotonic()
        config, clips = self.config, self.task.clips
        row: dict[str, Any] = {"name": name, "layer": layer, "dim": emb_ND.shape[1]}
        if feature is not None:
            row["probe"] = self.probe(feature, standardise=standardise, name=name)
        tested = self.task.protocol.tested
        if config.retrieval.enabled:
            row["retrieval"] = evaluate_retrieval(
                emb_ND[tested], clips.label_NC[tested], clips.group_N[tested], config.retrieval,
                self.device,
            )  # fmt: skip
            if config.retrieval.across:
                pairs = [(f.test, self.task.protocol.gallery(f)) for f in self.task.protocol.folds]
                turned = [(gallery, test) for test, gallery in pairs]
                for key, way in (("across", pairs), ("across_published", turned)):
                    row["retrieval"][key] = evaluate_across(
                        emb_ND, clips.label_NC, clips.group_N, way, config.retrieval, self.device
                    )
        if config.knn.enabled:
            row["knn"] = evaluate_knn(
                emb_ND[tested], clips.label_NC[tested], clips.group_N[tested], config.knn,
                multi_label=self.task.multi_label, resamples=config.retrieval.bootstrap,
                device=self.device,
            )  # fmt: skip
        if config.clustering.enabled:
            row["clustering"] = evaluate_clustering(
                emb_ND[tested], clips.label_NC[tested], config.clustering
            )
        row["wall_s"] = round(time.monotonic() - started, 2)
        return row

    def encoder(
        self, model: Any, name: str, recipe: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], list[Any], Any]:
        """Make the row of a model at the requested layer. With `layer: all`, also a row per layer
        and the probe on a learned mix of them.
        """
        layer, needs = self.config.layer, self.config.probe.needs
        if layer != "all":
            emb_ND = self.features.embed(model, name, layer)
            row = self.measure(emb_ND, name, layer, feature=self.needed(model, name, emb_ND))
            if layer == "last":
                row["head"] = self.head(emb_ND, model, name, recipe)
            return row, [], None
        emb_NLD = self.features.embed(model, name, "all")
        layers = []
        for i in range(emb_NLD.shape[1]):
            emb_ND = np.ascontiguousarray(emb_NLD[:, i])
            alone = emb_ND if needs == "pooled" else None
            layers.append(self.measure(emb_ND, f"{name} layer {i}", i, feature=alone))
        row, mix = layers[-1] | {"name": name, "layer": "last"}, None
        if self.config.probe.mixes_layers:
            mix = self.probe(emb_NLD, standardise=False, name=f"{name}, layer mix")
        if needs != "pooled":
            feature = emb_NLD if needs == "layers" else self.features.tokens(model, name)
            row["probe"] = self.probe(feature, standardise=False, name=name)
        row["head"] = self.head(emb_NLD[:, -1], model, name, recipe)
        return row, layers, mix

    def needed(self, model: Any, name: str, emb_ND: FloatArray) -> Any:
        """What the probe reads of each clip; see `ProbeConfig.needs`."""
        needs = self.config.probe.needs
        if needs == "pooled":
            return emb_ND
        if needs == "layers":
            if name == "log-mel":
                return emb_ND[:, None]
            return self.features.embed(model, name, "all")
        return self.features.tokens(model, name)

    def head(
        self, emb_ND: FloatArray, model: Any, name: str, recipe: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Score a post-trained model's own head, without a probe, on the classes that it shares
        with the dataset. None if they are too few to rank: accuracy needs two, average precision
        one.

        The head is linear on the pooled tokens, so it needs only the last layer's embeddings. Every
        pooling begins with the statistics of the shorter ones. `recipe`, if the file carries one,
        tells the loss of the head: see `ranking_scores`.
        """
        clips, tested = self.task.clips, self.task.protocol.tested
        names = {label: i for i, label in enumerate(model.labels or ())}
        ours = [c for c, label in enumerate(clips.classes) if label in names]
        if model.head is None or len(ours) < (1 if self.task.multi_label else 2):
            return None
        width = model.head.in_features
        pooling = model.pooling
        if width > emb_ND.shape[1] or pooling == "cls":
            emb_ND = self.features.embed(model, name, "last", pooling)
        columns = [names[clips.classes[c]] for c in ours]
        hot_NC = torch.from_numpy(clips.label_NC[tested][:, ours])
        with torch.inference_mode():
            emb = torch.from_numpy(np.array(emb_ND[tested, :width])).to(self.device)
            loss = str(((recipe or {}).get("objective") or {}).get("loss", "bce"))
            score_NC = ranking_scores(model.head(emb), trained_classes(model.head), loss)
            score_NC = score_NC[:, columns].cpu()
        if not self.task.multi_label:
            known_N = hot_NC.any(1)
            hot_NC, score_NC = hot_NC[known_N], score_NC[known_N]
        real_1N = torch.ones(1, len(hot_NC), dtype=torch.bool)
        if self.task.multi_label:
            value = macro_average_precision(score_NC[None], hot_NC[None].float(), real_1N)
        else:
            value = accuracy(score_NC[None], hot_NC[None].int().argmax(-1), real_1N)
        return {
            "metric": "map" if self.task.multi_label else "accuracy",
            "value": float(value),
            "ranked_by": "log-probability" if loss == "softmax" else "logit",
            "classes": len(ours),
            "n": len(hot_NC),
        }


def random_encoder(encoder: dict[str, Any], seed: int) -> nn.Module:
    """An untrained model of the architecture that an `encoder` section describes."""
    from dawnchorus.trainer.model import BioEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BioEncoder.from_config(encoder).eval()


# --------------------------------------------------------------------------- what goes where


def _check_model(loaded: LoadedModel, clips: Clips, config: EvaluateConfig) -> None:
    rate = loaded.model.sample_rate_hz
    if rate != clips.sample_rate_hz:
        raise DataError(
            f"{clips.path} is at {clips.sample_rate_hz} Hz, but {loaded.source} was made for "
            f"{rate} Hz: prepare it at that rate (`chorus prep ... --sample-rate-hz {rate}`)"
        )
    layers = getattr(loaded.model.encoder.config, "layers", None)
    if isinstance(config.layer, int) and layers is not None and config.layer > layers:
        raise RecipeError(
            f"layer={config.layer}: {loaded.source} has {layers} layers; 0 (before the first) to "
            f"{layers}, last or all"
        )


# --------------------------------------------------------------------------- the command


def evaluate(
    source: str | Path,
    config: EvaluateConfig,
    *,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a model and its baselines on a dataset.

    Args:
        source: run folder, checkpoint, exported folder, or weights of others (`load_model`).
        config: the measurements and their options.
        out: JSON file; None: see `output_paths`.
        console: prints the table; None prints nothing.

    Returns:
        The content of the JSON: plain values, in the format of docs/evaluation.md.

    Raises:
        DataError, CheckpointError, RecipeError: nothing is written then.
    """
    from dawnchorus.trainer.hub.importing import load_model

    started = time.monotonic()
    device = choose_device(config.device)
    loaded = load_model(source, device=device)
    task = prepare_task(config)
    _check_model(loaded, task.clips, config)
    dataset = task.clips.name
    path, cache = output_paths(loaded, source, dataset, out, config.cache)
    if out is not None and out.is_dir():
        raise RecipeError(f"--out {out} is a folder; give the JSON file to write")
    bench = _Bench(task, config, device, cache)
    rows, layers, mixes = _measure_all(bench, loaded)
    if loaded.kind == "checkpoint":
        rows[-1]["name"] = f"model ({Path(source).stem})"
    tested = task.clips.recordings(task.protocol.tested)
    seen = exposure(loaded.recipe, tested, loaded.weights.run)
    warnings, notes = remarks(task, seen)
    result = describe_task(task, config, loaded) | {
        "rows": rows,
        "layers": layers,
        "layer_mix": mixes,
        "exposure": seen,
        "warnings": warnings,
        "notes": notes,
        "wall_s": round(time.monotonic() - started, 1),
    }
    written: dict[str, Any] = plain(result)
    write_result(path, written)
    if console is not None:
        print_result(written, console)
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
    return written


def _measure_all(
    bench: _Bench, loaded: LoadedModel
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Make the rows of the baselines and the model, the rows per layer, and the learned mixes."""
    baselines = bench.config.baselines
    rows, mixes = [], {}
    if baselines.logmel:
        statistics = LogMelStatistics(bench.task.clips.sample_rate_hz).to(bench.device).eval()
        emb_ND = bench.features.embed(statistics, "log-mel", "last")
        feature = bench.needed(statistics, "log-mel", emb_ND)
        rows.append(bench.measure(emb_ND, "log-mel", "", feature=feature, standardise=True))
    if baselines.random_init:
        model = random_encoder(loaded.weights.encoder, baselines.random_init_seed)
        row, _, mix = bench.encoder(model.to(bench.device), "random-init")
        rows.append(row | {"seed": baselines.random_init_seed})
        if mix:
            mixes["random-init"] = mix
    row, layers, mix = bench.encoder(loaded.model, "model", loaded.recipe)
    if mix:
        mixes["model"] = mix
    return [*rows, row], layers, mixes


def evaluate_command(
    source: str, overrides: Sequence[str], *, preset: str = "default", out: Path | None = None
) -> None:
    """Run `chorus evaluate`."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    evaluate(source, load_config(overrides, preset), out=out, console=console)
