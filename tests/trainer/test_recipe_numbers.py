"""The numbers of the paper's recipes are those of their sources."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dawnchorus.trainer.recipe import Recipe, load_recipe
from dawnchorus.trainer.registry import build_encoder


def numbers(recipe: Recipe, *sections: str) -> dict[str, object]:
    """Every resolved value of some sections."""
    flat: dict[str, object] = {}
    for section in sections:
        for key, value in recipe.resolved()[section].items():
            inside = value.items() if isinstance(value, dict) else [("", value)]
            flat |= {f"{section}.{key}.{k}".rstrip("."): v for k, v in inside}
    return flat


# The released self-supervised checkpoints (BEATs_iter3, iter3+ AS2M: the `cfg` in the .pt).
BEATS_BASE = {
    "encoder.name": "beats", "encoder.layers": 12, "encoder.dim": 768, "encoder.ffn_dim": 3072,
    "encoder.heads": 12, "encoder.patch_dim": 512, "encoder.patch": 16, "encoder.conv_pos": 128,
    "encoder.conv_pos_groups": 16, "encoder.num_buckets": 320, "encoder.max_distance": 800,
    "encoder.dropout": 0.1, "encoder.attention_dropout": 0.1, "encoder.activation_dropout": 0.0,
    "encoder.input_dropout": 0.1, "encoder.layer_drop": 0.05,
    "encoder.frontend": "beats", "encoder.sample_rate_hz": 16000, "encoder.mel_bins": 128,
    "encoder.mel_mean": 15.41663, "encoder.mel_std": 6.55582,  # Microsoft's code
    "encoder.grad_checkpoint": False,  # no effect on the result
}  # fmt: skip
PRETRAINING = BEATS_BASE | {
    "objective.name": "masked_tokens",
    "objective.mask_ratio": 0.75,  # BEATs, section 3.2
    "objective.keep_multiple_of": 8,  # ours: 128 tokens instead of 124, for attention kernels
    "objective.masks_per_clip": 1,  # BEATs
    "objective.position_mode": "true",  # ours: ESPnet has "compact", Microsoft's is not known
    "objective.predictor_layers": 3, "objective.predictor_dim": None,  # ESPnet
    "objective.label_smoothing": 0.0,  # BEATs does not say; ESPnet 0.1
    "objective.clean_targets": False,  # as in the code of BEATs and EAT, which add no noise
    "objective.min_perplexity": None,  # ours: a gate before training
    "objective.tokenizer.name": "random_projection",  # BEATs, iteration 1
    "objective.tokenizer.codebook_size": 1024, "objective.tokenizer.codebook_dim": 256,  # BEATs
    "objective.tokenizer.patch_dim": 512,  # BEATs
    "objective.tokenizer.seed": 45,  # ESPnet, 7Msounds_inf.yaml
    "objective.tokenizer.whiten": 0.0,  # as published
    "augment.noise_prob": 0.5, "augment.snr_db": [-10.0, 20.0],  # AVEX: in pre-training too
    "augment.mixup_prob": 0.0, "augment.mixup_alpha": 0.4,  # none; without effect
    "optim.name": "adamw", "optim.lr": 5e-4,  # BEATs
    "optim.betas": [0.9, 0.98], "optim.eps": 1e-12, "optim.weight_decay": 0.01,  # ESPnet
    "optim.clip_norm": 1.0, "optim.schedule": "linear", "optim.min_lr": 1e-5,  # ESPnet
    "optim.warmup_steps": 32000, "optim.warmup_from": 0.02,  # ESPnet: 1e-5 to 5e-4
    "optim.layer_decay": 1.0,  # layer_wise_gradient_decay_ratio of the released checkpoints
    "optim.ema_decay": None, "optim.ema_warmup": True,  # neither; without effect
    "optim.decay_fraction": 0.2,  # wsd only
    "optim.restarts": [],
    "optim.head_only_steps": 0, "optim.head_lr": None, "optim.head_warmup_steps": 0,  # no head
}  # fmt: skip
# AVEX (arXiv 2508.11845): table 5 where it is known, else the published configuration
# `sl_beats_animalspeak_audioset_h100.yml` and the code that ran it.
POSTTRAINING = BEATS_BASE | {
    "objective.name": "multilabel", "objective.loss": "bce",  # both
    "objective.ignore_cross_source_negatives": False,  # code
    "objective.pooling": "mean",  # both
    "objective.head_dropout": 0.0, "objective.head_bias": "default",  # code
    "objective.gamma_positive": 1.0, "objective.gamma_negative": 4.0,  # asymmetric only
    "objective.margin": 0.05, "objective.frame_max_weight": 0.0,
    "objective.teacher": None, "objective.teacher_weight": 0.5,
    "augment.noise_prob": 0.5, "augment.snr_db": [-10.0, 20.0],  # paper; configs [-5, 20]
    "augment.mixup_prob": 0.5,  # paper; code: one pair in half of the batches
    "augment.mixup_alpha": 0.4,  # code
    "optim.name": "adamw", "optim.lr": 1e-4,  # both
    "optim.betas": [0.9, 0.999], "optim.eps": 1e-8,  # torch's defaults: adam_betas is not set
    "optim.weight_decay": 0.01, "optim.schedule": "cosine",  # both
    "optim.clip_norm": None, "optim.ema_decay": None, "optim.ema_warmup": True,  # none
    "optim.min_lr": 1e-6,  # config
    "optim.warmup_steps": 3000,  # config, second stage
    "optim.warmup_from": 0.1,  # code: LinearLR(start_factor=0.1)
    "optim.layer_decay": 1.0,  # decay ratio of BEATs_iter3_plus_AS2M.pt, which it starts from
    "optim.decay_fraction": 0.2,  # wsd only
    "optim.restarts": [],
    "optim.head_lr": 5e-4,  # config; a digest of the paper 1e-4
    "optim.head_only_steps": 22600, "optim.head_warmup_steps": 4000,  # 2 of 10 epochs; config
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ssl_beats_base", PRETRAINING),
        ("sl_beats_all", POSTTRAINING),
        # Config of the bio run: warm-up of the head 5,000; 2 of 10 epochs of its clips.
        ("sl_beats_bio",
         POSTTRAINING | {"optim.head_only_steps": 6600, "optim.head_warmup_steps": 5000}),
    ],
)  # fmt: skip
def test_every_number_of_the_paper_s_recipes_is_that_of_its_source(
    name: str, expected: dict[str, object]
) -> None:
    assert numbers(load_recipe(name), "encoder", "objective", "augment", "optim") == expected


def test_the_paper_s_length_batch_and_data() -> None:
    ssl, every, bio = (load_recipe(n) for n in ("ssl_beats_base", "sl_beats_all", "sl_beats_bio"))
    # BEATs: 400 k steps of 5,600 s; AVEX: batch 256, 10 epochs of what we estimate as its clips.
    assert (ssl.train.max_steps, ssl.train.global_batch) == (400_000, 560)
    assert (every.train.max_steps, every.train.global_batch) == (113_000, 256)
    assert (bio.train.max_steps, bio.train.global_batch) == (33_000, 256)
    for recipe in (ssl, every, bio):
        assert recipe.data.window_s == 10.0  # both
        assert recipe.train.precision == "bf16"  # ESPnet, AVEX
        assert recipe.optim.head_only_steps == pytest.approx(
            0 if recipe is ssl else 0.2 * recipe.train.total_steps, rel=0.01
        )
    assert set(ssl.data.train) == {"audioset"}
    assert set(bio.data.train) == {"xeno_canto", "inaturalist", "watkins", "animal_sound_archive"}
    assert set(every.data.train) == {*bio.data.train, "audioset"}
    # The paper's sources are drawn as their clips come.
    assert all(source.weight is None for source in every.data.train.values())


# ESPnet's egs2/audioset/ssl1: conf/tok_beats_base.yaml and conf/ds_beats_tok.json.
TOKENIZER = BEATS_BASE | {
    "encoder.layer_drop": 0.0, "encoder.input_dropout": 0.0,
    "objective.name": "tokenizer_distillation",
    "objective.teacher": "${oc.env:CHORUS_TEACHER,runs/ssl_beats_base}",
    "objective.codebook_size": 1024, "objective.codebook_dim": 256,  # BEATs
    "objective.codebook_decay": 0.99,  # Microsoft's code
    "objective.revive_below": 0.01,  # ours, after Jukebox; BEATs revives none
    "objective.commitment_weight": 10.0, "objective.estimator_layers": 3,
    "objective.clean_targets": False, "objective.centre_targets": False,  # BEATs
    "augment.noise_prob": 0.0, "augment.mixup_prob": 0.0,
    "optim.lr": 5e-5, "optim.betas": [0.9, 0.98], "optim.eps": 1e-12, "optim.weight_decay": 0.01,
    "optim.clip_norm": 1.0, "optim.schedule": "linear", "optim.min_lr": 1e-6,
    "optim.warmup_steps": 32000, "optim.warmup_from": 0.02, "optim.layer_decay": 1.0,
    "optim.ema_decay": None,
}  # fmt: skip


def test_the_tokenizer_is_espnet_s() -> None:
    recipe = load_recipe("tokenizer_beats_base")
    found = numbers(recipe, "encoder", "objective", "augment", "optim")
    assert {key: found[key] for key in TOKENIZER} == TOKENIZER
    assert {key for key in found if key.startswith("objective.")} <= set(TOKENIZER)
    # 70,000 frames of clips of 998, rounded up to what eight devices share; 14 epochs of about
    # 28,700 steps.
    assert (recipe.train.max_steps, recipe.train.global_batch) == (400_000, 72)


def test_beats_large_is_openbeats() -> None:
    """`openbeats_large.yaml` in ESPnet, with the front end of `beats_base`."""
    large = load_recipe("ssl_beats_base", ["encoder=beats_large"])
    assert numbers(large, "encoder") == BEATS_BASE | {
        "encoder.layers": 24, "encoder.dim": 1024, "encoder.ffn_dim": 4096, "encoder.heads": 16,
    }  # fmt: skip


# EAT's config/pretraining_AS2M.yaml, and the paper's own numbers where it has others.
EAT = {
    "encoder.layers": 12, "encoder.dim": 768, "encoder.ffn_dim": 3072, "encoder.heads": 12,
    "encoder.norm": "post", "encoder.norm_eps": 1e-6, "encoder.cls_token": True,
    "encoder.positions": "sincos", "encoder.drop_path": 0.0, "encoder.frontend": "eat",
    "objective.mask_ratio": 0.8, "objective.mask_block": 5, "objective.mask_adjust": 0.07,
    "objective.masks_per_clip": 16, "objective.target": "feed_forward",
    "objective.average_layers": None, "objective.teacher_decay": 0.9998,
    "objective.teacher_end_decay": 0.99999, "objective.teacher_anneal_steps": 100_000,
    "objective.decoder_layers": 6, "objective.decoder_dim": None, "objective.decoder_kernel": 3,
    "objective.decoder_groups": 16, "objective.filler_std": 0.01, "objective.frame_weight": 1.0,
    "objective.utterance_weight": 192.0,  # what its code does with 12 clips per GPU; paper: 1
    "optim.betas": [0.9, 0.95], "optim.weight_decay": 0.05, "optim.clip_norm": 4.0,
    "optim.schedule": "cosine", "optim.warmup_steps": 53_333, "optim.min_lr": 0.0,
    "optim.lr": 1e-4, "augment.noise_prob": 0.5, "augment.mixup_prob": 0.0,  # the paper's
}  # fmt: skip


@pytest.mark.parametrize(
    ("corpus", "mean", "std", "clips"),
    [("audioset", -4.268, 4.569, 2.05e6), ("bio", -7.343, 4.41212, 0.85e6),
     ("all", -5.553, 4.606, 2.9e6)],
)  # fmt: skip
def test_the_paper_s_eat(corpus: str, mean: float, std: float, clips: float) -> None:
    """30 epochs in batches of 48, with the mean and deviation of the corpus."""
    recipe = load_recipe(f"ssl_eat_{corpus}")
    found = numbers(recipe, "encoder", "objective", "augment", "optim")
    assert {key: found[key] for key in EAT} == EAT
    assert (found["encoder.mel_mean"], found["encoder.mel_std"]) == (mean, std)
    assert recipe.train.global_batch == 48
    assert recipe.train.max_steps == pytest.approx(30 * clips / 48, rel=0.01)
    if corpus != "audioset":
        later = load_recipe(f"sl_eat_{corpus}")
        found = numbers(later, "encoder", "objective", "optim")
        # Both start from the pre-training on all.
        assert (found["encoder.mel_mean"], found["encoder.mel_std"]) == (-5.553, 4.606)
        assert (found["optim.head_lr"], found["optim.lr"]) == (1e-4, 8e-5)
        assert (found["optim.head_warmup_steps"], found["optim.warmup_steps"]) == (2000, 6000)
        assert found["objective.pooling"] == "cls" and later.train.global_batch == 256


# bioacoustic-ssl: configs/module/{mae,model/mae}.yaml, data/transforms/pretrain.yaml, README.
XENOMAE = {
    "encoder.layers": 12, "encoder.dim": 768, "encoder.ffn_dim": 3072, "encoder.heads": 12,
    "encoder.patch": 16, "encoder.norm": "pre", "encoder.norm_eps": 1e-6, "encoder.qk_norm": True,
    "encoder.qk_norm_eps": 1e-5, "encoder.cls_token": True,
    "encoder.positions": "sincos", "encoder.drop_path": 0.0,
    "encoder.frontend": "mel_db", "encoder.sample_rate_hz": 32000, "encoder.mel_bins": 128,
    "encoder.low_hz": 50.0, "encoder.top_db": 80.0, "encoder.peak_normalise": True,
    "objective.mask_ratio": 0.75, "objective.masker": "random", "objective.masks_per_clip": 1,
    "objective.normalise_pixels": True, "objective.pixel_eps": 1e-4,
    "objective.decoder_layers": 8, "objective.decoder_dim": 512, "objective.decoder_heads": 16,
    "optim.lr": 1e-4, "optim.betas": [0.9, 0.95], "optim.weight_decay": 1e-4,
    "optim.clip_norm": 1.0, "optim.schedule": "cosine", "optim.min_lr": 1e-6,
    "optim.warmup_steps": 50_000,  # 5 %
}  # fmt: skip


def test_the_mae_at_32_khz_is_xenomae() -> None:
    recipe = load_recipe("ssl_mae_xc_32k")
    found = numbers(recipe, "encoder", "objective", "optim")
    assert {key: found[key] for key in XENOMAE} == XENOMAE
    assert (recipe.train.max_steps, recipe.train.global_batch) == (1_000_000, 256)
    assert recipe.data.window_s == 5.0
    c: Any = recipe.encoder
    assert (c.fft_samples, c.hop) == (1024, 320)
    # XenoMAE has 256, of which the last column is mostly padding.
    with torch.device("meta"):
        assert build_encoder(recipe.encoder).grid(501).places == 248
