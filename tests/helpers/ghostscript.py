"""A Ghostscript that only leaves a mark where it starts, and pictures that Pillow hands to it."""

import os
from pathlib import Path

import pytest
from PIL import EpsImagePlugin

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(owned) (w) file closefile\nshowpage\n%%EOF\n"
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".JPG",
    ".png",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".gif",
    ".eps",
    ".ps",
    ".pdf",
    "",
)


def set_trap(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Put programs of Ghostscript's names first on the PATH; return the mark that they leave."""
    mark, trap = folder / "started", folder / "trap"
    trap.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (trap / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (trap / name).chmod(0o755)
    patch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for the program once
    patch.setenv("PATH", f"{trap}:{os.environ['PATH']}")
    return mark
