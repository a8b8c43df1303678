"""Find and read the small files that list a dataset."""

from collections.abc import Iterable
from pathlib import Path

from rca.core import reading
from rca.core.errors import UserError

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
MAPS = (".png",)


def read_text(path: Path) -> str:
    """Read a text file, without the byte order mark that spreadsheets write.

    Raises:
        UserError: the file is missing, no regular file, or not UTF-8.
    """
    try:
        return reading.read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: add it, or remove it from the dataset's settings.") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without empty ones.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def find_file(root: Path, folders: Iterable[str], stem: str, suffixes: Iterable[str]) -> str | None:
    """The first of an image's possible files that exists, relative to the root; None if none does."""
    candidates = (f"{folder}/{stem}{suffix}" for folder in folders for suffix in suffixes)
    return next((candidate for candidate in candidates if (root / candidate).is_file()), None)


def check_folder(root: Path, folder: str, key: str) -> str:
    """Check that a folder exists that a dataset's settings name, and return it.

    Args:
        root: The dataset's root.
        folder: The folder, relative to the root.
        key: The dotted key of the setting, for the message.

    Raises:
        UserError: the folder does not exist.
    """
    if not (root / folder).is_dir():
        raise UserError(f"The folder {root / folder} does not exist: put it there, or correct {key}.")
    return folder
