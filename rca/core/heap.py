"""How a process uses its heap."""

import ctypes
from contextlib import suppress


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, if its C library is glibc.

    Large arrays and tensors otherwise come fresh from the system each time, which fills them with zeros page by page:
    more than a tenth of a training step or of an image's CRF.
    """
    with suppress(OSError, AttributeError):
        adjust = ctypes.CDLL(None).mallopt
        adjust(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        adjust(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the end of the heap is not returned
