"""Errors of the preparation. Every message says what is wrong, where, and how to mend it."""

from __future__ import annotations

from dawnchorus.trainer.errors import ChorusError


class PrepError(ChorusError):
    """Something the user can mend; the command line prints the message alone, without a trace.

    Raised for wrong options, unreadable metadata, too many broken recordings, or an output
    folder that belongs to another preparation. No finished dataset is left behind by any of them.
    """

    exit_code = 2


class UnusableAudio(Exception):
    """One recording that is left out. `reason` is a short code; the message has the details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[UnusableAudio], tuple[str, str]]:
        """Pickle by the two arguments, not by the joined message."""
        return UnusableAudio, (self.reason, self.detail)


class CannotRead(Exception):
    """A decoder cannot read the file; another one may. `opened`: it failed after the start.
    `claimed_s`: it ended before this length, which the file states or holds.
    """

    def __init__(self, message: str, *, claimed_s: float = 0.0) -> None:
        super().__init__(message)
        self.claimed_s = claimed_s
        self.opened = False


class SpoolError(OSError):
    """The disk cannot take the decoded sound; the recording is not the cause."""
