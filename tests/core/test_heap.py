"""The heap of a process that keeps what it frees, by the page faults of large arrays."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from rca.core.heap import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    np.ones(50_000_000 // 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(50_000_000 // 8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has these settings")
def test_large_arrays_use_the_memory_of_earlier_ones() -> None:
    fresh, kept = (
        int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("fresh", "kept")
    )
    assert kept < fresh / 10
