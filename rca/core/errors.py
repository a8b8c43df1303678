"""Errors that a user can cause and fix, each told in one sentence."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What to do about an error of the operating system.
_ADVICE = {
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EROFS: "name a place that can be written to",
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EFBIG: "raise the limit on the size of files, or name another place",
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ELOOP: "correct the link, which leads back to itself",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "name another, since a part of this path is a file and no folder",
    errno.EEXIST: "name another, or move it away",
    errno.ENOENT: "put it there, or correct its name",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENOMEM: "free some memory, or use less",
}
# How libraries in Rust tell of it.
_OF_RUST = re.compile(r"\(os error (\d+)\)")


class UserError(Exception):
    """Bad input, told in one clear sentence that names the file or key and says what to do.

    Commands and stages print the sentence, without a traceback, and exit with code 2.
    """


def flatten(text: str, spare: int = 0) -> str:
    """A message as one line of at most 240 letters: what cannot be printed as escapes, a long middle left out.

    Args:
        text: The message.
        spare: More letters that it may have, such as those of a path.
    """
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    most = 240 + spare
    return text if len(text) <= most else f"{text[: most - 95]} ... {text[-90:]}"


def quote(name: object) -> str:
    """A name for a message: as it is, or with what cannot be printed as escapes, and never longer than 200 letters."""
    text = os.fsdecode(name) if isinstance(name, bytes) else str(name)
    if not text or not text.isprintable():
        text = ascii(text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"


def explain(error: BaseException) -> str | None:
    """Explain an error of the operating system, or one that such an error caused.

    Args:
        error: Any error.

    Returns:
        A sentence that names path, cause and way out; None if the system has no part in the error.
    """
    cause = find_cause(error)
    if cause is None:
        return next((_explain_encoding(link) for link in _chain(error) if isinstance(link, UnicodeEncodeError)), None)
    path, number = cause.filename, cause.errno or 0
    what = "A file" if path is None else "The output" if isinstance(path, int) else quote(path)
    return f"{what} cannot be used ({cause.strerror or os.strerror(number)}): {_ADVICE.get(number, 'name another')}."


def tell(error: BaseException) -> str | None:
    """The one place that turns errors into what a user reads.

    Args:
        error: Any error.

    Returns:
        A sentence for bad input or an error of the operating system; None for an error of the program itself.
    """
    return str(error) if isinstance(error, UserError) else explain(error)


@contextmanager
def end_with_sentence() -> Iterator[None]:
    """End the process with a sentence on stderr, as `sys.exit` does, where `tell` knows one."""
    try:
        yield
    except Exception as error:
        sentence = tell(error)
        if sentence is None:
            raise
        sys.exit(f"error: {sentence}")


def find_cause(error: BaseException) -> OSError | None:
    """The operating system's own error behind one, even if a library hides it; None if there is none."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno:
            return link
        if match := _OF_RUST.search(str(link)):
            return OSError(int(match[1]), os.strerror(int(match[1])))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, that behind it, and so on."""
    link: BaseException | None = error
    seen: list[BaseException] = []
    while link is not None and link not in seen:
        seen.append(link)
        yield link
        link = link.__cause__ or link.__context__


def _explain_encoding(error: UnicodeEncodeError) -> str:
    name = quote(error.object)
    if any("\ud800" <= letter <= "\udfff" for letter in error.object):
        return f"The name {name} is not UTF-8: rename the file."
    return f"The name {name} cannot be written in {error.encoding}: use a locale of UTF-8 (`export LC_ALL=C.UTF-8`)."
