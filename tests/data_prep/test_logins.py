"""A login in an address that a table names goes no further."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dawnchorus.data_prep.dataset.clip_record import clip_record
from dawnchorus.data_prep.dataset.event_clips import Cut
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.trainer.public import without_login

ADDRESS = "https://TOKEN123@archive.example/a.wav"


def recording(**changes: str) -> Recording:
    fields = {"id": "mine:1", "source": "mine", "source_id": "1", "path": "a.wav"}
    return Recording(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["url", "licence_url", "attribution"])
def test_a_recording_does_not_hold_it(name: str, tmp_path: Path) -> None:
    found = recording(**{name: f"see {ADDRESS}" if name == "attribution" else ADDRESS})
    assert "TOKEN123" not in repr(found)
    assert "https://***@archive.example/a.wav" in getattr(found, name)
    assert "TOKEN123" not in json.dumps(clip_record(found, "mine_1", Cut(0, 1, ()), False))


def test_keys_of_signed_addresses_do_not_reach_the_tars() -> None:
    signed = recording(url="https://b.example/a.wav?X-Amz-Signature=K1&part=2")
    assert signed.url.endswith("K1&part=2")  # the download needs it
    assert (
        clip_record(signed, "k", Cut(0, 1, ()), False)["url"]
        == "https://b.example/a.wav?X-Amz-Signature=***&part=2"
    )


@pytest.mark.parametrize(
    "text",
    ["https://a.example/x@y", "me@a.example", "https://a.example/?q=a@b", "s3://bucket/k@1", ""],
)
def test_other_ats_stay(text: str) -> None:
    assert without_login(text) == text
