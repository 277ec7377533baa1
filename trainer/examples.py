"""A few clips with what the model makes of them, kept in the run folder for the report.

Shape legend: K examples, T frames, F mel bins, N tokens, C classes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dawnchorus.trainer.files import whole_file, write_whole
from dawnchorus.trainer.objectives.multilabel import probabilities

if TYPE_CHECKING:
    from pathlib import Path

    from dawnchorus.trainer.data.module import TrainStream, ValidStream
    from dawnchorus.trainer.module import TrainingModule

TOP = 5


@torch.no_grad()
def write_examples(
    folder: Path | None,
    module: TrainingModule,
    stream: TrainStream | ValidStream,
    batch: dict[str, Any],
) -> None:
    """Write `examples.npz` (spectrograms, masks, codes) and `examples.json` (names, predictions).

    Args:
        folder: the run folder; None: only compute, as all ranks must where the module is sharded.
        module: the trained module, with the weights to show.
        stream: what the batch came from; it names the clips.
        batch: int16 batch of the examples, on the CPU.
    """
    batch = {k: v.to(module.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    was_training = module.training
    module.eval()
    try:
        features = module.features(batch, augment=False)
        found = module.look(features)
    finally:
        module.train(was_training)
    if folder is None:
        return
    arrays = {
        "mel_KTF": features.mel_BTF.half().cpu().numpy(),
        "frames_K": features.frames_B.cpu().numpy(),
    }
    records: list[dict[str, Any]] = [
        {"source": source, "key": key, "labels": labels, "predictions": []}
        for source, key, labels in _names(stream, batch)
    ]
    if module.recipe.stage == "pretrain":
        for name in ("mask", "code", "predicted"):
            arrays[f"{name}_KN"] = found[f"{name}_BN"].cpu().numpy()
    else:
        objective: Any = module.objective
        loss = getattr(objective.config, "loss", "bce")
        score_KC = probabilities(found["logits_BC"], objective.active_C, loss)
        _add_predictions(records, module, score_KC)
    with whole_file(folder / "examples.npz") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_whole(folder / "examples.json", json.dumps(records, ensure_ascii=False, indent=1) + "\n")


def _names(
    stream: TrainStream | ValidStream, batch: dict[str, Any]
) -> list[tuple[str, str, list[str]]]:
    labels_P2 = batch["labels_P2"].cpu().tolist()
    rows = []
    for row, (source, clip) in enumerate(
        zip(batch["source_B"].tolist(), batch["clip_B"].tolist(), strict=True)
    ):
        name, key = stream.clip_name(source, clip)
        rows.append((name, key, [stream.labels.names[c] for r, c in labels_P2 if r == row]))
    return rows


def _add_predictions(
    records: list[dict[str, Any]], module: TrainingModule, score_KC: torch.Tensor
) -> None:
    assert module.model.labels is not None
    top = score_KC.topk(min(TOP, score_KC.shape[1]), dim=1)
    for record, scores, classes in zip(
        records, top.values.tolist(), top.indices.tolist(), strict=True
    ):
        record["predictions"] = [
            [module.model.labels[c], round(s, 4)] for s, c in zip(scores, classes, strict=True)
        ]
