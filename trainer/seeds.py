"""Random numbers that follow from several numbers: which run, what for, which step or position.

Nothing here has a state. A number is the same whichever process asks for it, in whatever batch and
on whatever device, so micro-batch, accumulation and ranks change nothing that is drawn here.

Shape legend: B clips; other tensors have any shape that broadcasts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Purpose:
    """What a seed is for; no two uses share one."""

    INIT = 0
    """Initial weights."""
    DROPOUT = 1
    """Dropout, by the first position of a micro-batch."""
    LAYERS = 2
    """Which layers an optimiser step skips."""
    VALID = 3
    """Validation clips and examples, by position in the validation list."""
    TRAIN = 5
    """Training clips, by position in the stream."""


class Use:
    """What a number drawn from the key of a clip decides."""

    MASK = 0
    """Order of the tokens of a view: parts view, token."""
    MIX = 1
    """Whether, and with which share, its partner is mixed in: part which number."""
    SPAN = 6
    """Spans of hidden tokens: part 0 how many, part 1 with the token where they begin."""
    CENTRE = 2
    """Where the blocks of a view's mask lie: parts view, block."""
    FILLER = 3
    """What a decoder gets where the encoder saw nothing: parts view, token."""
    SHAPE = 4
    """Sides and place of a rectangle of a view's mask: parts view, rectangle, which number."""
    POINT = 5
    """Whether a token is a point around which a view is masked: parts view, token."""
    REVIVE = 7
    """Which tokens take the places of codes that nobody chooses: part token."""


def mix_seed(*parts: int) -> int:
    """A 63-bit seed from several integers (splitmix64 finaliser of each, Steele et al. 2014)."""
    state = _GOLDEN
    for part in parts:
        state = (state + (part & _MASK) + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state >> 1


def mix_seeds(*parts: int | Tensor) -> Tensor:
    """`mix_seed` of every element, on the device of the parts and without a wait for the host.

    Args:
        parts: integers and int64 tensors that broadcast; one tensor at least.

    Returns:
        int64 in [0, 2^63), equal to `mix_seed` of the same numbers on any device.
    """
    state: Any = _GOLDEN
    for part in parts:
        if isinstance(state, int) and isinstance(part, int):
            state = (state + (part & _MASK) + _GOLDEN) & _MASK
            state = ((state ^ (state >> 30)) * _FIRST) & _MASK
            state = ((state ^ (state >> 27)) * _SECOND) & _MASK
            state ^= state >> 31
            continue
        # int64 arithmetic wraps, so the bits are those of unsigned numbers.
        number = _signed(part & _MASK) if isinstance(part, int) else part
        state = (_signed(state) if isinstance(state, int) else state) + number + _signed(_GOLDEN)
        state = (state ^ _shift(state, 30)) * _signed(_FIRST)
        state = (state ^ _shift(state, 27)) * _signed(_SECOND)
        state = state ^ _shift(state, 31)
    shifted: Tensor = _shift(state, 1)
    return shifted


def uniforms(*parts: int | Tensor) -> Tensor:
    """Uniform numbers in (0, 1), never 0 nor 1, float64: 53 bits of `mix_seeds`."""
    return ((mix_seeds(*parts) >> 11).double() + 0.5) * 2.0**-52


def symmetric_betas(alpha: float, *parts: int | Tensor) -> Tensor:
    """Numbers from Beta(alpha, alpha), float64, in [0, 1]; any alpha above 0, no rejection.

    For a = alpha + 1, b = (1 + cos(2 pi V) sqrt(1 - U^(2 / (2 a - 1)))) / 2 is from Beta(a, a)
    (Ulrich 1984, as in Devroye, Non-Uniform Random Variate Generation, IX.4.1). A Gamma(alpha) is a
    Gamma(alpha + 1) times W^(1 / alpha), and of two of them only the ratio counts, which b gives.
    """
    u, v, w, z = (uniforms(*parts, i) for i in range(4))
    reach = (1 - u ** (2 / (2 * alpha + 1))).sqrt() * (2 * math.pi * v).cos()
    ratio = (1 + reach).log() - (1 - reach).log() + (w.log() - z.log()) / alpha
    return ratio.sigmoid()


def _signed(number: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return number - (1 << 64) if number >> 63 else number


def _shift(bits: Any, by: int) -> Any:
    """Shift right and fill with zeros; `>>` alone repeats the sign of an int64."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
