"""Results of long work on disk, piece by piece, and the processes that do the work.

A folder of small parquet files, each written whole: what was finished when the work was stopped is
there when the same command runs again.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from data_prep.errors import PrepError
from data_prep.files import whole_file
from data_prep.pool import start_worker

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

In = TypeVar("In")
Out = TypeVar("Out")
FLUSH_S = 20.0
FLUSH_ROWS = 2048
_AHEAD = 4  # tasks per process that wait in line


class Parts:
    """Rows that are added one by one and kept in the folder `folder`."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.rows: list[Mapping[str, Any]] = []
        self.flushed = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """Return these columns of all rows that are on disk."""
        import polars as pl

        files = sorted(self.folder.glob("*.parquet"))
        try:
            frames = [pl.read_parquet(file, columns=list(columns)) for file in files]
        except (pl.exceptions.PolarsError, OSError) as err:
            raise PrepError(
                f"The results kept in {self.folder} cannot be read: {err}. Delete that folder; "
                "the work is done again."
            ) from err
        if not frames:
            import pyarrow as pa

            empty = pa.schema([self.schema.field(name) for name in columns]).empty_table()
            return pl.DataFrame(pl.from_arrow(empty))
        return pl.concat(frames)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; write what has gathered every 20 s."""
        self.rows.append(row)
        late = time.monotonic() - self.flushed > FLUSH_S
        if late or len(self.rows) >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.flushed = time.monotonic()
        if not self.rows:
            return
        table = pa.Table.from_pylist(self.rows, schema=self.schema)
        with whole_file(self.folder / f"{uuid4().hex}.parquet") as file:
            pq.write_table(table, file, compression="zstd")
        self.rows = []

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()  # also after Ctrl-C: what is done is done


def work(task: Callable[[In], Out], items: Iterable[In], *, jobs: int, log: Path) -> Iterator[Out]:
    """Yield `task(item)` of all items, in any order, from `jobs` processes (0: one per core).

    What decoders write to the terminal goes to `log`. Raises PrepError when a process dies.
    """
    jobs = jobs or len(os.sched_getaffinity(0))
    if jobs == 1:
        yield from map(task, items)
        return
    # Spawned, not forked: a forked child of a process with threads (Polars, Arrow) can hang.
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(str(log),),
    )
    waiting = iter(items)
    pending: set[Future[Out]] = set()
    ready: deque[Out] = deque()
    try:
        while True:
            for item in islice(waiting, max(0, _AHEAD * jobs - len(pending))):
                pending.add(pool.submit(task, item))
            if not pending:
                return
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            ready.extend(future.result() for future in finished)
            while ready:
                yield ready.popleft()
    except BrokenProcessPool as err:
        raise PrepError(
            "A process died while it was decoding (out of memory, or a decoder that crashed on a "
            f"file; see {log}). The same command continues; `run.jobs=1` shows where."
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)
