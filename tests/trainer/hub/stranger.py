"""Run as `python -I stranger.py <jobs.json>`: a machine that never heard of this project.

Loads exported folders with transformers alone and writes down what it answers. Any import of the
project's packages fails, and so does any attempt to reach the network.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

OURS = {"trainer", "data_prep", "slurm", "dawnchorus"}
BLOCKED: list[str] = []


class Hide(importlib.abc.MetaPathFinder):
    """Our packages do not exist."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in OURS:
            BLOCKED.append(name)
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)


def no_network(*_: object, **__: object) -> None:
    raise OSError("this machine has no network")


def answer(job: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import (
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioClassification,
        pipeline,
    )

    sound = load_file(job["sound"])
    wav_BT, length_B = sound["wav_BT"], sound["length_B"]
    answers: dict[str, torch.Tensor] = {}
    report: dict[str, object] = {}

    folder = job["folder"]
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    report["training"] = model.training
    answers |= {f"state.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        out = model(wav_BT, lengths=length_B, output_hidden_states=True)
        answers["pooler_output"] = out.pooler_output
        answers["token_mask"] = out.token_mask.to(torch.uint8)
        answers["last_hidden_state"] = out.last_hidden_state
        for i, layer in enumerate(out.hidden_states):
            answers[f"layer.{i}"] = layer.clone()
        if out.logits is not None:
            answers["logits"] = out.logits
        for b, length in enumerate(length_B.tolist()):
            alone = model(wav_BT[b : b + 1, :length])
            answers[f"alone.{b}"] = alone.pooler_output
        report["without_states"] = model(wav_BT[:1]).hidden_states is None
        report["tuple"] = isinstance(model(wav_BT[:1], return_dict=False), tuple)

        extractor = AutoFeatureExtractor.from_pretrained(folder)
        clips = [wav_BT[b, :n].numpy() for b, n in enumerate(length_B.tolist())]
        inputs = extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")
        answers["extracted"] = model(**inputs).pooler_output
        try:
            model(wav_BT, attention_mask=inputs["attention_mask"].flip(1))
        except ValueError as error:
            report["left_padding"] = str(error)
        try:
            model(wav_BT[0])
        except ValueError as error:
            report["one_clip"] = str(error)

        half = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
        dtypes = half.frontend.mel_SF.dtype, half.encoder.encoder.layers[0].fc1.weight.dtype
        report["half"] = [str(dtype) for dtype in dtypes]
        try:
            answers["half"] = half(wav_BT, lengths=length_B).pooler_output
        except RuntimeError as error:
            report["half_error"] = str(error)

        if job["labels"]:
            classify = pipeline(
                "audio-classification", model=folder, trust_remote_code=True, device="cpu"
            )
            report["pipeline"] = classify(clips[0], top_k=2)
            other = AutoModelForAudioClassification.from_pretrained(
                folder, trust_remote_code=True, num_labels=5, ignore_mismatched_sizes=True
            )
            report["new_head"] = [list(other.head.weight.shape), float(other.head.weight.std())]

        model.save_pretrained(job["resaved"])
        again = AutoModel.from_pretrained(job["resaved"], trust_remote_code=True)
        answers["resaved"] = again(wav_BT, lengths=length_B).pooler_output

    broken = load_file(Path(folder) / "model.safetensors")
    broken.pop("encoder.encoder.layers.1.fc1.weight")
    save_file(broken, Path(job["resaved"]) / "model.safetensors", metadata={"format": "pt"})
    try:
        AutoModel.from_pretrained(job["resaved"], trust_remote_code=True)
    except ValueError as error:
        report["partly_random"] = str(error)

    report["blocked"] = BLOCKED
    report["modules"] = sorted(OURS & {name.split(".")[0] for name in sys.modules})
    save_file({k: v.contiguous() for k, v in answers.items()}, job["answers"])
    Path(job["report"]).write_text(json.dumps(report))


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    os.environ |= {"HF_HOME": jobs["home"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.meta_path.insert(0, Hide())
    socket.socket.connect = no_network  # type: ignore[assignment, method-assign]
    for name in OURS:
        try:
            __import__(name)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{name} can be imported: the test proves nothing")
    BLOCKED.clear()
    for job in jobs["jobs"]:
        answer(job)


main()
