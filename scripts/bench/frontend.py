"""The log-mel front end against torchaudio's loop over clips: `python -m scripts.bench.frontend`.

32 clips of 10 s. torchaudio computes one clip at a time (`compliance.kaldi.fbank`); avex's batched
version of it is compared too where `.venv-avex` is. With a CUDA device, clips per second there.
"""

from __future__ import annotations

import sys
import time

import torch
from torchaudio.compliance import kaldi

from dawnchorus.trainer.frontends.kaldi import BeatsLogMel
from scripts.bench import Report, figure, print_table
from scripts.bench.paired import (
    AVEX_PYTHON,
    NO_AVEX,
    AvexWorker,
    Sample,
    interleave,
    measure,
    report_ratio,
)

CLIPS, SAMPLES = 32, 160000
ROUNDS = 15


def run(report: Report) -> None:
    """Report ratios of time, and speeds."""
    wav_BT = 0.1 * torch.randn(CLIPS, SAMPLES, generator=torch.Generator().manual_seed(0))
    front_end = BeatsLogMel()

    def ours() -> Sample:
        return measure(lambda: front_end(wav_BT))

    def torchaudio_loop() -> Sample:
        return measure(
            lambda: torch.stack(
                [
                    kaldi.fbank(
                        wav_T[None] * 2**15,
                        num_mel_bins=128,
                        sample_frequency=16000,
                        frame_length=25,
                        frame_shift=10,
                    )
                    for wav_T in wav_BT
                ]
            )
        )

    fast, loop = interleave([ours, torchaudio_loop], ROUNDS, warm_ups=2)
    report_ratio(report, "front end / torchaudio's loop", fast, loop, "<= 1.0")
    report(figure("front end on the CPU", [CLIPS / s.wall_s for s in fast], "clips/s"))
    if AVEX_PYTHON.exists():
        with AvexWorker(torch.get_num_threads()) as avex:
            fast, theirs = interleave([ours, lambda: avex.run("frontend")], ROUNDS, warm_ups=2)
        report_ratio(report, "front end / avex", fast, theirs, "")
    else:
        print(NO_AVEX)
    if torch.cuda.is_available():
        report(figure("front end on the GPU", _on_gpu(front_end), "clips/s"))


def _on_gpu(front_end: BeatsLogMel) -> list[float]:
    clips = 256
    front_end = front_end.cuda()
    wav_BT = 0.1 * torch.randn(clips, SAMPLES, device="cuda")
    length_B = torch.full((clips,), SAMPLES, device="cuda")
    speeds = []
    for turn in range(12):
        torch.cuda.synchronize()
        start = time.perf_counter()
        front_end(wav_BT, length_B)
        torch.cuda.synchronize()
        if turn >= 2:
            speeds.append(clips / (time.perf_counter() - start))
    return speeds


if __name__ == "__main__":
    sys.exit(0 if print_table(run) else 1)
