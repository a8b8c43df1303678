"""The names of the machine, its processor and its GPU, for those who read what a job took."""

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


def name_device() -> str:
    """The name of the GPU that this process computed on; of the processor if there was none.

    Torch is not imported for it, which takes seconds: who has not imported it used no GPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return name_processor()
