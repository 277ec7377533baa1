"""All benchmarks, one after the other: `python -m scripts.bench [data] [prep] ...`.

Exits with 1 when a target was missed. With a CUDA device the model runs there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from datetime import UTC, datetime

from scripts.bench import print_table

ALL = ("data", "frontend", "beats", "encoders", "training", "prep")


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    names = parser.parse_args().names or list(ALL)
    unknown = [n for n in names if n not in ALL]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")

    import torch

    from dawnchorus.trainer.session.environment import processor_name, source_revision

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"{datetime.now(UTC):%Y-%m-%d}  {processor_name()}, {os.cpu_count()} cores, {device}; "
        f"torch {torch.__version__}, Python {platform.python_version()}; load {load}; "
        f"source {str(source_revision())[:12]}"
    )
    good = True
    for name in names:
        print(f"\n{name}")
        good &= print_table(importlib.import_module(f"scripts.bench.{name}").run)
    sys.exit(not good)


if __name__ == "__main__":
    main()
