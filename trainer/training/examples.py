"""Keeps a few clips and the model's output for them in the run folder, for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dawnchorus.trainer.panels import Example, save_examples, spectrogram

if TYPE_CHECKING:
    from pathlib import Path

    from dawnchorus.trainer.data.module import TrainStream, ValidStream
    from dawnchorus.trainer.training.module import TrainingModule


@torch.no_grad()
def write_examples(
    folder: Path | None,
    module: TrainingModule,
    stream: TrainStream | ValidStream,
    batch: dict[str, Any],
) -> None:
    """Write `examples.npz`: spectrograms of the sound, and the panels of the objective.

    Args:
        folder: the run folder. None: only compute, because all ranks must if the module is sharded.
        module: the trained module, with the weights to show.
        stream: the stream of the batch; it names the clips.
        batch: int16 batch of the examples, on the CPU.
    """
    moved = {k: v.to(module.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    was_training = module.training
    module.eval()
    try:
        panels = module.look(module.features(moved, augment=False))
    finally:
        module.train(was_training)
    if folder is None:
        return
    frontend = module.model.frontend
    examples = []
    for row, (source, key, labels) in enumerate(_names(stream, batch)):
        wav_T = batch["wav_BT"][row, : int(batch["length_B"][row])].numpy()
        sound = spectrogram(
            wav_T,
            frontend.sample_rate_hz,
            hop_s=frontend.picture_hop_s,
            band_hz=frontend.band_hz,
        )
        examples.append(Example(source, key, tuple(labels), sound, tuple(panels[row])))
    save_examples(folder, examples)


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
