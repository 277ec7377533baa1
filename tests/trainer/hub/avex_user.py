"""Run as `.venv-avex/bin/python -I avex_user.py <jobs.json>`: what avex makes of an export."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    os.environ |= {"HF_HOME": jobs["home"], "HF_HUB_OFFLINE": "1", "ESP_CACHE_HOME": jobs["home"]}

    import avex
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger = logging.getLogger("avex")
    logger.addHandler(Keep())
    logger.setLevel(logging.INFO)

    sound = load_file(jobs["sound"])
    for job in jobs["jobs"]:
        messages.clear()
        answers = {}
        config, weights = job["config"], job["weights"]
        plain = avex.load_model(config, device="cpu", checkpoint_path=weights).eval()
        features = avex.load_model(
            config, device="cpu", checkpoint_path=weights, return_features_only=True
        ).eval()
        with torch.no_grad():
            for name, wav_BT in sound.items():
                answers[f"plain.{name}"] = plain(wav_BT).contiguous()
                answers[f"features.{name}"] = features(wav_BT).contiguous()
        # The other way round: avex's own tensors under its own names, every one of them random.
        torch.manual_seed(23)
        state = plain.state_dict()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for name, wav_BT in sound.items():
                answers[f"random.{name}"] = plain(wav_BT).contiguous()
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in state.items()}, job["random"]
        )
        save_file(answers, job["answers"])
        mapping = avex.load_label_mapping(job["label_map"])
        report = {
            "messages": messages,
            "mapping": mapping and mapping["label_to_index"],
            "classes": None if plain.classifier is None else plain.classifier.out_features,
        }
        Path(job["report"]).write_text(json.dumps(report))


main()
