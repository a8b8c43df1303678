"""Paths that lead to no regular file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path


def _make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _make_loop(path: Path) -> None:
    path.symlink_to(path.name)


# How each is made, and what a message calls it.
SPECIALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "is a pipe, not a file"),
    "folder": (Path.mkdir, "is a folder, not a file"),
    "socket": (_make_socket, "is a socket, not a file"),
    "null": (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
    "zero": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "loop": (_make_loop, "Too many levels of symbolic links"),
}
