"""Give the `esc10` sample the shape of an AudioSet copy, to try that reader on real sound.

    python -m scripts.esc10_as_audioset shared/data/esc10 OUT

writes OUT/segments.csv, OUT/class_labels_indices.csv and OUT/audio/Y<id>.ogg (copies of the clips).
The ids are made up: eleven characters of a hash of the file's name.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import shutil
from pathlib import Path

# Classes of ESC-10 and the AudioSet class of the same sound (index, mid, display name).
CLASSES = {
    "dog": (74, "/m/0bt9lr", "Dog"),
    "rooster": (100, "/m/07rn7sz", "Crowing, cock-a-doodle-doo"),
    "rain": (289, "/m/06mb1", "Rain"),
    "sea_waves": (295, "/m/034srq", "Waves, surf"),
    "crackling_fire": (299, "/m/07pzfmf", "Crackle"),
    "crying_baby": (23, "/t/dd00002", "Baby cry, infant cry"),
    "sneezing": (49, "/m/01hsr_", "Sneeze"),
    "clock_tick": (414, "/m/07qjznl", "Tick-tock"),
    "helicopter": (339, "/m/09ct_", "Helicopter"),
    "chainsaw": (347, "/m/01j4z9", "Chainsaw"),
}


def made_up_id(name: str) -> str:
    """Eleven characters as YouTube has them, from a file's name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode()[:11]


def write_audioset(esc10: Path, out: Path) -> Path:
    """Write the copy; returns the segment list."""
    audio = out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    with (esc10 / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for row in rows:
        name = made_up_id(row["filename"])
        target = audio / f"Y{name}.ogg"
        if not target.exists():
            shutil.copyfile(esc10 / row["filename"], target)
        mid = CLASSES[row["label"].lower().replace(" ", "_")][1]
        lines.append(f'{name}, 0.000, {float(row["duration_s"]):.3f}, "{mid}"\n')
    mids = {line.split('"')[1] for line in lines}
    head = [
        "# Segments csv created for a test\n",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(mids)}\n",
        "# YTID, start_seconds, end_seconds, positive_labels\n",
    ]
    segments = out / "segments.csv"
    segments.write_text("".join([*head, *lines]), encoding="utf-8")
    with (out / "class_labels_indices.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("index", "mid", "display_name"))
        table.writerows(sorted(CLASSES.values()))
    return segments


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("esc10", type=Path, help="folder with metadata.csv and audio/")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    print(write_audioset(given.esc10, given.out))


if __name__ == "__main__":
    main()
