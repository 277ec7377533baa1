"""The fuzzer of sound files: it finds nothing now, and would see what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.audio import decode as audio
from dawnchorus.data_prep.errors import UnusableAudio


def test_the_fuzzer_finds_nothing_in_a_few_hundred_inputs(tmp_path: Path) -> None:
    from scripts.fuzz_audio import fuzz

    tally = fuzz(seed=7, first=0, count=400, minutes=30, out=tmp_path / "findings")
    assert tally.findings == [] and tally.kinds.total() == 400
    assert tally.kinds["ok"] > 50 and tally.kinds["not_audio"] > 50
    assert tally.largest_mb < 100


def test_the_fuzzer_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.fuzz_audio import judge

    path = tmp_path / "a.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(16000)), 16000)
    spool = tmp_path / "spool"
    spool.mkdir()

    def raises(*_: object, **__: object) -> None:
        raise ZeroDivisionError("x")

    def grows(*_: object, **__: object) -> None:
        bytearray(600 << 20)[::4096] = b"x" * (600 << 8)
        raise UnusableAudio("corrupt", "")

    def leaves(*_: object, **__: object) -> None:
        (spool / "left").write_bytes(b"")
        raise UnusableAudio("corrupt", "")

    assert not judge(0, "a", path, spool, 1 << 20).wrong
    for wrong, kind in ((raises, "exception ZeroDivisionError"), (grows, "memory")):
        monkeypatch.setattr(audio, "decode", wrong)
        outcome = judge(0, "a", path, spool, 1 << 20)
        assert outcome.wrong and outcome.kind == kind
    monkeypatch.setattr(audio, "decode", leaves)
    assert judge(0, "a", path, spool, 1 << 20).kind == "spool file left"


def test_every_container_of_ffmpeg_has_a_seed() -> None:
    """A seed that cannot be made is an error; most inputs begin with one of FFmpeg's."""
    from scripts import fuzz_inputs

    names = [name for name, _ in fuzz_inputs.ffmpeg_seeds()]
    assert names == [f"{kind}-{codec}" for kind, codec, _ in fuzz_inputs._FFMPEG]
    assert len(names) == 20 and len(fuzz_inputs.seeds()) == 256
    made = [fuzz_inputs.make_input(0, k)[0].split("+")[0] for k in range(200)]
    assert sum(name in names for name in made) > 100
    with pytest.raises(Exception, match="no_such_codec"):
        fuzz_inputs._with_ffmpeg("mp4", "no_such_codec", 0)


@pytest.mark.parametrize("index", [8510, 65145])
def test_what_the_fuzzer_found_is_a_rejection(tmp_path: Path, index: int) -> None:
    """AAC in MPEG-TS with flipped bits: PyAV raises IndexError, which ended a preparation."""
    from dawnchorus.data_prep.audio.decode import decode
    from scripts.fuzz_inputs import make_input

    name, data = make_input(12, index)
    assert name.startswith("mpegts-aac")
    (tmp_path / "a.ts").write_bytes(data)
    with pytest.raises(UnusableAudio, match="IndexError"):
        decode(tmp_path / "a.ts", 16000)
