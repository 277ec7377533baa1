"""The thorough check of a dataset: every row of the index against the tar files themselves."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from dawnchorus.trainer.data.index import CODECS, ShardIndex
from dawnchorus.trainer.data.reader import BrokenClip, ClipReader
from dawnchorus.trainer.data.remote import connect
from dawnchorus.trainer.data.storage import is_remote


def verify(index: ShardIndex, *, decode: bool = False) -> list[str]:
    """Compare every chosen clip of an index with the member headers of its tar.

    Args:
        index: the clips to check.
        decode: also decode every clip to its end.

    Returns:
        What is wrong, a line for each clip; empty where all is well.
    """
    return list(_problems(index, decode))


def _problems(index: ShardIndex, decode: bool) -> Iterator[str]:
    keys = index.column("key")
    reader = ClipReader()
    for shard, name in enumerate(index.shards):
        members, problem = _members(f"{index.location}/{name}")
        if problem:
            yield f"{name}: {problem}"
        for clip in np.flatnonzero(index.shard_N == shard).tolist():
            expected = f"{keys[clip]}.{CODECS[index.codec_N[clip]]}"
            found = members.get(int(index.offset_N[clip]))
            wanted = (expected, int(index.size_N[clip]))
            if found != wanted:
                where = f"byte {index.offset_N[clip]}"
                yield f"{name}: {expected}: the index has {wanted} at {where}, the tar has {found}"
            elif decode:
                out_T = np.empty(max(1, int(index.samples_N[clip])), dtype=np.int16)
                try:
                    reader.read_window(index.member(clip), 0, out_T)
                except BrokenClip as error:
                    yield f"{name}: {expected}: {error}"


@contextmanager
def _tar(path: str) -> Iterator[tarfile.TarFile]:
    if not is_remote(path):
        with tarfile.open(path) as tar:
            yield tar
        return
    filesystem, place = connect(path, os.getpid())
    with filesystem.open(place, "rb") as file, tarfile.open(fileobj=file) as tar:
        yield tar


def _members(path: str) -> tuple[dict[int, tuple[str, int]], str | None]:
    """Name and size by data offset, and why the reading ended early, if it did."""
    members: dict[int, tuple[str, int]] = {}
    try:
        with _tar(path) as tar:
            for member in _files(tar):
                members[member.offset_data] = (member.name, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        return members, f"cannot be read to its end ({error})"
    return members, None


def _files(tar: Iterable[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    return (member for member in tar if member.isfile())
