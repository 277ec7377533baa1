"""The processes that decode."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from data_prep.pool import start_worker
if sys.argv[1] == "worker":
    start_worker()
np.ones(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    kept = [np.ones(1 << 20) for _ in range(4)]  # 8 MB each, as blocks of sound come and go
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_a_worker_pays_once_for_its_memory() -> None:
    faults = {
        kind: int(subprocess.check_output([sys.executable, "-c", FAULTS, kind]))
        for kind in ("worker", "plain")
    }
    assert faults["worker"] < 0.3 * faults["plain"]
