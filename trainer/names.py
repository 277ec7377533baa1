"""Checks names of runs, and finds characters that no name, path or title may hold."""

from __future__ import annotations

import re
import unicodedata

NAME = re.compile(r"\w[\w.+=@-]{0,149}")
"""A run's name becomes a folder, a job of SLURM, a file on wandb and a word in commands."""

_SECRET = re.compile(
    r"(?:^|_)(?:API_?)?KEYS?(?:_|$)|APIKEY|TOKENS?(?:_|$)|SECRET|PASSW(?:OR)?D|PASSPHRASE|CREDENTIAL|CREDS"
    r"|_PWD$|(?:^|_)(?:AUTH|BEARER|COOKIES?|PAT)(?:_|$)",
    re.IGNORECASE,
)
_A_FILE = re.compile(r"_(?:FILE|PATH|DIR|SOCK)$", re.IGNORECASE)


def names_a_secret(variable: str) -> bool:
    """Whether the name of an environment variable suggests a password or a token.

    `WANDB_API_KEY` does; `AWS_SHARED_CREDENTIALS_FILE` does not, because it names a place.
    """
    return bool(_SECRET.search(variable)) and not _A_FILE.search(variable)


def check_name(name: str) -> str:
    """Return a valid name of a run. Raises ValueError with the reason and a valid alternative."""
    if NAME.fullmatch(name):
        return name
    mended = re.sub(r"[^\w.+=@-]+", "_", name).strip("_.+=@-")[:150]
    better = f"; {mended!r} would do" if NAME.fullmatch(mended) else ""
    raise ValueError(
        "a name is a folder, a job and a word in commands: letters, digits and . _ + = @ - only, "
        f"beginning with a letter, a digit or _, at most 150 of them{better}"
    )


def control_characters(text: str) -> str:
    """The first control character of a text, as Python writes it; empty without one.

    A line break in a path or a title would begin a new line in a job script.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
            return repr(character)
    return ""


def check_plain(text: str) -> str:
    """Return a text without control characters. Raises ValueError if it has any."""
    if found := control_characters(text):
        raise ValueError(f"holds the control character {found}")
    return text
