"""The demo archive: repeatable, varied, with folds that a model can be tested on."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from scripts import make_archive
from scripts.make_archive import RATES_HZ, Row, plan, record, recordists, write_archive
from scripts.synthetic_calls import SPECIES


def short(row: Row, seconds: float = 3.0) -> Row:
    return dataclasses.replace(row, duration_s=seconds)


def test_the_plan_has_every_species_in_every_fold_and_whole_recordists() -> None:
    rows = plan(0, 22)
    assert len(rows) == 22 * len(SPECIES) == 264
    cells = Counter((row.species, row.recordist.fold) for row in rows)
    assert min(cells.values()) >= 4 and len(cells) == 5 * len(SPECIES)
    folds = {row.recordist.name: row.recordist.fold for row in rows}
    assert Counter(folds.values()) == dict.fromkeys(range(5), 3)
    assert {row.recordist.rate_hz for row in rows} == set(RATES_HZ)
    assert {row.recordist.format for row in rows} == {"wav", "flac", "mp3", "ogg"}
    assert 0.15 < sum(row.stereo for row in rows) / len(rows) < 0.35
    durations = np.array([row.duration_s for row in rows])
    assert durations.min() >= 3 and durations.max() <= 90 and durations.max() > 75
    assert 1.0 < durations.sum() / 3600 < 1.6


def test_another_seed_is_another_archive_and_the_same_one_the_same() -> None:
    assert plan(0, 5) == plan(0, 5) != plan(1, 5)
    row = short(plan(0, 5)[0])
    np.testing.assert_array_equal(record(row, 0), record(row, 0))
    assert not np.array_equal(record(row, 0), record(row, 1))


@pytest.mark.parametrize("species", sorted(SPECIES))
def test_every_species_stays_in_range(species: str) -> None:
    for who in recordists(np.random.default_rng(0))[:5]:
        row = Row(number=1, species=species, background="", recordist=who, duration_s=3.0,
                  stereo=True, when="")  # fmt: skip
        wav_TC = record(row, 0)
        assert wav_TC.shape == (3 * who.rate_hz, 2) and np.isfinite(wav_TC).all()
        assert 0.005 < np.abs(wav_TC).max() <= 0.95
        assert not np.array_equal(wav_TC[:, 0], wav_TC[:, 1])


def test_order_in_time_is_what_tells_the_species_of_a_genus_apart() -> None:
    """Averaged over time they sound alike; a rising note rises, a falling one falls."""
    from scripts.synthetic_calls import Voice

    voice = Voice(pitch=1.0, tempo=1.0, tilt=1.5)

    def spectrum_B(species: str) -> np.ndarray:
        songs = [SPECIES[species](voice, np.random.default_rng(i), 16000) for i in range(6)]
        wav_T = np.concatenate(songs)
        seconds_NT = wav_T[: len(wav_T) // 16000 * 16000].reshape(-1, 16000)
        power_F = (np.abs(np.fft.rfft(seconds_NT)) ** 2).sum(0)
        power_B = power_F[800:6400].reshape(-1, 400).sum(1)
        return power_B / power_B.sum()

    spectra = {species: spectrum_B(species) for species in SPECIES}
    for a, b in itertools.combinations(SPECIES, 2):
        apart = np.abs(spectra[a] - spectra[b]).sum()
        assert apart < 0.1 if a.split()[0] == b.split()[0] else apart > 0.2, (a, b)

    for species, sign in (("Chirpa ascendens", 1), ("Chirpa descendens", -1)):
        note_T = SPECIES[species](voice, np.random.default_rng(0), 16000)[:5120]
        early, late = (
            np.abs(np.fft.rfft(part)).argmax() * 16000 / len(part)
            for part in (note_T[1000:2000], note_T[3200:4200])
        )
        assert sign * (late - early) > 300


@pytest.mark.slow
def test_the_archive_is_written_and_can_be_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dawnchorus.data_prep.archives.own_folder import prepare_folder

    monkeypatch.setattr(make_archive, "LONGEST_S", 6.0)
    write_archive(tmp_path / "archive", seed=3, per_species=5, jobs=2)
    with (tmp_path / "archive" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert set(rows[0]) >= {"filename", "label", "recordist", "licence", "group_id", "fold",
                            "datetime"}  # fmt: skip
    planned = {row.filename: row for row in plan(3, 5)}
    for row in [row for row in rows if row["filename"].endswith(("wav", "flac"))][:4]:
        wav_TC, rate_hz = soundfile.read(
            tmp_path / "archive" / row["filename"], dtype="float32", always_2d=True
        )
        expected_TC = record(planned[row["filename"]], 3)
        assert rate_hz == planned[row["filename"]].recordist.rate_hz
        np.testing.assert_allclose(wav_TC, expected_TC, atol=1e-4)
    stats = prepare_folder(tmp_path / "archive", tmp_path / "set", jobs=2)
    assert stats["recordings"] == 60 and stats["rejected"] == 0 and stats["labels"] == 12
    assert set(stats["folds"]) == set("01234")
    noise = prepare_folder(tmp_path / "archive" / "noise", tmp_path / "noise", jobs=1)
    assert noise["recordings"] == 30 and noise["labels"] == 0
