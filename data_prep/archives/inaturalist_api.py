"""iNaturalist's API, walked page by page, each page saved as it comes.

Pages are numbered by the id they start above (`id_above`): page * per_page ends at 10,000 results.
iNaturalist asks for one request per second, 60 a minute and 10,000 a day; pages of 200 make that
two million observations. A query that was stopped goes on after its last saved page.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.progress import LINE_EVERY_S, Progress

if TYPE_CHECKING:
    import httpx

    from dawnchorus.data_prep.tools.polite_http import PoliteClient

BASE_URL = "https://api.inaturalist.org"
PER_PAGE = 200
LICENCES = "cc0,cc-by,cc-by-nc,cc-by-sa,cc-by-nc-sa,cc-by-nd,cc-by-nc-nd"
"""Every licence that allows the file to be copied; the selection chooses what is allowed in
training.
"""
QUERY, PAGES = "query.json", "pages"
DAY_S, DAY_LIMIT = 86400.0, 10_000
# v2 answers with ids alone unless asked; the notation is Rison.
V2_FIELDS = (
    "(id:!t,uuid:!t,observed_on:!t,time_observed_at:!t,location:!t,obscured:!t,geoprivacy:!t,"
    "taxon_geoprivacy:!t,positional_accuracy:!t,public_positional_accuracy:!t,quality_grade:!t,flags:(flag:!t,resolved:!t),user:(login:!t,name:!t),"
    "taxon:(id:!t,name:!t,rank:!t,iconic_taxon_name:!t,"
    "ancestors:(id:!t,name:!t,rank:!t)),"
    "sounds:(id:!t,attribution:!t,file_content_type:!t,file_url:!t,hidden:!t,license_code:!t,"
    "flags:(flag:!t,resolved:!t),moderator_actions:(action:!t)))"
)
_OURS = {"id_above", "id_below", "order", "order_by", "page", "per_page", "fields"}


@dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """How the API is asked. Times in seconds."""

    version: str = "v1"
    base_url: str = BASE_URL
    per_page: int = PER_PAGE
    licences: str = LICENCES
    """Comma-separated codes; "all" for every sound, also those with all rights reserved."""
    pause_s: float = 1.0
    backoff_s: float = 2.0
    retries: int = 8
    timeout_s: float = 60.0
    longest_wait_s: float = 3600.0

    def __post_init__(self) -> None:
        """Raise PrepError for values that the API does not accept."""
        problems = []
        if self.version not in ("v1", "v2"):
            problems.append(f"--api is v1 or v2, not {self.version!r}")
        if not 1 <= self.per_page <= PER_PAGE:
            problems.append(f"--per-page is 1 to {PER_PAGE}, not {self.per_page}")
        if problems:
            raise PrepError("; ".join(problems) + ".")


def parse_query(pairs: list[str]) -> dict[str, str]:
    """Return {name: value} of "taxon_id=3" and the like.

    Raises PrepError for a word that is not such a pair, and for parameters that `walk` sets itself.
    """
    query: dict[str, str] = {}
    problems = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or not value:
            problems.append(f"{pair!r} is no name=value")
        elif name in _OURS:
            problems.append(f"{name!r} is set by this command for every page")
        elif name in query:
            problems.append(f"{name!r} is given twice; join its values with commas")
        else:
            query[name] = value
    if problems:
        raise PrepError(
            "--query: " + "; ".join(problems) + ". Parameters: https://api.inaturalist.org/v1/docs/"
        )
    return query


def walk(
    query: Mapping[str, str], out: Path, options: ApiOptions, progress: Progress
) -> list[Path]:
    """Ask for all observations of a query; return its saved pages, in order.

    Pages go to `out/pages/`, what was asked to `out/query.json`. A query whose last page is there
    is not asked again. Raises PrepError when `out` belongs to another query, the API refuses it
    (its message is passed on), or it does not answer after all retries.
    """
    asked = _parameters(query, options)
    url = f"{options.base_url.rstrip('/')}/{options.version}/observations"
    state = _State(out, asked, options)
    if state.complete:
        progress.say(f"{out / PAGES}: the query was finished before; delete {out} to ask again")
        return state.pages()
    above, count = state.last_id(), state.observations
    if count:
        progress.say(f"continuing above observation {above}: {count:,} are there")
    spoken = time.monotonic()
    with _client(options, progress, state.sent()) as client:
        while True:
            page = client.page(url, asked | {"id_above": str(above)}, f"above {above}", _page)
            results = page["results"]
            if not results:
                break
            last = _last_id(results, above, options)
            state.save(above, last, page)
            above = last
            count += len(results)
            total = page.get("total_results")
            total = total if isinstance(total, int) else None
            if time.monotonic() - spoken >= LINE_EVERY_S:
                spoken = time.monotonic()
                left = f", {total - len(results):,} to go" if total is not None else ""
                progress.say(f"{count:,} observations{left}")
            # Counts the answers above this id; a short page alone may be one that was filtered.
            if total is not None and total <= len(results):
                break
    state.finish()
    return state.pages()


def _parameters(query: Mapping[str, str], options: ApiOptions) -> dict[str, str]:
    """Return the parameters of the request, without those of the page. The user's values take
    precedence.
    """
    asked = {"sounds": "true", "quality_grade": "research"} | dict(query)
    if options.licences and options.licences != "all":
        asked.setdefault("sound_license", options.licences)
    if options.version == "v2":
        asked["fields"] = V2_FIELDS
    return asked | {"per_page": str(options.per_page), "order_by": "id", "order": "asc"}


def _client(options: ApiOptions, progress: Progress, sent: deque[float]) -> PoliteClient:
    """Return a client that keeps iNaturalist's pace; `sent` are the requests of the last day."""
    from dawnchorus.data_prep.tools.polite_http import Pace, PoliteClient

    pace = Pace("iNaturalist", options.pause_s, progress.say, DAY_LIMIT, DAY_S, sent)
    return PoliteClient(
        pace,
        tries=options.retries + 1,
        first_wait_s=options.backoff_s,
        longest_wait_s=options.longest_wait_s,
        timeout_s=options.timeout_s,
    )


def _page(answer: httpx.Response, body: bytes) -> dict[str, Any]:
    """Return a page of results. Raises PrepError with what the API says against the query."""
    from dawnchorus.data_prep.tools.polite_http import TryLater

    if answer.status_code >= 300:
        raise PrepError(
            f"{answer.url.copy_with(query=None)} refused with status {answer.status_code}: "
            f"{_message(body.decode('utf-8', 'replace'))}. Check --query: "
            "https://api.inaturalist.org/v1/docs/ lists the parameters."
        )
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict) or not isinstance(page.get("results"), list):
        raise TryLater(f"the answer is no page of results: {body[:60]!r}…")
    return page


def _message(text: str) -> str:
    """Return what the API says about an error: v1 and v2 say it in different places."""
    try:
        said = json.loads(text)
        errors = said.get("errors") or [said]
        text = "; ".join(
            str(e.get("message") or e.get("error") or e) if isinstance(e, dict) else str(e)
            for e in errors
        )
    except (ValueError, AttributeError, TypeError):
        pass
    return " ".join(text.split())[:300] or "no message"


def _last_id(results: list[Any], above: int, options: ApiOptions) -> int:
    """Return the highest id of a page. It must grow, or the walk would never end."""
    ids = [r.get("id") for r in results if isinstance(r, dict)]
    numbers = [number for number in ids if isinstance(number, int)]
    if not numbers or max(numbers) <= above:
        raise PrepError(
            f"{options.base_url} does not keep to id_above={above}: the page holds ids "
            f"{str(ids)[:80]}. Is it iNaturalist's API?"
        )
    return max(numbers)


class _State:
    """A folder with the pages of one query."""

    def __init__(self, out: Path, asked: Mapping[str, str], options: ApiOptions) -> None:
        self.folder, self.file = out / PAGES, out / QUERY
        # A query can be continued with pages of another length.
        self.asked = {k: v for k, v in asked.items() if k not in ("per_page", "fields")}
        self.asked |= {"api": options.version, "base_url": options.base_url}
        self.complete = False
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.file.is_file():
            try:
                known = json.loads(self.file.read_text())
                self.complete = bool(known["complete"])
                before = known["asked"]
            except (ValueError, KeyError, TypeError, OSError) as err:
                raise PrepError(f"{self.file} cannot be read: {err}. Delete {out}.") from err
            if before != self.asked:
                changed = sorted(
                    key
                    for key in before.keys() | self.asked.keys()
                    if before.get(key) != self.asked.get(key)
                )
                raise PrepError(
                    f"{out} holds the pages of another query (different: {', '.join(changed)}). "
                    "Give another --out, or delete that folder."
                )
        else:
            self._write(complete=False)
        self.observations = sum(int(name[2]) for name in map(self._parts, self.pages()))

    def pages(self) -> list[Path]:
        """Return the saved pages in order."""
        return sorted(self.folder.glob("above-*.json"))

    def _parts(self, page: Path) -> list[str]:
        """Return [above, last, count] of "above-000000000000-last-000000000042-n-200"."""
        parts = page.stem.split("-")
        if len(parts) != 6 or not all(p.isdigit() for p in parts[1::2]):
            raise PrepError(f"{page} is not one of the query's pages: move it elsewhere.")
        return parts[1::2]

    def last_id(self) -> int:
        """Return the id that the next page starts above."""
        return max((int(self._parts(page)[1]) for page in self.pages()), default=0)

    def sent(self) -> deque[float]:
        """Return when the pages of the last day came, also by earlier runs."""
        now = time.time()
        times = sorted(page.stat().st_mtime for page in self.pages())
        return deque(t for t in times if now - DAY_S < t <= now)

    def save(self, above: int, last: int, page: Mapping[str, Any]) -> None:
        """Put a page on disk, whole."""
        name = f"above-{above:012d}-last-{last:012d}-n-{len(page['results'])}.json"
        try:
            write_whole(self.folder / name, json.dumps(page).encode())
        except OSError as err:
            raise PrepError(
                f"Saving a page in {self.folder} failed: {err}. Make room; the same command "
                "continues."
            ) from err

    def finish(self) -> None:
        """Record that all pages are there."""
        self._write(complete=True)

    def _write(self, *, complete: bool) -> None:
        text = json.dumps({"asked": self.asked, "complete": complete}, indent=1) + "\n"
        write_whole(self.file, text.encode())


def saved_pages(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that may be saved pages, in the order of their names."""
    yield from sorted(p for p in folder.iterdir() if p.is_file() and p.name != QUERY)
