"""From archives of recordings to shards: readers, decoding, planning, writing."""

if (
    __name__ == "data_prep"
):  # `python -m data_prep.cli` in a checkout: this very code, installed or not
    import sys
    from pathlib import Path
    from types import ModuleType

    if "dawnchorus" not in sys.modules:
        sys.modules["dawnchorus"] = ModuleType("dawnchorus")
        sys.modules["dawnchorus"].__path__ = [str(Path(__file__).resolve().parents[1])]
