"""Panels that show people a model's output for a few clips: their kinds, and their file.

An objective's `look` returns panels for each clip; `save_examples` keeps them in the run folder and
the report draws every kind, without knowing which objective made it. Torch-free.

Shape legend: T samples of a waveform, X times, F bands from low to high, N tokens
(n = bands * t + f, f from low to high).
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.files import whole_file

EXAMPLES = "examples.npz"
_WINDOW_S = 0.025
_FLOOR = 1e-10
"""Power of a sample at -100 dB of full scale: digital silence."""
_TEXT = "examples"


@dataclass(frozen=True)
class TokenPanel:
    """Masks, targets and predictions of a clip's tokens, without those of padding."""

    token_s: float
    """Seconds from one token to the next in time."""
    bands: int = 1
    """Tokens of one time, from low to high frequency."""
    mask_N: NDArray[np.bool_] | None = None
    """True where the token was hidden from the encoder."""
    code_N: NDArray[np.integer[Any]] | None = None
    """The target code of each token."""
    predicted_N: NDArray[np.integer[Any]] | None = None
    """The likeliest code of each token."""

    def __post_init__(self) -> None:
        if self.token_s <= 0 or self.bands < 1:
            raise ValueError(f"token_s is {self.token_s}, bands {self.bands}: both are above 0")
        sizes = {a.shape for a in (self.mask_N, self.code_N, self.predicted_N) if a is not None}
        if len(sizes) != 1 or len(next(iter(sizes))) != 1 or next(iter(sizes))[0] % self.bands:
            raise ValueError(
                f"the token arrays have the shapes {sorted(sizes)}; they have one length, a "
                f"multiple of {self.bands} bands"
            )

    @property
    def times(self) -> int:
        """Tokens along time."""
        given = (a for a in (self.mask_N, self.code_N, self.predicted_N) if a is not None)
        return next(given).size // self.bands

    @property
    def hits_N(self) -> NDArray[np.int8] | None:
        """1: predicted right, 0: wrong, -1: not hidden. None where an array is missing."""
        if self.mask_N is None or self.code_N is None or self.predicted_N is None:
            return None
        return np.where(self.mask_N, self.code_N == self.predicted_N, -1).astype(np.int8)


@dataclass(frozen=True)
class ImagePanel:
    """A picture over time and frequency, such as what the model reconstructs."""

    title: str
    image_XF: NDArray[np.floating[Any]]
    step_s: float
    """Seconds from one row of the picture to the next."""

    def __post_init__(self) -> None:
        if self.image_XF.ndim != 2 or not self.image_XF.size or self.step_s <= 0:
            raise ValueError(f"image_XF has the shape {self.image_XF.shape}, step_s {self.step_s}")


@dataclass(frozen=True)
class ScoresPanel:
    """The classes with the highest scores, highest first."""

    scores: tuple[tuple[str, float], ...]
    """(label, score between 0 and 1)."""


Panel = TokenPanel | ImagePanel | ScoresPanel


@dataclass(frozen=True)
class Spectrogram:
    """A picture of the sound itself, in the bands that the encoder hears."""

    level_XF: NDArray[np.floating[Any]]
    """Power in dB of full scale."""
    hop_s: float
    band_hz: tuple[float, ...]
    """Centre of each band, rising."""

    def __post_init__(self) -> None:
        if self.level_XF.ndim != 2 or self.level_XF.shape[1] != len(self.band_hz):
            raise ValueError(
                f"level_XF has the shape {self.level_XF.shape} for {len(self.band_hz)} bands"
            )

    @property
    def duration_s(self) -> float:
        """Seconds of the picture."""
        return len(self.level_XF) * self.hop_s


@dataclass(frozen=True)
class Example:
    """A clip with the panels of the model's output."""

    source: str
    key: str
    labels: tuple[str, ...]
    sound: Spectrogram
    panels: tuple[Panel, ...] = ()


def mel_centres(bands: int, low_hz: float, high_hz: float) -> tuple[float, ...]:
    """Centres of triangular bands of equal width on Kaldi's mel scale, m = 1127 ln(1 + f / 700).

    The edges divide mel(low_hz) .. mel(high_hz) into bands + 1 equal parts (reference: Kaldi's
    mel-computations.cc).
    """
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (low_hz, high_hz))
    mel_F = low + (high - low) * np.arange(1, bands + 1) / (bands + 1)
    return tuple((700.0 * np.expm1(mel_F / 1127.0)).tolist())


def spectrogram(
    wav_T: NDArray[Any],
    sample_rate_hz: int,
    *,
    hop_s: float = 0.010,
    band_hz: Sequence[float] | None = None,
) -> Spectrogram:
    """Draw a waveform on a front end's own hop and band axis.

    Args:
        wav_T: samples, int16 or floating point in [-1, 1].
        sample_rate_hz: of `wav_T`.
        hop_s: seconds between the front end's frames.
        band_hz: centres of the front end's bands, rising. None: 128 mel bands up to half the
            sample rate, for a front end without bands.
    """
    scale = 32768.0 if wav_T.dtype == np.int16 else 1.0
    wav_T = wav_T.astype(np.float32) / np.float32(scale)
    if band_hz is None:
        band_hz = mel_centres(128, 20.0, sample_rate_hz / 2)
    window = max(round(_WINDOW_S * sample_rate_hz), 2)
    if len(wav_T) < window:
        wav_T = np.pad(wav_T, (0, window - len(wav_T)))
    n_fft = 1 << (window - 1).bit_length()
    shape_T = np.hanning(window).astype(np.float32)
    starts = np.round(
        np.arange(0, len(wav_T) - window + 1, max(hop_s * sample_rate_hz, 1.0))
    ).astype(int)
    bin_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate_hz).astype(np.float64)
    bands_SF = _triangles(np.asarray(band_hz, np.float64), bin_hz)
    windows_XT = np.lib.stride_tricks.sliding_window_view(wav_T, window)[starts] * shape_T
    power_XS = np.square(np.abs(np.fft.rfft(windows_XT, n_fft, axis=1)) / shape_T.sum())
    level_XF = 10.0 * np.log10(power_XS @ bands_SF + _FLOOR)
    return Spectrogram(level_XF.astype(np.float16), hop_s, tuple(map(float, band_hz)))


def _triangles(centre_F: NDArray[np.float64], bin_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [bins, bands]: each band falls off to its neighbours' centres, and sums to one.

    A band narrower than a bin takes the spectrum between the two bins beside its centre.
    """
    if len(centre_F) == 1:
        return np.full((len(bin_S), 1), 1 / len(bin_S))
    step = np.diff(centre_F)
    left_F = centre_F - np.concatenate([step[:1], step])
    right_F = centre_F + np.concatenate([step, step[-1:]])
    rise_SF = (bin_S[:, None] - left_F) / (centre_F - left_F)
    fall_SF = (right_F - bin_S[:, None]) / (right_F - centre_F)
    inside_SF = np.clip(np.minimum(rise_SF, fall_SF), 0.0, None)
    near_SF = np.clip(1 - np.abs(bin_S[:, None] - centre_F) / (bin_S[1] - bin_S[0]), 0.0, None)
    wide_F = (right_F - left_F) >= 2 * (bin_S[1] - bin_S[0])
    weight_SF = np.where(wide_F, inside_SF, near_SF)
    return np.asarray(weight_SF / np.maximum(weight_SF.sum(axis=0), 1e-9))


# --------------------------------------------------------------------------- the file


def save_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write `examples.npz` whole or not at all: the arrays, and all else as JSON in one of them.

    Raises:
        OSError: the file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    records = [_packed(example, f"{k}", arrays) for k, example in enumerate(examples)]
    arrays[_TEXT] = np.array(json.dumps(records, ensure_ascii=False))
    with whole_file(folder / EXAMPLES) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_examples(folder: Path) -> list[Example]:
    """Read what `save_examples` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is damaged, of another form, or contradicts itself.
    """
    path = folder / EXAMPLES
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        records = json.loads(str(arrays[_TEXT]))
        return [_unpacked(Example, record, arrays) for record in records]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"{EXAMPLES} could not be read ({said}): it is damaged or of another version; training "
            "writes it when it ends"
        ) from error


_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (TokenPanel, ImagePanel, ScoresPanel, Spectrogram)
}


def _packed(value: Any, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A dataclass as JSON; its arrays go to `arrays` and are named by where they belong."""
    record: dict[str, Any] = {"kind": type(value).__name__}
    for field in fields(value):
        item, place = getattr(value, field.name), f"{name}.{field.name}"
        if isinstance(item, np.ndarray):
            arrays[place] = item
            record[field.name] = {"array": place}
        elif field.name == "panels":
            record["panels"] = [_packed(p, f"{place}.{i}", arrays) for i, p in enumerate(item)]
        elif isinstance(item, Spectrogram):
            record[field.name] = _packed(item, place, arrays)
        else:
            record[field.name] = item
    return record


def _unpacked(kind: Any, record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Any:
    values = {name: item for name, item in record.items() if name != "kind"}
    for name, item in values.items():
        if isinstance(item, dict):
            values[name] = (
                arrays[item["array"]]
                if "array" in item
                else _unpacked(_KINDS[item["kind"]], item, arrays)
            )
        elif name == "panels":
            values[name] = tuple(_unpacked(_KINDS[p["kind"]], p, arrays) for p in item)
        elif name == "scores":
            values[name] = tuple((str(label), float(score)) for label, score in item)
        elif isinstance(item, list):
            values[name] = tuple(item)
    return kind(**values)
