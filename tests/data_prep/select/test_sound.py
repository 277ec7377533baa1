"""Fingerprints and comparison: real sound, and the sounds that trip fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.select.compare import compare, fast_length
from dawnchorus.data_prep.select.fingerprints import DIMENSIONS, fingerprint_pcm
from dawnchorus.data_prep.select.neighbours import candidates
from dawnchorus.data_prep.select.same_sound import find_same
from dawnchorus.data_prep.select.sound import Audio, take_prints
from dawnchorus.trainer.progress import Progress
from scripts.bench_duplicates import accuracy

Write = Callable[..., Path]


def pcm(wav_T: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wav_T * 32768), -32768, 32767).astype(np.int16)


def vectors(wav_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    samples = pcm(wav_T)
    return fingerprint_pcm(lambda start, stop: samples[start:stop], samples.size)


def find(paths: list[Path], cache: Path, jobs: int = 1) -> set[tuple[int, int]]:
    """Places of the pairs that are the same."""
    audios = [Audio(str(path)) for path in paths]
    prints = take_prints(audios, cache, max_s=600, jobs=jobs, progress=Progress())
    found = find_same(
        audios, prints.vectors(), prints.duration_s_R, cache, jobs=jobs, progress=Progress()
    )
    return {(a, b) for a, b, _ in found}


@pytest.mark.slow
def test_real_clips_and_their_copies(real_sound: Path) -> None:
    """Every seventh clip of ESC-10, five copies of each: all found, nothing else."""
    result = accuracy(real_sound / "esc10", every=7, hard=False, jobs=1)
    total = hits = 0
    for key, value in result.items():
        if key.startswith("recall"):
            hits += int(value.split("/")[0])
            total += int(value.split("/")[1])
    # Each copy with its original, and all pairs of the six.
    assert total == (5 + 15) * 58
    assert hits >= 0.99 * total
    assert result["precision"] >= 0.99


def test_vectors_are_unit_and_at_two_seconds(make_chirps: Callable[..., np.ndarray]) -> None:
    at_V, vector_VD = vectors(make_chirps(1, 11.0))
    assert at_V.tolist() == [0, 1, 2, 3, 4, 5]
    assert vector_VD.shape == (6, DIMENSIONS)
    assert np.allclose(np.linalg.norm(vector_VD.astype(float), axis=1), 1, atol=2e-3)


def test_silence_has_no_vectors() -> None:
    rng = np.random.default_rng(0)
    assert vectors(np.zeros(80000))[0].size == 0
    assert vectors(rng.choice([-1, 0, 1], 80000) / 32768)[0].size == 0  # dither


def test_block_size_does_not_matter(
    make_chirps: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    wav_T = make_chirps(3, 9.0)
    whole = vectors(wav_T)[1]
    monkeypatch.setattr("dawnchorus.data_prep.select.fingerprints._BLOCK", 100)
    assert np.allclose(vectors(wav_T)[1], whole, atol=2e-3)


def test_steady_sounds_match_themselves_only(tmp_path: Path, write_wav: Write) -> None:
    """Tones, noises of one colour, hum: a copy is found, its neighbours are not."""
    rng = np.random.default_rng(5)
    time_T = np.arange(80000) / 16000
    brown_T = np.cumsum(rng.standard_normal(80000))
    kinds = [0.3 * np.sin(2 * np.pi * hz * time_T) for hz in (440, 445, 880, 3000)]
    kinds += [0.1 * rng.standard_normal(80000) for _ in range(4)]
    kinds += [0.3 * brown_T / np.abs(brown_T).max()]
    kinds += [
        sum(0.1 * np.sin(2 * np.pi * k * hz * time_T) for k in (1, 2, 3)) for hz in (100, 120)
    ]
    paths = []
    for i, wav_T in enumerate(kinds):
        paths.append(write_wav(tmp_path / f"{i}.wav", wav_T))
        paths.append(write_wav(tmp_path / f"{i}-copy.ogg", np.roll(wav_T, 800) * 0.25))
    found = find(paths, tmp_path / "cache")
    assert {(a, b) for a, b in found if a // 2 != b // 2} == set()
    assert found == {(2 * i, 2 * i + 1) for i in range(len(kinds))}


@pytest.mark.parametrize("shift_ms", [0, 37, 100])
def test_half_second_clips(
    shift_ms: int, tmp_path: Path, write_wav: Write, make_chirps: Callable[..., np.ndarray]
) -> None:
    paths = []
    for i in range(20):
        wav_T = make_chirps(100 + i, 0.5)
        paths.append(write_wav(tmp_path / f"{i}.wav", wav_T))
        late_T = np.concatenate([np.zeros(16 * shift_ms), wav_T])[: wav_T.size]
        paths.append(write_wav(tmp_path / f"{i}.mp3", 0.3 * late_T))
    found = find(paths, tmp_path / "cache")
    assert {(a, b) for a, b in found if a // 2 != b // 2} == set()
    assert len(found) >= 19


def test_a_cut_is_found_in_a_long_recording(
    tmp_path: Path, write_wav: Write, make_chirps: Callable[..., np.ndarray]
) -> None:
    """Also where the cut begins between two windows."""
    long_T = np.concatenate([make_chirps(s, 10.0) for s in range(300, 306)])
    paths = [write_wav(tmp_path / "long.flac", long_T)]
    for i, start_s in enumerate((0.0, 13.37, 52.0)):
        start = int(start_s * 16000)
        paths.append(write_wav(tmp_path / f"cut{i}.ogg", long_T[start : start + 80000]))
    paths.append(write_wav(tmp_path / "other.wav", make_chirps(400, 60.0)))
    assert find(paths, tmp_path / "cache") == {(0, 1), (0, 2), (0, 3)}


def test_all_pairs_of_many_copies(
    tmp_path: Path,
    write_wav: Write,
    make_chirps: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More copies than a recording has neighbours, at any place of a long one."""
    monkeypatch.setattr("dawnchorus.data_prep.select.neighbours.NEIGHBOURS", 3)
    wav_T = make_chirps(77, 40.0)
    rng = np.random.default_rng(0)
    paths = [write_wav(tmp_path / "long.flac", wav_T)]
    for i in range(9):
        start = int(rng.integers(0, 16000))
        paths.append(write_wav(tmp_path / f"{i}.ogg", wav_T[320000 + start :][:160000]))
    assert len(find(paths, tmp_path / "cache")) == 10 * 9 // 2


def test_compare_tells_lag_and_shared_part(make_chirps: Callable[..., np.ndarray]) -> None:
    a_T, b_T = make_chirps(7, 6.0), make_chirps(8, 6.0)
    late = compare(pcm(a_T), pcm(0.1 * a_T[8000:]))
    assert late.same
    assert late.lag_s == pytest.approx(0.5, abs=1e-3)
    assert late.overlap_s == pytest.approx(5.5, abs=1e-3)
    assert late.shared == 1.0
    half = compare(pcm(a_T), pcm(np.concatenate([a_T[:64000], b_T[64000:]])))
    assert half.same
    assert half.shared == pytest.approx(4 / 6, abs=0.01)
    assert not compare(pcm(a_T), pcm(b_T)).same
    assert not compare(pcm(a_T), np.zeros(80000, np.int16)).same
    assert not compare(pcm(a_T), pcm(a_T[:100])).same


def test_compare_is_symmetric_and_blind_to_polarity(make_chirps: Callable[..., np.ndarray]) -> None:
    a_T = make_chirps(9)
    b_T = -0.5 * a_T[1600:]
    one, two = compare(pcm(a_T), pcm(b_T)), compare(pcm(b_T), pcm(a_T))
    assert one.same
    assert two.same
    assert one.lag_s == pytest.approx(-two.lag_s)


def test_cache_is_used_and_follows_the_file(
    tmp_path: Path,
    write_wav: Write,
    make_chirps: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [write_wav(tmp_path / f"{i}.wav", make_chirps(i, 2.0)) for i in range(4)]
    audios = [Audio(str(path)) for path in [*paths, tmp_path / "gone.wav"]]

    def prints() -> list[str]:
        found = take_prints(audios, tmp_path / "c", max_s=60, jobs=1, progress=Progress())
        assert found.reason_R == ["", "", "", "", "missing"]
        return found.pcm_sha1_R

    first = prints()
    decoded: list[str] = []
    from dawnchorus.data_prep.select import fingerprints

    real = fingerprints.fingerprint_file

    def counted(path: Path, *, max_s: float, segment: object = None) -> object:
        decoded.append(path.name)
        return real(path, max_s=max_s)

    monkeypatch.setattr(fingerprints, "fingerprint_file", counted)
    assert prints() == first
    assert decoded == []
    write_wav(paths[2], make_chirps(99, 2.5))
    second = prints()
    assert decoded == ["2.wav"]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]


def test_stopped_fingerprinting_keeps_what_is_done(
    tmp_path: Path,
    write_wav: Write,
    make_chirps: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dawnchorus.data_prep.select import fingerprints

    audios = [
        Audio(str(write_wav(tmp_path / f"{i:02d}.wav", make_chirps(i, 1.0)))) for i in range(16)
    ]
    real = fingerprints.fingerprint_file
    decoded: list[str] = []

    def dies(path: Path, *, max_s: float, segment: object = None) -> object:
        if len(decoded) == 12:
            raise KeyboardInterrupt
        decoded.append(path.name)
        return real(path, max_s=max_s)

    monkeypatch.setattr(fingerprints, "fingerprint_file", dies)
    with pytest.raises(KeyboardInterrupt):
        take_prints(audios, tmp_path / "c", max_s=60, jobs=1, progress=Progress())
    monkeypatch.setattr(fingerprints, "fingerprint_file", real)
    decoded.clear()
    monkeypatch.setattr(
        fingerprints,
        "fingerprint_file",
        lambda path, *, max_s, segment=None: (decoded.append(path.name), real(path, max_s=max_s))[
            1
        ],
    )
    found = take_prints(audios, tmp_path / "c", max_s=60, jobs=1, progress=Progress())
    assert len(decoded) == 8  # the finished half was written when the rest was stopped
    assert all(found.pcm_sha1_R)


def test_processes_give_the_same(
    tmp_path: Path, write_wav: Write, make_chirps: Callable[..., np.ndarray]
) -> None:
    paths = []
    for i in range(10):
        wav_T = make_chirps(i, 2.0)
        paths += [
            write_wav(tmp_path / f"{i}.wav", wav_T),
            write_wav(tmp_path / f"{i}.ogg", wav_T),
        ]
    assert find(paths, tmp_path / "one") == find(paths, tmp_path / "two", jobs=2)


def test_inverted_file_finds_what_all_pairs_find(monkeypatch: pytest.MonkeyPatch) -> None:
    from dawnchorus.data_prep.select import neighbours

    rng = np.random.default_rng(0)
    base = rng.standard_normal((1500, DIMENSIONS))
    both = np.concatenate([base, base + 0.3 * rng.standard_normal(base.shape)])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    owner = np.arange(len(both))
    some = neighbours.Vectors(both.astype(np.float16), owner, np.zeros(len(both), np.int32))
    exact = candidates(some, jobs=1)
    monkeypatch.setattr(neighbours, "EXACT", 100)
    cells = candidates(some, jobs=1)
    want = {(i, i + 1500) for i in range(1500)}
    assert want <= set(zip(exact.a_P.tolist(), exact.b_P.tolist(), strict=True))
    got = set(zip(cells.a_P.tolist(), cells.b_P.tolist(), strict=True))
    assert len(want & got) >= 0.995 * len(want)


def test_kinds_are_kept_apart() -> None:
    from dawnchorus.data_prep.select import neighbours

    vector_VD = np.tile(np.eye(DIMENSIONS, dtype=np.float16)[:1], (4, 1))
    four = neighbours.Vectors(vector_VD, np.arange(4), np.zeros(4, np.int32))
    kind_R = np.array([0, 0, 1, 1], np.int8)
    pairs = candidates(four, jobs=1, kind_R=kind_R, forbidden=[(1, 1)])
    assert (2, 3) not in set(zip(pairs.a_P.tolist(), pairs.b_P.tolist(), strict=True))
    pairs = candidates(four, jobs=1, kind_R=kind_R, forbidden=[(0, 0), (1, 1)])
    assert set(zip(pairs.a_P.tolist(), pairs.b_P.tolist(), strict=True)) == {
        (0, 2), (0, 3), (1, 2), (1, 3)
    }  # fmt: skip


@pytest.mark.parametrize("samples", [1, 2, 7, 1000, 80000, 160001, 1 << 20])
def test_fast_length(samples: int) -> None:
    length = fast_length(samples)
    assert samples <= length < 1.26 * samples + 1
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    assert length == 1


def test_vectors_are_mapped_from_a_file_and_a_distinct_source_is_not_searched_for_itself(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(3)
    paths = []
    for i, sound in enumerate((0, 0, 1, 1, 2)):
        noise_T = np.random.default_rng(sound).standard_normal(16000 * 8)
        wav_T = 0.1 * noise_T + 1e-4 * rng.standard_normal(16000 * 8)
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], wav_T, 16000)
    audios = [Audio(str(path)) for path in paths]
    cache = tmp_path / "c"
    prints = take_prints(audios, cache, max_s=60, jobs=1, progress=Progress())
    vectors = prints.vectors()
    assert isinstance(vectors.vector_VD, np.memmap) and len(vectors.at_V) == len(vectors.owner_V)
    some = prints.vectors(np.array([False, True, False, True, False]))
    assert set(some.owner_V.tolist()) == {1, 3}
    np.testing.assert_array_equal(
        some.vector_VD, np.asarray(vectors.vector_VD)[np.isin(vectors.owner_V, [1, 3])]
    )

    def pairs(kinds: list[int], **options: object) -> set[tuple[int, int]]:
        found = find_same(
            audios, vectors, prints.duration_s_R, cache, jobs=1, progress=Progress(),
            kind_R=np.array(kinds, np.int8), **options,
        )  # fmt: skip
        return {(a, b) for a, b, _ in found}

    assert pairs([0] * 5) == {(0, 1), (2, 3)}
    # 0 and 1 of a source without near copies; 2 of it, 3 of another: found from the other side.
    assert pairs([2, 2, 2, 0, 0], forbidden=[(2, 2)], silent=2) == {(2, 3)}
