from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.evaluation.embed import weights_digest
from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.hub.provenance import lineage
from dawnchorus.trainer.model import BioEncoder

MakeRun = Callable[..., BioEncoder]
MakeSource = Callable[..., dict[str, Any]]
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
BY = "https://creativecommons.org/licenses/by/4.0/"
BY_NC = "https://creativecommons.org/licenses/by-nc/4.0/"
BY_SA = "//creativecommons.org/licenses/by-sa/3.0/"
BY_NC_ND = "https://creativecommons.org/licenses/by-nc-nd/4.0/"


def card_of(run: Path, out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Front matter and body."""
    text = (export(run, out, **options) / "README.md").read_text()
    assert text.startswith("---\n")
    header, body = text[4:].split("\n---\n", 1)
    return yaml.safe_load(header), body


# --------------------------------------------------------------------------- a good card


def test_front_matter(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    header, _ = card_of(tmp_path / "run", tmp_path / "out")
    assert header["license"] == "cc-by-nc-4.0"
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "audio-classification"
    assert header["datasets"] == ["garden"]
    assert {"bioacoustics", "beats"} <= set(header["tags"])
    assert header["metrics"] == ["accuracy", "nmi", "roc_auc"]
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.model_name == "tiny-beats"
    results = {r.metric_name: r.metric_value for r in card.data.eval_results or []}
    assert results["Linear probe, accuracy"] == 0.8125
    assert results["Clustering NMI"] == 0.7


def test_body_has_every_part(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    _, body = card_of(tmp_path / "run", tmp_path / "out", card={"limitations": "Not for bats."})
    for part in (
        "## How to use", "## Results", "## Training data", "### Licences of the data",
        "## Training recipe", "## Limitations", "## Credits", "## Licence",
    ):  # fmt: skip
        assert f"\n{part}\n" in body
    for text in (
        'AutoModel.from_pretrained("dawn/tiny-beats", trust_remote_code=True)',
        "| garden | Linear probe, accuracy | 0.812 ± 0.015 | 0.500 | 0.400 |",
        "| garden | Clustering NMI | 0.700 ± 0.030 | – | – |",
        "12 of 100 tested recordings were in the training data",
        "an embedding is the mean and standard deviation of a clip's tokens over time; log-mel",
        "3.75 h of sound in 400 clips",
        "| supervised training (run) | garden | 400 | 3.75 |",
        f"| [CC0 1.0]({CC0}) | 300 | 2.50 |",
        "| Ann | CC0 1.0 | 300 | 2.50 |",
        "| Seed | 3 |",
        "* Not for bats.",
        "The weights are under CC BY-NC 4.0",
    ):
        assert text in body, text


def test_text_of_others_cannot_break_the_page(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    _, body = card_of(tmp_path / "run", tmp_path / "out")
    assert "| Bo &lt;b&gt;\\| | CC BY-NC 4.0 | 100 | 1.25 |" in body
    assert "<b>" not in body


def test_every_table_row_has_as_many_cells_as_its_head(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    _, body = card_of(tmp_path / "run", tmp_path / "out")
    cells = None
    for line in body.splitlines():
        count = line.replace("\\|", "").count("|")
        if not line.startswith("|"):
            cells = None
        elif cells is None:
            cells = count
        assert cells is None or count == cells, line


def test_the_three_lines_of_code_work_as_printed(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that load the model, and those that read a file."""
    pytest.importorskip("transformers", reason="transformers is not installed (extra: export)")
    make_run(tmp_path / "run")
    _, body = card_of(tmp_path / "run", tmp_path / "out")
    model, file = (part.split("```", 1)[0] for part in body.split("```python\n")[1:3])
    assert len(model.strip().splitlines()) == len(file.strip().splitlines()) == 3
    stereo_TC = np.stack([np.sin(np.arange(44100) / 10), np.zeros(44100)], axis=1)
    soundfile.write(tmp_path / "recording.wav", 0.5 * stereo_TC, 44100)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(file, names)
    assert names["waveform"].shape == (1, 16000)
    assert names["waveform"].abs().max().item() == pytest.approx(0.25, abs=0.05)
    exec(model.replace("dawn/tiny-beats", str(tmp_path / "out")), names)
    assert names["embedding"].shape == (1, 48)


def test_without_labels(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", labels=None)
    header, body = card_of(tmp_path / "run", tmp_path / "out")
    assert header["pipeline_tag"] == "feature-extraction"
    assert "pre-trained without labels" in body
    assert "AudioClassification" not in body
    assert "label_map" not in body


def test_long_credits_go_to_a_file_of_their_own(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    people = [(f"Person {i:03}", (CC0, BY_NC)[i % 2], 1, 0.01 * (i + 1)) for i in range(60)]
    make_run(tmp_path / "run", sources=[make_source("garden", *people)])
    _, body = card_of(tmp_path / "run", tmp_path / "out")
    credits = (tmp_path / "out/CREDITS.md").read_text()
    assert all(name in credits for name, *_ in people)
    assert f"## [CC BY-NC 4.0]({BY_NC})" in credits
    assert "Person 059" in body
    assert "Person 000" not in body
    assert "40 with most hours of 60" in body


# --------------------------------------------------------------------------- empty parts


def refusal(run: Path, **options: Any) -> str:
    out = run.parent / "out"
    with pytest.raises(CheckpointError) as caught:
        export(run, out, **options)
    assert not out.exists()
    assert [p for p in run.parent.iterdir() if p.name.startswith(".")] == []
    return str(caught.value)


def test_all_empty_parts_are_told_at_once(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    sources = [make_source("garden", ("Ann", "", 3, 0.5)), make_source("lake")]
    make_run(
        tmp_path / "run", card={}, sources=sources, evaluation={"dataset": "garden", "rows": []}
    )
    message = refusal(tmp_path / "run")
    for part in (
        "card.author: set card.author",
        "card.licence: none follows from the data (not understood: (none))",
        "licences of 'lake' (run): data.json has none",
        "recordists of 'lake' (run): data.json has none",
        "hours of 'lake' (run): data.json says none",
        "licences: 3 clips (0.50 h) have no licence",
        "metrics: ",
        "chorus evaluate",
    ):
        assert part in message, part
    assert "7 empty parts" in message


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        ({"author": None}, "card.author"),
        ({"author": ""}, "card.author"),
        ({"licence": "gpl"}, "'gpl' is no name that the Hub knows"),
        ({"licence": "other"}, "card.licence_name and card.licence_link"),
        ({"repo_id": "a/b/c"}, "card.repo_id"),
    ],
)
def test_one_empty_field_stops(
    tmp_path: Path, make_run: MakeRun, card: dict[str, Any], complaint: str
) -> None:
    make_run(tmp_path / "run")
    message = refusal(tmp_path / "run", card=card)
    assert complaint in message
    assert "1 empty part;" in message
    assert ("--private" in message) == ("repo_id" not in card)


def test_missing_ledger_and_missing_evaluation_stop(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", evaluation={"dataset": "garden", "rows": []})
    (tmp_path / "run/data.json").unlink()
    message = refusal(tmp_path / "run")
    assert "there is no data.json" in message
    assert "metrics: " in message


def test_damaged_ledger_is_an_error(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run/data.json").write_text('{"sources": [{"name": "garden"}]}')
    assert "a source cannot be read" in refusal(tmp_path / "run")
    (tmp_path / "run/data.json").write_text('{"sources": [')
    assert "data.json cannot be read" in refusal(tmp_path / "run")


# --------------------------------------------------------------------------- metrics


def evaluate(run: Path, name: str, **changes: Any) -> None:
    path = run / "evaluation" / "garden.json"
    content = json.loads(path.read_text())
    (run / "evaluation" / name).write_text(json.dumps(content | changes))


def test_results_of_other_weights_stay_out(
    tmp_path: Path, make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path / "run")
    model = load_model(tmp_path / "run").model
    mine = {"digest": weights_digest(model), "step": 100}
    evaluate(tmp_path / "run", "lake.json", dataset="lake", model=mine)
    evaluate(tmp_path / "run", "old.json", dataset="old", model={**mine, "digest": "else"})
    evaluate(tmp_path / "run", "early.json", dataset="early", model={"step": 50})
    _, body = card_of(tmp_path / "run", tmp_path / "first")
    assert "| lake | Linear probe" in body
    assert "| old |" not in body
    assert "| early |" not in body
    assert "early.json measured other weights (step 50): not in the card" in caplog.text
    for name in ("garden", "lake"):
        (tmp_path / f"run/evaluation/{name}.json").unlink()
    message = refusal(tmp_path / "run")
    assert "no results of these weights" in message
    assert "old.json measured other weights" in message


def test_multi_label_results_and_a_dataset_that_was_measured_twice(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path / "run")
    evaluate(tmp_path / "run", "garden@best.json", rows=[{"name": "model", "probe": {"mean": 0.1}}])
    evaluate(tmp_path / "run", "soundscapes.json", dataset="soundscapes", metric="map")
    header, body = card_of(tmp_path / "run", tmp_path / "out")
    assert "| soundscapes | Linear probe, macro mAP | 0.812 ± 0.015 |" in body
    assert "mean_average_precision" in header["metrics"]
    assert body.count("| garden | Linear probe") == 1


@pytest.mark.parametrize(("name", "title"), [("ridge", "Ridge probe"), ("later", "later probe")])
def test_a_result_is_called_after_its_own_probe(
    tmp_path: Path, make_run: MakeRun, name: str, title: str
) -> None:
    make_run(tmp_path / "run")
    evaluate(tmp_path / "run", "garden.json", protocol={"probe": {"name": name}})
    header, body = card_of(tmp_path / "run", tmp_path / "out")
    assert f"| garden | {title}, accuracy | 0.812" in body
    assert "Linear probe" not in body + str(header)


# --------------------------------------------------------------------------- licences


def test_licence_follows_the_strictest_of_the_data(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    sources = [make_source("a", ("Ann", BY_NC, 1, 1.0)), make_source("b", ("Bo", BY_SA, 1, 1.0))]
    make_run(tmp_path / "run", sources=sources)
    header, _ = card_of(tmp_path / "run", tmp_path / "out")
    assert header["license"] == "cc-by-nc-sa-4.0"


def test_licence_against_the_data(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    sources = [make_source("a", ("Ann", BY_NC, 1, 1.0), ("Bo", BY_SA, 1, 1.0))]
    make_run(tmp_path / "run", sources=sources)
    message = refusal(tmp_path / "run", card={"licence": "mit"})
    assert "mit allows commercial use" in message
    assert "mit is not share-alike" in message
    assert "Take cc-by-nc-sa-4.0" in message
    chosen = {"licence": "mit", "accept_licence_conflict": True}
    header, body = card_of(tmp_path / "run", tmp_path / "out", card=chosen)
    assert header["license"] == "mit"
    assert "does not pass on all terms of the data" in body
    assert "mit allows commercial use, which these exclude: CC BY-NC 4.0" in body


def test_licence_of_ones_own(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    chosen = {
        "licence": "other", "licence_name": "birds-only", "licence_link": "https://example.org/l",
    }  # fmt: skip
    header, body = card_of(tmp_path / "run", tmp_path / "out", card=chosen)
    assert header["license"] == "other"
    assert header["license_name"] == "birds-only"
    assert header["license_link"] == "https://example.org/l"
    assert "[birds-only](https://example.org/l)" in body


def test_what_the_data_does_not_settle_is_said(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    people = [("Ann", BY_NC_ND, 1, 2.0), ("Bo", "zoo agreement 7", 1, 1.0), ("", CC0, 1, 1.0)]
    make_run(tmp_path / "run", sources=[make_source("a", *people)])
    assert "not understood: zoo agreement 7" in refusal(tmp_path / "run")
    _, body = card_of(tmp_path / "run", tmp_path / "out", card={"licence": "cc-by-nc-4.0"})
    assert "2.00 h of the data are under licences that allow no derivatives" in body
    assert 'The terms of "zoo agreement 7" (1.00 h) were not checked' in body
    assert "| not named | CC0 1.0 | 1 | 1.00 |" in body


# --------------------------------------------------------------------------- earlier stages


def test_pre_training_data_is_credited_too(
    tmp_path: Path, make_run: MakeRun, make_source: MakeSource
) -> None:
    shared = make_source("garden", ("Ann", BY, 300, 2.5))
    make_run(
        tmp_path / "pre", labels=None, sources=[shared, make_source("xc", ("Zoe", BY_NC, 9, 7.0))]
    )
    make_run(
        tmp_path / "post", init_from=str(tmp_path / "pre"), sources=[{**shared, "name": "mine"}]
    )
    header, body = card_of(tmp_path / "post", tmp_path / "out")
    assert header["license"] == "cc-by-nc-4.0"
    assert "| pre-training (pre) | xc | 9 | 7.00 |" in body
    assert "| post-training (post) | garden | 300 | 2.50 |" in body
    assert "| Zoe | CC BY-NC 4.0 | 9 | 7.00 |" in body
    # One dataset under two names is one dataset.
    assert "9.50 h of sound in 309 clips" in body
    assert "| Ann | CC BY 4.0 | 300 | 2.50 |" in body


def test_history_survives_the_earlier_run(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "pre", labels=None)
    before = lineage([tmp_path / "pre"])
    make_run(tmp_path / "post", init_from=str(tmp_path / "gone"))
    message = refusal(tmp_path / "post")
    assert "init_from" in message
    assert "no longer there" in message
    path = tmp_path / "post/data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"earlier": before}))
    _, body = card_of(tmp_path / "post", tmp_path / "out")
    assert "pre-training (pre)" in body
    assert [stage["name"] for stage in lineage([tmp_path / "out"])] == ["pre", "post"]


def test_two_ways_to_one_stage_and_a_file_of_others(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "pre", labels=None)
    make_run(tmp_path / "post", init_from=str(tmp_path / "pre"))
    torch.save({"cfg": 1}, tmp_path / "tokenizer.pt")
    found = lineage([tmp_path / "pre", tmp_path / "post", tmp_path / "tokenizer.pt"])
    assert [(stage["name"], stage["kind"]) for stage in found] == [
        ("pre", "pre-training"), ("post", "post-training"),
        ("tokenizer.pt", "weights from elsewhere"),
    ]  # fmt: skip


def test_history_goes_through_an_exported_folder(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "pre", labels=None)
    export(tmp_path / "pre", tmp_path / "published")
    make_run(tmp_path / "post", init_from="published")
    _, body = card_of(tmp_path / "post", tmp_path / "out")
    assert "pre-training (pre)" in body
    assert "post-training (post)" in body


def test_runs_that_start_from_each_other_do_not_hang(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", init_from=str(tmp_path / "b"))
    make_run(tmp_path / "b", init_from=str(tmp_path / "a"))
    assert "leads back to where it came from" in refusal(tmp_path / "a")


def test_weights_from_elsewhere_need_a_word(tmp_path: Path, make_run: MakeRun) -> None:
    model = make_run(tmp_path / "other", labels=None)
    state = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    cfg = {
        "encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4, "embed_dim": 32, "input_patch_size": 16, "conv_pos": 16,
        "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 100, "dropout": 0.1,
        "attention_dropout": 0.1, "activation_dropout": 0.0, "dropout_input": 0.1,
        "encoder_layerdrop": 0.05, "deep_norm": True,
    }  # fmt: skip
    torch.save({"cfg": cfg, "model": state}, tmp_path / "BEATs_iter3.pt")
    make_run(tmp_path / "run", init_from=str(tmp_path / "BEATs_iter3.pt"))
    assert "card.initial_weights: training started from BEATs_iter3.pt" in refusal(tmp_path / "run")
    word = "Microsoft BEATs iteration 3 (MIT), trained on AudioSet"
    _, body = card_of(tmp_path / "run", tmp_path / "out", card={"initial_weights": word})
    assert word in body
