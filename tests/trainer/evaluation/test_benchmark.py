"""The whole evaluation on real files: runs, checkpoints, baselines, JSON, tables, errors."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from dawnchorus.trainer.errors import CheckpointError, ChorusError, DataError, RecipeError
from dawnchorus.trainer.evaluation.benchmark import evaluate, evaluate_command
from dawnchorus.trainer.evaluation.config import (
    BaselineConfig,
    ClusteringConfig,
    EvaluateConfig,
    load_config,
)
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.results import Result
from dawnchorus.trainer.evaluation.tables import (
    compared,
    comparison_table,
    facts,
    result_table,
)
from dawnchorus.trainer.evaluation.task import prepare_task
from dawnchorus.trainer.hub.importing import load_model

QUICK = LinearConfig(learning_rate=1e-2, epochs=20, schedule="cosine")

FAST = LinearConfig(learning_rate=1e-2, epochs=100, schedule="cosine")


def config(path: Path, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(data=str(path), probe=QUICK, device="cpu", **options)


def text_of(renderable: Any, width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def result(run: Path, tone_dataset: Path) -> dict[str, Any]:
    return evaluate(run, config(tone_dataset))


def test_a_run_is_measured_beside_its_baselines(
    run: Path, tone_dataset: Path, result: dict[str, Any]
) -> None:
    assert json.loads((run / "evaluation" / "tones.json").read_text()) == result
    assert [row["name"] for row in result["rows"]] == ["log-mel", "random-init", "model"]
    assert (result["dataset"], result["metric"]) == ("tones", "accuracy")
    assert (result["clips"], result["classes"], result["groups"]) == (48, 4, 12)
    assert result["folds"] == ["0", "1", "2", "3"]
    assert result["protocol"]["kind"] == "folds" and result["protocol"]["tested_clips"] == 48
    assert result["data"]["digest"] and result["environment"]["versions"]["torch"]
    assert result["model"]["step"] == 2
    for row, dim in zip(result["rows"], (256, 64, 64), strict=True):
        assert row["dim"] == dim
        probe = row["probe"]
        low, high = probe["mean_ci95"]
        assert low <= probe["mean"] <= high and (low < high or low == 1)
        assert 0 <= probe["mean"] <= 1 and probe["n"] == 48 and len(probe["per_seed"]) == 3
        assert probe["mean"] == pytest.approx(np.mean(probe["per_seed"]))
        assert probe["std"] == pytest.approx(np.std(probe["per_seed"], ddof=1))
        assert row["retrieval"]["n"] == 48
        assert row["retrieval"]["same_group_excluded"]["n"] == 48
        low, high = row["retrieval"]["roc_auc_ci95"]
        assert low <= row["retrieval"]["roc_auc"] <= high
        assert row["knn"]["n"] == 48 and row["knn"]["same_group_excluded"]["value"] <= 1
        assert row["clustering"]["clusters"] == 4 and len(row["clustering"]["nmi"]["per_seed"]) == 3
    # Pure tones 500 Hz apart are easy for the spectrum itself.
    assert result["rows"][0]["probe"]["mean"] > 0.9
    assert result["rows"][0]["retrieval"]["roc_auc"] > 0.8


def test_the_same_again_from_the_cache_and_without_it(
    run: Path, tone_dataset: Path, result: dict[str, Any], tmp_path: Path
) -> None:
    cache = run / "evaluation" / "cache"
    before = {p.name: p.stat().st_mtime_ns for p in cache.iterdir()}
    assert len(before) == 3
    again = evaluate(run, config(tone_dataset), out=tmp_path / "again.json")
    assert {p.name: p.stat().st_mtime_ns for p in cache.iterdir()} == before
    bare = evaluate(run, config(tone_dataset, cache=False), out=tmp_path / "bare.json")
    for other in (again, bare):
        for a, b in zip(result["rows"], other["rows"], strict=True):
            for part in ("probe", "retrieval", "knn", "clustering"):
                assert a[part] == b[part]


def test_other_weights_do_not_meet_the_cache(
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path], result: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "other", seed=8)
    options = {"baselines": BaselineConfig(logmel=False)}
    first = evaluate(run, config(tone_dataset, **options))
    shutil.rmtree(run / "checkpoints")
    (run / "recipe.yaml").unlink()
    write_run(tmp_path / "third", seed=9)
    shutil.copytree(tmp_path / "third" / "checkpoints", run / "checkpoints")
    shutil.copy(tmp_path / "third" / "recipe.yaml", run)
    second = evaluate(run, config(tone_dataset, **options))
    assert first["model"]["digest"] != second["model"]["digest"]
    assert first["rows"][1]["retrieval"] != second["rows"][1]["retrieval"]
    # The untrained encoder depends on the architecture alone.
    assert first["rows"][0]["retrieval"] == second["rows"][0]["retrieval"]
    assert first["rows"][0]["probe"] == result["rows"][1]["probe"]


def test_all_layers_and_their_mix(run: Path, tone_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.json"
    result = evaluate(run, config(tone_dataset, layer="all"), out=out)
    assert [row["layer"] for row in result["layers"]] == [0, 1, 2]
    last = result["layers"][-1]
    assert result["rows"][-1]["layer"] == "last"
    assert result["rows"][-1]["probe"] == last["probe"]
    assert set(result["layer_mix"]) == {"random-init", "model"}
    assert sum(result["layer_mix"]["model"]["layer_weights"]) == pytest.approx(1)
    one = evaluate(run, config(tone_dataset, layer=1), out=tmp_path / "one.json")
    assert one["rows"][-1]["retrieval"]["roc_auc"] == pytest.approx(
        result["layers"][1]["retrieval"]["roc_auc"], abs=1e-4
    )


def test_a_checkpoint_file_gets_a_file_of_its_own(run: Path, tone_dataset: Path) -> None:
    checkpoint = run / "checkpoints" / "last.ckpt"
    options = {"baselines": BaselineConfig(logmel=False, random_init=False)}
    result = evaluate(checkpoint, config(tone_dataset, **options))
    assert [row["name"] for row in result["rows"]] == ["model (last)"]
    assert (run / "evaluation" / "tones@last.json").is_file()


def test_test_folds_limit_everything_to_what_the_model_has_not_seen(
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    source = {"path": str(tone_dataset), "exclude_folds": ["3"]}
    run = write_run(
        tmp_path / "post", objective={"name": "multilabel"}, data={"train": {"tones": source}}
    )
    held_out = evaluate(run, config(tone_dataset, test_folds=("3",)))
    assert held_out["exposure"]["labelled"] == 0 and held_out["warnings"] == []
    assert {row["retrieval"]["n"] for row in held_out["rows"]} == {12}
    assert {row["clustering"]["n"] for row in held_out["rows"]} == {12}
    assert {row["probe"]["n"] for row in held_out["rows"]} == {12}
    console = Console(width=200, file=io.StringIO())
    seen = evaluate(run, config(tone_dataset), out=tmp_path / "seen.json", console=console)
    assert seen["exposure"]["labelled"] == 36
    assert "labels of 36 of the 48 tested recordings" in seen["warnings"][0]
    assert "Warning: the model was trained with the labels" in console.file.getvalue()  # type: ignore[attr-defined]
    pre = write_run(
        tmp_path / "pre", objective={"name": "masked_tokens"}, data={"train": {"tones": source}}
    )
    unlabelled = evaluate(pre, config(tone_dataset))
    assert unlabelled["warnings"] == []
    assert "without labels, on 36 of the 48 tested recordings" in unlabelled["notes"][0]


@pytest.mark.parametrize(("layer", "head_pooling"), [("all", "mean"), ("last", "mean_std_max")])
def test_the_models_own_head_is_scored_on_the_shared_classes(
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path], layer: Any,
    head_pooling: str,
) -> None:  # fmt: skip
    labels = ["tone_3", "a bird", "tone_1", "tone_0"]
    run = write_run(tmp_path / "post", labels=labels, head_pooling=head_pooling)
    options = {"baselines": BaselineConfig(logmel=False), "layer": layer}
    result = evaluate(run, config(tone_dataset, **options))
    # The head takes what it was trained on, however the probe's features are pooled.
    again = evaluate(run, config(tone_dataset, pooling="mean", **options))
    assert again["rows"][-1]["head"] == result["rows"][-1]["head"]
    assert (result["protocol"]["pooling"], again["protocol"]["pooling"]) == ("mean_std", "mean")
    clips = prepare_task(config(tone_dataset)).clips
    model = load_model(run).model
    right = total = 0
    for i in range(len(clips)):
        name = clips.classes[int(clips.label_NC[i].argmax())]
        if name not in labels:
            continue
        wav = torch.from_numpy(clips.read(i, 0, int(clips.samples_N[i]))).float() / 32768
        logit = model.logits(wav[None], torch.tensor([len(wav)]))[0]
        logit[1] = -torch.inf
        right += labels[int(logit.argmax())] == name
        total += 1
    head = result["rows"][-1]["head"]
    assert (head["n"], head["classes"], head["metric"]) == (36, 3, "accuracy")
    assert total == 36
    assert head["value"] == pytest.approx(right / total)
    assert result["rows"][0]["head"] is None


def test_an_exported_folder_writes_beside_the_caller(
    run: Path, tone_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights outside a run folder: nothing may be written where they lie.
    lone = tmp_path / "weights" / "lone.ckpt"
    lone.parent.mkdir()
    shutil.copy(run / "checkpoints" / "last.ckpt", lone)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    options = {"baselines": BaselineConfig(logmel=False, random_init=False)}
    evaluate(lone, config(tone_dataset, **options))
    assert [p.name for p in work.iterdir()] == ["lone-tones.json"]
    assert [p.name for p in lone.parent.iterdir()] == ["lone.ckpt"]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"layer": 3}, RecipeError, r"layer=3: .* has 2 layers"),
        ({"splits": ("test",)}, DataError, "test"),
        ({"protocol": "splits"}, DataError, "no clips in split 'test'"),
        ({"test_folds": ("7",)}, DataError, "no fold 7"),
        ({"device": "tpu9000"}, RecipeError, "torch knows no such device"),
        ({"device": "cuda:99"}, RecipeError, "device=cuda:99 cannot be used on this machine"),
        ({"device": "meta"}, RecipeError, "device=meta cannot be used"),
    ],
)
def test_mistakes_leave_nothing_behind(
    options: dict[str, Any], kind: type[ChorusError], said: str,
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path],
) -> None:  # fmt: skip
    run = write_run(tmp_path / "r")
    wanted = {"data": str(tone_dataset), "probe": QUICK, "device": "cpu", **options}
    with pytest.raises(kind, match=said):
        evaluate(run, EvaluateConfig(**wanted))
    assert not (run / "evaluation").exists()
    assert kind.exit_code == 2


def test_a_published_division_is_measured_and_said(
    make_dataset: Callable[..., Path], make_tones: Any, run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    clips, labels = make_tones(32)
    for i, clip in enumerate(clips):
        clip["split"], clip["fold"] = ("train" if i < 20 else "test"), None
    clips[20]["group"] = clips[0]["group"]
    for clip in clips[:20]:
        clip["labels"] = [] if clip["labels"] == ["tone_3"] else clip["labels"]
    path = make_dataset(tmp_path / "published", clips, labels)
    options = ["shared_groups=allow", "rare_classes=keep", "retrieval.across=true", "task=single"]
    out = tmp_path / "published.json"
    evaluate_command(
        str(run), [f"data={path}", *options, "probe.epochs=5", "device=cpu", "cache=false"], out=out
    )
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    protocol = result["protocol"]
    assert (protocol["kind"], protocol["groups_in_two_parts"]) == ("splits", 1)
    assert list(protocol["kept_classes"]) == ["tone_3"]
    assert protocol["retrieval"]["across"] and protocol["shared_groups"] == "allow"
    assert len(result["warnings"]) == 2
    for row in result["rows"]:
        across = row["retrieval"]["across"]
        # Nothing in the training part is like the three clips of tone_3.
        assert (across["n"], across["gallery"]) == (9, [15]) and across["same_group_excluded"]
        turned = row["retrieval"]["across_published"]
        assert (turned["n"], turned["gallery"]) == (15, [12]) and turned["roc_auc"] is not None
    for text in ("1 groups are in two parts", "1 classes count that cannot", "across"):
        assert text in printed
    assert "embeddings of every row: mean and standard deviation over time" in printed


def test_damaged_weights_and_another_sample_rate_are_told(
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path], tiny_encoder: dict[str, Any]
) -> None:
    diverged = write_run(tmp_path / "nan", diverged=True)
    with pytest.raises(CheckpointError, match="all 48 clips are NaN or infinite"):
        evaluate(diverged, config(tone_dataset, baselines=BaselineConfig(logmel=False)))
    assert not list((diverged / "evaluation").rglob("*.json"))
    fast = write_run(tmp_path / "fast", encoder={**tiny_encoder, "sample_rate_hz": 32000})
    with pytest.raises(DataError, match=r"is at 16000 Hz, but .* was made for 32000 Hz"):
        evaluate(fast, config(tone_dataset))
    with pytest.raises(DataError, match="no dataset folder"):
        evaluate(fast, config(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nothing at"):
        evaluate(tmp_path / "no-run", config(tone_dataset))
    with pytest.raises(RecipeError, match="is a folder"):
        evaluate(write_run(tmp_path / "ok"), config(tone_dataset), out=tmp_path)


def test_the_printed_table_is_whole_without_colour(
    run: Path, tone_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_command(
        str(run),
        [f"data={tone_dataset}", "probe.epochs=5", "device=cpu", "layer=all"],
        preset="fast",
        out=tmp_path / "printed.json",
    )
    shown = capsys.readouterr().out
    assert "\x1b[" not in shown
    for word in ("log-mel", "random-init", "model", "layer 0", "learned mix",
                 "48 clips, 4 classes, 12 groups", "3 probe seeds", "printed.json"):  # fmt: skip
        assert word in shown
    logmel = next(line for line in shown.splitlines() if line.strip().startswith("log-mel"))
    assert logmel.count("±") == 2
    result = json.loads((tmp_path / "printed.json").read_text())
    assert "…" not in text_of(result_table(result), width=80)
    result["dataset"] = result["rows"][0]["name"] = "a[/b][bold]c[/bold]"
    assert text_of(result_table(result)).count("a[/b][bold]c[/bold]") == 2


def test_models_are_compared_in_one_table(
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path], result: dict[str, Any]
) -> None:
    other = evaluate(write_run(tmp_path / "post", seed=11), config(tone_dataset))
    results = {"pre-trained": result, "post-trained": other}
    rows = compared(results).rows
    assert [r.title for r in rows] == ["log-mel", "random-init", "pre-trained", "post-trained"]
    assert rows[3].figures["probe"].mean == other["rows"][-1]["probe"]["mean"]
    shown = text_of(comparison_table(results))
    for row in rows:
        line = next(x for x in shown.splitlines() if x.strip().startswith(row.title))
        assert f"{row.figures['probe'].mean:.3f} ± {row.figures['probe'].std:.3f}" in line
        assert f"{row.figures['roc_auc'].mean:.3f}" in line
        assert f"{row.figures['nmi'].mean:.3f}" in line
    wider = {**other, "protocol": {**other["protocol"], "window_s": 5.0}}
    with pytest.raises(DataError, match="cannot be compared: they differ in protocol"):
        compared({"a": result, "b": wider})
    # Before there were several probes, the linear one had no name.
    unnamed = {k: v for k, v in other["protocol"]["probe"].items() if k != "name"}
    earlier = {**other, "protocol": {**other["protocol"], "probe": unnamed}}
    assert len(compared({"a": result, "b": earlier}).rows) == 4
    assert Result.of(earlier).comparable == Result.of(other).comparable
    ridge = {**other, "protocol": {**other["protocol"], "probe": {"name": "ridge"}}}
    with pytest.raises(DataError, match="cannot be compared: they differ in protocol"):
        compared({"a": result, "b": ridge})
    with pytest.raises(DataError, match="no evaluation result"):
        comparison_table({})


def test_another_probe_is_chosen_by_name(run: Path, tone_dataset: Path, tmp_path: Path) -> None:
    asked = load_config(
        [f"data={tone_dataset}", "probe.name=ridge", "device=cpu", "retrieval.enabled=false",
         "clustering.enabled=false", "layer=all"]
    )  # fmt: skip
    found = evaluate(run, asked, out=tmp_path / "ridge.json")
    row = found["rows"][-1]["probe"]
    assert (row["name"], found["seeds"], row["seeds"], found["layer_mix"]) == ("ridge", 1, [0], {})
    assert set(row["penalty_per_fold"]) == set(found["folds"])
    assert 0.0 <= row["mean"] <= 1.0 and len(row["mean_ci95"]) == 2
    assert "one fit of the probe" in facts(found)
    assert str(result_table(found).columns[1].header) == "ridge probe\naccuracy"


def test_a_full_disk_leaves_the_earlier_result(
    run: Path, tone_dataset: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "evaluation" / "tones.json"
    before = path.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    # Where a disk is full, a file system may say so only now.
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="could not be written"):
        evaluate(run, config(tone_dataset, clustering=ClusteringConfig(enabled=False)))
    monkeypatch.undo()
    assert path.read_text() == before
    assert not [p for p in path.parent.iterdir() if p.name.endswith(".tmp")]
