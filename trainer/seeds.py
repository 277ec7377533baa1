"""Seeds that depend on several numbers: which run, what for, which step."""

from __future__ import annotations


def mix_seed(*parts: int) -> int:
    """A 63-bit seed from several integers (splitmix64 finaliser of each, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + (part & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
