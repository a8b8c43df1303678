"""The name of the processor, for those who read what a job took."""

import platform
import sys
from pathlib import Path


def name_processor() -> str:
    """The name of the processor, as its maker writes it."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]  # not on every ARM
        if names:
            return names[0]
    return platform.processor() or platform.machine()
