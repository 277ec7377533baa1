"""A small AudioSet: its tables, and clips of any name."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import soundfile

from dawnchorus.data_prep.archives.audioset import AudioSet, AudioSetOptions
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected

DOG, ANIMAL, SPEECH, RAIN = "/m/0bt9lr", "/m/0jbk", "/m/09x0r", "/m/06mb1"
PETS, HEADING, STRONG_ONLY = "/m/068hy", "/t/dd00098", "/m/07qcpgn"
# Ids with all that makes them awkward: "-" in front, "_" and digits at the end, case.
IDS = ["--4gqARaEJE", "_1kaN-iD_30", "AbCdEfGhIjK", "abcdefghijk", "Yout0ub-e_1", "id_45678_90"]

OFFICIAL = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=3, num_segs=3, num_unique_labels=4, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/0bt9lr,/m/0jbk"
_1kaN-iD_30, 30.000, 40.000, "/m/09x0r"
AbCdEfGhIjK, 12.500, 22.500, "/m/06mb1,/m/09x0r"
"""
COMPACT = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# YTID,start_seconds,end_seconds,positive_labels
abcdefghijk,0,10,"/m/0bt9lr,/m/0jbk"
Yout0ub-e_1,20,30,/m/09x0r
id_45678_90,5,12,/m/06mb1
"""


def write_tables(root: Path) -> Path:
    """The small files of AudioSet, in their shapes, cut down."""
    root.mkdir()
    (root / "balanced_train_segments.csv").write_text(OFFICIAL)
    (root / "eval_segments.csv").write_text(COMPACT)
    with (root / "class_labels_indices.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["index", "mid", "display_name"])
        table.writerow([0, SPEECH, "Speech"])
        table.writerow([72, ANIMAL, "Animal"])
        table.writerow([73, PETS, "Domestic animals, pets"])
        table.writerow([74, DOG, "Dog"])
        table.writerow([288, RAIN, "Rain"])
    ontology = [
        (ANIMAL, "Animal", [PETS, "/m/wild"], []),
        (PETS, "Domestic animals, pets", [DOG], []),
        ("/m/wild", "Wild animals", [DOG], ["blacklist"]),
        (DOG, "Dog (ontology)", [], []),
        (HEADING, "Natural sounds", [RAIN], ["abstract"]),
        (RAIN, "Rain", [], []),
        (SPEECH, "Speech", [], []),
    ]
    nodes = [
        {
            "id": mid, "name": name, "description": "", "citation_uri": "",
            "positive_examples": [], "child_ids": below, "restrictions": restrictions,
        }
        for mid, name, below, restrictions in ontology
    ]  # fmt: skip
    (root / "ontology.json").write_text(json.dumps(nodes))
    return root


def clip(pitch_hz: float = 900.0, kind: str = "FLAC") -> bytes:
    """A quarter of a second of sound."""
    buffer = io.BytesIO()
    wav_T = 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(4000) / 16000)
    soundfile.write(buffer, wav_T, 16000, format=kind)
    return buffer.getvalue()


def lay(root: Path, *names: str) -> Path:
    """Clips of these names below a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip())
    return root


def read(tables: Path, audio: Path, **options: object) -> tuple[dict, list[Rejected], AudioSet]:
    """(recordings by id, what was left out, the reader)."""
    given = {
        "segments": sorted(tables.glob("*segments.csv")), "audio": [audio],
        "out": tables.parent / "out", "labels": tables / "class_labels_indices.csv",
    }  # fmt: skip
    archive = AudioSet(AudioSetOptions(**(given | options)))  # type: ignore[arg-type]
    rows = list(archive.rows())
    good = {row.id: row for row in rows if isinstance(row, Recording)}
    return good, [row for row in rows if isinstance(row, Rejected)], archive
