"""dawnchorus: from sound archives to a published bioacoustic encoder."""

__version__ = "0.1.0"

if __name__ == "trainer":  # `python -m trainer.cli` in a checkout: this very code, installed or not
    import sys
    from pathlib import Path
    from types import ModuleType

    if "dawnchorus" not in sys.modules:
        sys.modules["dawnchorus"] = ModuleType("dawnchorus")
        sys.modules["dawnchorus"].__path__ = [str(Path(__file__).resolve().parents[1])]
