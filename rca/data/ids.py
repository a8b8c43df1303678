"""Ids of images: file names and keys that mean nothing to a shell, a table or a page."""

import re
import unicodedata

# Letters and digits of any script. An id is also a file name and a key in a shard.
_ID = re.compile(r"\w[\w.-]*")
MOST_BYTES = 200


def compose(name: str) -> str:
    """A name with each accented letter as one character (NFC), as names compare in all of rca.

    macOS and many archives write the letter and its accent as two, which looks the same and is another file.
    """
    return unicodedata.normalize("NFC", name)


def is_id(name: str) -> bool:
    """Whether a name can be an image's id."""
    return _ID.fullmatch(name) is not None and len(name.encode()) <= MOST_BYTES


def make_id(name: str) -> str:
    """The id of an image with a name: `_` stands for what is no letter, digit, `_`, `.` or `-`."""
    safe = re.sub(r"[^\w.-]+", "_", compose(name))
    return safe if _ID.match(safe) else f"_{safe}"
