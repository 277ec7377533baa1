"""Errors of submission. Every message says what is wrong, where, and how to mend it."""

from __future__ import annotations

from dawnchorus.trainer.errors import ChorusError


class SubmitError(ChorusError):
    """A mistake that the user can mend; nothing was submitted."""

    exit_code = 2
