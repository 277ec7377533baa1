from __future__ import annotations

import pytest

from dawnchorus.trainer.public import name_of, places_in, public_recipe, without_places

RECIPE = {
    "name": "birds", "runs": "/home/jane/runs", "seed": 3,
    "init_from": "/home/jane/runs/ssl/checkpoints/last.ckpt",
    "encoder": {"name": "beats", "layers": 2, "mel_mean": 15.4},
    "objective": {"name": "masked_tokens", "tokenizer": {"path": "../tokens/t.pt"}},
    "data": {
        "train": {"main": {"path": "s3://museum-private/jane/birds/", "splits": ["train"]}},
        "valid": {"main": {"path": "datasets/secret project/owls", "folds": None}},
        "noise": {"sea": {"path": "~/noise"}},
        "remote": {"cache": "/scratch/jane"}, "window_s": 5.0, "workers": 7,
    },
    "train": {"devices": 4, "nodes": 2, "accelerator": "gpu", "global_batch": 16},
    "log": {"wandb": "online", "wandb_project": "secret-project"},
    "card": {
        "author": "Jane", "licence_link": "https://x.org/a/b",
        "initial_weights": "/home/jane/BEATs.pt, see https://aka.ms/a/beats", "tags": ["a/b"],
    },
}  # fmt: skip


def test_names_in_place_of_places() -> None:
    assert public_recipe(RECIPE) == {
        "name": "birds", "seed": 3, "init_from": "ssl",
        "encoder": {"name": "beats", "layers": 2, "mel_mean": 15.4},
        "objective": {"name": "masked_tokens", "tokenizer": {"path": "t.pt"}},
        "data": {
            "train": {"main": {"path": "birds", "splits": ["train"]}},
            "valid": {"main": {"path": "owls", "folds": None}},
            "noise": {"sea": {"path": "noise"}},
            "window_s": 5.0,
        },
        "train": {"global_batch": 16},
        "card": {
            "author": "Jane", "licence_link": "https://x.org/a/b",
            "initial_weights": "BEATs.pt, see https://aka.ms/a/beats", "tags": ["a/b"],
        },
    }  # fmt: skip
    assert RECIPE["init_from"] == "/home/jane/runs/ssl/checkpoints/last.ckpt"  # untouched


def test_places_that_no_file_may_name() -> None:
    assert places_in(RECIPE) == {
        "/home/jane/runs", "/home/jane/runs/ssl/checkpoints/last.ckpt", "../tokens/t.pt",
        "s3://museum-private/jane/birds", "~/noise", "/scratch/jane",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/a/b/c", "c"), ("/a/b/c/", "c"), ("c", "c"), ("s3://bucket/x/c", "c"),
        ("C:\\data\\c", "c"), ("/r/run/checkpoints/best.ckpt", "run"),
        ("https://h/x/c.pt?token=1", "c.pt"),
    ],
)  # fmt: skip
def test_name(place: str, name: str) -> None:
    assert name_of(place) == name


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("12 of 100 in /home/jane/data/esc (train)", "12 of 100 in esc (train)"),
        ("from gs://b/x/y, or s3://b/z.", "from y, or z."),
        ("it lies in ~/data/x", "it lies in x"),
        (
            "see https://x.org/a/b and/or 3/4 of 1 kHz/s",
            "see https://x.org/a/b and/or 3/4 of 1 kHz/s",
        ),
    ],
)
def test_sentences(text: str, public: str) -> None:
    assert without_places(text) == public
