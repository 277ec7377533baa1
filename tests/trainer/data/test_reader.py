from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from dawnchorus.trainer.data.index import Member, ShardIndex
from dawnchorus.trainer.data.reader import BrokenClip, ClipReader, LocalBytes, MemberFile
from dawnchorus.trainer.errors import DataError

WINDOW = 32000


def put(path: Path, content: bytes, samples: int, codec: str, before: int = 700) -> Member:
    """A file with these bytes somewhere inside it."""
    path.write_bytes(bytes(before) + content + bytes(900))
    return Member(str(path), before, len(content), codec, 16000, samples)


def encode(wav: np.ndarray, codec: str, subtype: str = "PCM_16", rate: int = 16000) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wav, rate, format=codec.upper(), subtype=subtype)
    return buffer.getvalue()


def read(member: Member, start: int, length: int = WINDOW) -> tuple[int, np.ndarray]:
    out = np.full(length, 77, dtype=np.int16)
    return ClipReader().read_window(member, start, out), out


# ------------------------------------------------------------------ the right samples


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_windows_of_a_long_piece_are_its_samples(
    long_pieces: dict[str, Path], long_wav: np.ndarray, codec: str
) -> None:
    index = ShardIndex.open(long_pieces[codec])
    reader = ClipReader()
    last = len(long_wav) - WINDOW
    rng = np.random.default_rng(0)
    for start in [0, 1, 4095, 4096, 4097, last - 1, last, *rng.integers(0, last, 40).tolist()]:
        for clip, wav in enumerate((long_wav, long_wav[::-1])):
            out = np.full(WINDOW, 77, dtype=np.int16)
            assert reader.read_window(index.member(clip), start, out) == WINDOW
            assert np.array_equal(out, wav[start : start + WINDOW]), (start, clip)


def test_short_clips_are_padded_with_zeros(
    short_and_long: Path, mixed_wavs: list[np.ndarray]
) -> None:
    index = ShardIndex.open(short_and_long)
    for clip, wav in enumerate(mixed_wavs):
        got, out = read(index.member(clip), 0)
        assert got == min(WINDOW, len(wav))
        assert np.array_equal(out[:got], wav[:got])
        assert not out[got:].any()


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_the_tail_of_a_clip_is_padded(
    long_pieces: dict[str, Path], long_wav: np.ndarray, codec: str
) -> None:
    got, out = read(ShardIndex.open(long_pieces[codec]).member(0), len(long_wav) - 1000)
    assert got == 1000
    assert np.array_equal(out[:1000], long_wav[-1000:])
    assert not out[1000:].any()


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WAVE" + body


def test_unusual_wav_files_are_read_too(tmp_path: Path) -> None:
    wav = np.random.default_rng(1).integers(-30000, 30000, 40000).astype(np.int16)
    plain = encode(wav, "wav")
    fmt, data = plain[20:36], wav.tobytes()
    extensible = (
        b"\xfe\xff"
        + fmt[2:]
        + bytes([22, 0, 16, 0, 4, 0, 0, 0])
        + (b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x008\x9bq")
    )
    files = {
        "plain": plain,
        "chunk first": riff((b"LIST", b"INFOabc"), (b"fmt ", fmt), (b"data", data)),
        "long chunk first": riff((b"LIST", bytes(5000)), (b"fmt ", fmt), (b"data", data)),
        "chunk last": riff((b"fmt ", fmt), (b"data", data), (b"LIST", b"INFO")),
        "extensible": riff((b"fmt ", extensible), (b"data", data)),
        "24 bit": encode(wav.astype(np.int32) << 16, "wav", "PCM_24"),
    }
    for name, content in files.items():
        got, out = read(put(tmp_path / "x", content, 40000, "wav"), 5000)
        assert got == WINDOW, name
        assert np.array_equal(out, wav[5000:37000]), name


# ------------------------------------------------------------------ what it costs


def test_a_window_of_a_long_piece_reads_a_fraction_of_it(
    long_pieces: dict[str, Path], long_wav: np.ndarray
) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    for codec, most in (("flac", 0.32), ("wav", 0.06)):
        member = ShardIndex.open(long_pieces[codec]).member(0)
        reader, out = ClipReader(), np.empty(WINDOW, dtype=np.int16)
        shares = []
        for start in range(0, len(long_wav) - WINDOW, 50_000):
            before = bytes_read()
            reader.read_window(member, start, out)
            shares.append((bytes_read() - before) / member.size)
        assert np.mean(shares) < most, codec


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_number_of_open_files_is_bounded(tmp_path: Path) -> None:
    content = encode(np.arange(1000, dtype=np.int16), "wav")
    members = [put(tmp_path / f"{i}.tar", content, 1000, "wav") for i in range(12)]
    before = open_files()
    reader, out = ClipReader(max_open=4), np.empty(1000, dtype=np.int16)
    for member in members * 2:
        assert reader.read_window(member, 0, out) == 1000
    assert open_files() == before + 4
    del reader
    assert open_files() == before


def test_a_reader_may_be_shared_with_a_forked_child(
    long_pieces: dict[str, Path], long_wav: np.ndarray
) -> None:
    """Both read through the same open files at the same time; positions must not mix."""
    index, reader = ShardIndex.open(long_pieces["flac"]), ClipReader()
    out = np.empty(WINDOW, dtype=np.int16)
    reader.read_window(index.member(0), 0, out)

    def all_right(seed: int) -> bool:
        for start in np.random.default_rng(seed).integers(0, 600_000, 60).tolist():
            reader.read_window(index.member(0), start, out)
            if not np.array_equal(out, long_wav[start : start + WINDOW]):
                return False
        return True

    child = os.fork()
    if not child:
        os._exit(0 if all_right(1) else 1)
    assert all_right(2)
    assert os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("codec", ["flac", "wav"])
@pytest.mark.parametrize("samples", [40_000, 640_000])
def test_what_is_not_the_clip_is_refused(
    tmp_path: Path, long_wav: np.ndarray, codec: str, samples: int
) -> None:
    content = encode(long_wav[:samples], codec)
    good = put(tmp_path / "good", content, samples, codec)
    assert read(good, 100)[0] == WINDOW
    with pytest.raises(BrokenClip, match=r"instead of b'(fLaC|RIFF)': the index does not fit"):
        read(good._replace(offset=good.offset + 512), 100)
    with pytest.raises(BrokenClip, match="the index says"):
        read(good._replace(samples=samples + 9), 100)
    with pytest.raises(BrokenClip, match="the index says"):
        read(good._replace(sample_rate_hz=32000), 100)
    with pytest.raises(BrokenClip, match="the clip has 0"):
        read(good._replace(samples=0), 0)
    stereo = encode(np.stack([long_wav[:samples]] * 2, axis=1), codec)
    with pytest.raises(BrokenClip, match="the index says"):
        read(put(tmp_path / "stereo", stereo, samples, codec), 100)


@pytest.mark.parametrize("samples", [40_000, 640_000])
def test_damaged_flac_is_refused_and_its_good_part_still_read(
    tmp_path: Path, long_wav: np.ndarray, samples: int
) -> None:
    content = bytearray(encode(long_wav[:samples], "flac"))
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    member = put(tmp_path / "x", bytes(content), samples, "flac")
    with pytest.raises(BrokenClip, match="cannot be decoded"):
        read(member, 0, samples)
    got, out = read(member, 0, 8000)
    assert got == 8000
    assert np.array_equal(out, long_wav[:8000])


@pytest.mark.parametrize("codec", ["flac", "wav"])
@pytest.mark.parametrize("samples", [40_000, 640_000])
def test_a_file_that_ends_early_is_refused(
    tmp_path: Path, long_wav: np.ndarray, codec: str, samples: int
) -> None:
    member = put(tmp_path / "x", encode(long_wav[:samples], codec), samples, codec)
    os.truncate(member.path, member.offset + member.size // 2)
    with pytest.raises(BrokenClip):
        read(member, samples - WINDOW)


def test_a_missing_file_is_no_broken_clip(tmp_path: Path) -> None:
    member = Member(str(tmp_path / "gone.tar"), 0, 10, "flac", 16000, 10)
    with pytest.raises(DataError, match=r"cannot read .*gone\.tar: .*No such file"):
        read(member, 0)


def test_a_read_error_inside_the_decoder_is_not_blamed_on_the_clip(
    long_pieces: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    member = ShardIndex.open(long_pieces["flac"]).member(0)
    pread, calls = os.pread, iter(range(100))

    def failing(fd: int, count: int, offset: int) -> bytes:
        if next(calls) > 2:
            raise OSError(5, "Input/output error")
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(DataError, match="Input/output error"):
        read(member, 300_000)


def test_member_file_behaves_like_a_file(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(5000)
    (tmp_path / "x").write_bytes(b"before" + content + b"after")
    rng = np.random.default_rng(1)
    with (tmp_path / "x").open("rb") as real:
        ours, plain = MemberFile(LocalBytes(real.fileno()), 6, 5000, block=64), io.BytesIO(content)
        for _ in range(300):
            if rng.random() < 0.5:
                count = int(rng.integers(0, 300))
                assert ours.read(count) == plain.read(count)
            else:
                whence = int(rng.integers(0, 3))
                offset = int(rng.integers(0, 5100)) - (plain.tell() if whence == 1 else 0)
                offset -= 5000 if whence == 2 else 0
                assert ours.seek(offset, whence) == plain.seek(offset, whence)
            assert ours.tell() == plain.tell()
