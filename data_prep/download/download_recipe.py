"""The recipe of a download: how fast each host may be asked, and when to give up.

`recipes/download/polite.yaml` states every value with its source; a recipe of the user's own names
what differs and inherits the rest from it.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.tools.shipped_recipes import find_recipe, recipe_folder
from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.about import package_version

GB = 10**9


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostLimits(_Part):
    """What one host is asked at most; None is no limit."""

    requests_per_s: float | None = Field(gt=0)
    concurrency: int = Field(ge=1, le=64)
    gb_per_hour: float | None = Field(default=None, gt=0)
    gb_per_day: float | None = Field(default=None, gt=0)
    etag_is_md5: bool = False
    """The host's ETag of 32 hexadecimal digits is the MD5 of the file (Amazon S3 is known)."""

    def windows(self) -> list[tuple[float, float]]:
        """(seconds, bytes) of the limits on volume."""
        pairs = ((3600.0, self.gb_per_hour), (86400.0, self.gb_per_day))
        return [(seconds, gb * GB) for seconds, gb in pairs if gb is not None]


class Retry(_Part):
    """Tries of one file within one run."""

    attempts: int = Field(ge=1, le=100)
    first_wait_s: float = Field(ge=0)
    longest_wait_s: float = Field(ge=0)
    longest_retry_after_s: float = Field(ge=0)


class Breaker(_Part):
    """When a host is left alone."""

    failures_in_a_row: int = Field(ge=1)
    pause_s: float = Field(ge=0)
    give_up_after: int = Field(ge=1)


class Timeout(_Part):
    """How long a silent or a dripping server is waited for."""

    connect_s: float = Field(gt=0)
    read_s: float = Field(gt=0)
    slow_bytes_per_s: float = Field(ge=0)
    slow_after_s: float = Field(gt=0)


class Files(_Part):
    """Limits of one file and of the disk."""

    max_mb: float = Field(gt=0)
    max_redirects: int = Field(ge=0, le=20)
    checkpoint_mb: float = Field(gt=0)
    keep_free_gb: float = Field(ge=0)


class Estimate(_Part):
    """For the sizes and times that are told before anything is fetched."""

    bytes_per_s: dict[str, float]
    unknown_duration_s: float = Field(gt=0)
    megabytes_per_s: float = Field(gt=0)

    @field_validator("bytes_per_s")
    @classmethod
    def _has_other(cls, value: dict[str, float]) -> dict[str, float]:
        if "other" not in value or min(value.values()) <= 0:
            raise ValueError("needs the key 'other', and numbers above 0")
        return value

    def size_bytes(self, duration_s: float, ending: str) -> float:
        """Return the expected size of a recording of this length and file name ending."""
        rate = self.bytes_per_s.get(ending, self.bytes_per_s["other"])
        return (duration_s or self.unknown_duration_s) * rate


class DownloadRecipe(_Part):
    """All that decides how servers are treated."""

    contact: str
    default: HostLimits
    hosts: dict[str, HostLimits]
    hosts_at_once: int = Field(ge=1, le=1000)
    private_hosts: tuple[str, ...] = ()
    """Hosts (with ":port" or without) that may be asked though they are in a private network."""
    retry: Retry
    breaker: Breaker
    timeout: Timeout
    files: Files
    estimate: Estimate

    @field_validator("contact")
    @classmethod
    def _goes_into_a_header(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable()):
            raise ValueError("must be printable ASCII, an e-mail address or a web page")
        return value.strip()

    @field_validator("hosts")
    @classmethod
    def _lower(cls, value: dict[str, HostLimits]) -> dict[str, HostLimits]:
        return {name.lower(): limits for name, limits in value.items()}

    def limits(self, host: str) -> tuple[str, HostLimits]:
        """Return the name that the limits of `host` (with ":port" where unusual) go by, and them.

        Subdomains share the limits of the domain that the recipe names.
        """
        if host in self.hosts:
            return host, self.hosts[host]
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        parts = name.split(".")
        for i in range(len(parts)):
            domain = ".".join(parts[i:])
            if domain in self.hosts:
                return domain, self.hosts[domain]
        return host, self.default

    @field_validator("private_hosts")
    @classmethod
    def _lower_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)

    @property
    def user_agent(self) -> str:
        """What the servers are told; they can reach who is asking."""
        return (
            f"dawnchorus/{package_version()} (bioacoustic training data; contact: {self.contact})"
        )


def load_recipe(name: str, *, contact: str | None = None) -> DownloadRecipe:
    """Return the recipe `name` (shipped, or the path of a YAML file), over the shipped `polite`.

    `contact` overrides the recipe's. Raises PrepError that names every wrong key at once.
    """
    base = _read(str(recipe_folder("download") / "polite.yaml"))
    own = _read(str(find_recipe("download", name)))
    merged = plain_yaml.merged(base, own)
    if contact:
        merged["contact"] = contact
    try:
        return DownloadRecipe.model_validate(merged)
    except ValidationError as err:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors()]
        raise PrepError(f"The recipe {name} is not valid.\n  " + "\n  ".join(lines)) from err


def _read(path: str) -> dict[str, Any]:
    from pathlib import Path

    try:
        found = plain_yaml.load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise PrepError(f"The recipe {path} cannot be read: {err}") from err
    if not isinstance(found, dict | None):
        raise PrepError(f"The recipe {path} is not a YAML mapping (key: value).")
    return found or {}
