"""The steps of `chorus prep download` in their order."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.download.choice import Choice
from dawnchorus.data_prep.download.crew import Crew, remove_stray_parts
from dawnchorus.data_prep.download.download_recipe import GB, DownloadRecipe
from dawnchorus.data_prep.download.fill_ledger import estimate, fill, gb, table_rows
from dawnchorus.data_prep.download.ledger import FILE, Ledger
from dawnchorus.data_prep.download.partial_file import PARTS
from dawnchorus.data_prep.download.summary import estimate_text, outcome_text
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import RECORDINGS, Summary, table_path, write_table
from dawnchorus.trainer.progress import Progress

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def dry_run(table: Path, out: Path, recipe: DownloadRecipe, choice: Choice) -> str:
    """Return a description of the download. No request is sent and nothing is written."""
    ledger = Ledger(out) if (out / FILE).is_file() else None
    try:
        return estimate_text(estimate(table, choice, recipe, ledger), recipe)
    finally:
        if ledger is not None:
            ledger.close()


def download(
    table: Path,
    out: Path,
    recipe: DownloadRecipe,
    choice: Choice,
    *,
    retry_failed: bool = False,
    max_gb: float | None = None,
    table_only: bool = False,
    progress: Progress | None = None,
    show: Callable[[str], None] = print,
) -> signal.Signals | None:
    """Fetch the chosen recordings of a table into `out`, then write `out`/recordings.parquet.

    Returns the signal that ended it early (then no table is written), else None. `show` gets the
    result, `progress` everything else. Raises PrepError: no contact, another download at work in
    `out`, a full disk, an unreadable table.
    """
    progress = progress or Progress()
    _check(table, out, recipe, table_only=table_only)
    with _open(out) as ledger:
        unsure = ledger.fact("ended_in_order") != "yes" and (out / "audio").exists()
        ledger.set_fact("ended_in_order", "no")
        fill(ledger, table, choice, say=progress.say)
        gone = ledger.forget_missing(out)
        if gone:
            progress.say(f"{gone:,} files are not on disk any more; they are fetched again")
        ledger.try_again(also_for_good=retry_failed)
        remove_stray_parts(out, ledger)
        limit = None if max_gb is None else max_gb * GB
        crew = Crew(out, ledger, recipe, progress, max_bytes=limit, unsure=unsure)
        ended = None if table_only else _fetch(crew, ledger, out, progress)
        ledger.commit()
        # From here on the ledger knows every file on disk.
        ledger.set_fact("ended_in_order", "no" if table_only and unsure else "yes")
        if ended is not None:
            return ended
        summary = _write(table, out, recipe, choice, crew)
        show(outcome_text(ledger, crew.left))
        show(summary.text)
    return None


def _check(table: Path, out: Path, recipe: DownloadRecipe, *, table_only: bool) -> None:
    if table_path(table).resolve() == (out / RECORDINGS).resolve():
        raise PrepError(
            f"--out {out} is the folder of the table itself, which would be replaced by the table "
            "of what was fetched. Use another folder."
        )
    if not recipe.contact and not table_only:
        raise PrepError(
            "Servers must be able to reach whoever fetches thousands of files from them: give an "
            "e-mail address or a web page with --contact, in CHORUS_CONTACT, or as `contact:` in "
            "the recipe. It is sent with every request."
        )


class _open:
    """Open the ledger of `out`; a full disk becomes a PrepError."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> Ledger:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.ledger = Ledger(self.out)
        except OSError as err:
            raise self._told(err) from err
        return self.ledger

    def __exit__(self, _kind: object, err: BaseException | None, _trace: object) -> None:
        try:
            self.ledger.close()
        except OSError as late:
            err = err or late
        if isinstance(err, OSError):
            raise self._told(err) from err

    def _told(self, err: OSError) -> PrepError:
        if err.errno in NO_SPACE:
            free = shutil.disk_usage(self.out).free
            return PrepError(
                f"The disk of {self.out} is full: {err.strerror or err}; {gb(free)} free. Make "
                "room, then run it again: it continues."
            )
        return PrepError(f"Writing {self.out} failed: {err}")


def _fetch(crew: Crew, ledger: Ledger, out: Path, progress: Progress) -> signal.Signals | None:
    # httpx logs every address at level INFO, with whatever keys are in it.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    count = sum(ledger.waiting().values())
    progress.say(f"{count:,} files to fetch into {out}, as {crew.recipe.user_agent!r}")
    try:
        ended = asyncio.run(crew.run())
    except OSError as err:
        if err.errno not in NO_SPACE:
            raise
        tally = crew.tally
        mean = tally.size_bytes / tally.files if tally.files else 0.0
        left = max(0, count - tally.files - tally.failed)
        need = f" (about {gb(mean * left)} by the size of those)" if mean else ""
        free = shutil.disk_usage(out).free
        raise PrepError(
            f"The disk of {out} is full: {err.strerror}. {tally.files:,} files came in this run, "
            f"{left:,} are left{need}; {gb(free)} are free and {crew.recipe.files.keep_free_gb:g} "
            "GB are kept free (files.keep_free_gb of the recipe). Make room, then run it again: "
            "it continues."
        ) from err
    parts = out / PARTS
    if parts.is_dir() and not any(parts.iterdir()):
        parts.rmdir()
    return ended


def _write(table: Path, out: Path, recipe: DownloadRecipe, choice: Choice, crew: Crew) -> Summary:
    made_by: dict[str, Any] = {
        "command": "chorus prep download",
        "table": str(table_path(table)),
        "choice": choice.made_of,
        "recipe": recipe.model_dump(exclude={"contact"}),
    }
    return write_table(table_rows(table, choice, crew.ledger, out, crew.left), out, made_by=made_by)
