"""The recipe of a download: how fast each host may be asked, and when to give up.

`recipes/download/polite.yaml` states every value with its source; a recipe of the user's own names
what differs from it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dawnchorus.trainer.about import package_version
from dawnchorus.trainer.compose import load
from dawnchorus.trainer.kinds import DOWNLOAD

GB = 10**9


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class HostLimits(_Part):
    """What one host is asked at most; None is no limit."""

    requests_per_s: float | None = Field(gt=0)
    """Requests a second; redirects count."""
    concurrency: int = Field(ge=1, le=64)
    """Requests at the same time."""
    gb_per_hour: float | None = Field(default=None, gt=0)
    """10^9 bytes in any hour."""
    gb_per_day: float | None = Field(default=None, gt=0)
    """10^9 bytes in any day."""
    etag_is_md5: bool = False
    """The host's ETag of 32 hexadecimal digits is the MD5 of the file (Amazon S3 is known)."""

    def windows(self) -> list[tuple[float, float]]:
        """(seconds, bytes) of the limits on volume."""
        pairs = ((3600.0, self.gb_per_hour), (86400.0, self.gb_per_day))
        return [(seconds, gb * GB) for seconds, gb in pairs if gb is not None]


class Retry(_Part):
    """Tries of one file within one run."""

    attempts: int = Field(ge=1, le=100)
    """Tries of one file in one run."""
    first_wait_s: float = Field(ge=0)
    """Wait before the second try, doubled each time, times a random 0.5 to 1."""
    longest_wait_s: float = Field(ge=0)
    """Longest such wait."""
    longest_retry_after_s: float = Field(ge=0)
    """A server that asks for a longer wait is left alone until the next run."""


class Breaker(_Part):
    """When a host is left alone."""

    failures_in_a_row: int = Field(ge=1)
    """Failures in a row (a missing file is none) after which a host is left alone."""
    pause_s: float = Field(ge=0)
    """For how long at first; twice as long each time."""
    give_up_after: int = Field(ge=1)
    """Pauses without a success between them after which the host is given up."""


class Timeout(_Part):
    """How long a silent or a dripping server is waited for."""

    connect_s: float = Field(gt=0)
    """Longest wait for a connection."""
    read_s: float = Field(gt=0)
    """Longest wait in which nothing arrives."""
    slow_bytes_per_s: float = Field(ge=0)
    """A server that sends less than this over `slow_after_s` has stalled."""
    slow_after_s: float = Field(gt=0)
    """Over how long the speed is measured."""


class Files(_Part):
    """Limits of one file and of the disk."""

    max_mb: float = Field(gt=0)
    """Largest file, in 10^6 bytes."""
    max_redirects: int = Field(ge=0, le=20)
    """Most redirects of one request."""
    checkpoint_mb: float = Field(gt=0)
    """A file is secured on the disk each time so much of it has arrived."""
    keep_free_gb: float = Field(ge=0)
    """Stop before less than this is free on the disk, in 10^9 bytes."""


class Estimate(_Part):
    """For the sizes and times that are told before anything is fetched."""

    bytes_per_s: dict[str, float]
    """Bytes per second of sound, by the ending of the address; `other` for the rest."""
    unknown_duration_s: float = Field(gt=0)
    """Length of a recording whose archive states none."""
    megabytes_per_s: float = Field(gt=0)
    """Speed of your line, for the days it takes."""

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
    """E-mail address or page where the people of a server reach you; sent with every request."""
    default: HostLimits
    """Limits of a host that is not named."""
    hosts: dict[str, HostLimits]
    """Limits by host; a name stands for its subdomains, too."""
    hosts_at_once: int = Field(ge=1, le=1000)
    """Hosts served at the same time."""
    private_hosts: tuple[str, ...] = ()
    """Hosts (with ":port" or without) that may be asked though they are in a private network."""
    retry: Retry
    """Tries of one file."""
    breaker: Breaker
    """When a host is left alone."""
    timeout: Timeout
    """How long a silent or a slow server is waited for."""
    files: Files
    """Limits of one file and of the disk."""
    estimate: Estimate
    """For the sizes and times that are told before anything is fetched."""

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
    """Return the recipe `name` (shipped, or the path of a YAML file).

    A file without `defaults` starts from the shipped `polite`. `contact` overrides the recipe's.
    Raises RecipeError that names every mistake at once.
    """
    loaded: DownloadRecipe = load(DOWNLOAD, name, [f"contact={contact}"] if contact else [])
    return loaded
