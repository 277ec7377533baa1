"""Errors of submission. Every message says what is wrong, where, and how to mend it."""


class SubmitError(Exception):
    """Something the user can mend; nothing was submitted."""

    exit_code = 2
