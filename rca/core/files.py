"""The files that stages write: whole or not at all, in formats that need no pickle.

Masks are 8-bit palette PNGs in the colours of PASCAL VOC, with 255 for ignore, since the field's tools read those.
"""

import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError, find_cause
from rca.core.images import decode_mask, decode_photograph, open_picture
from rca.core.reading import MOST_JSON, check_file, check_target, parse_json

IGNORE = 255
# How the folders begin that `work_in_folder` makes.
WORK = "rca"


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block ends without an error.

    Raises:
        UserError: `path` is a folder, a device or the like.
    """
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _claim(path, _make_file) as temporary, _name_target(temporary, path):
        mode = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, mode)  # libraries may have put a file of their own there
        os.replace(temporary, path)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path` if the block ends without an error.

    Raises:
        UserError: `path` is a file, a device or the like.
    """
    check_target(path, "folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _claim(path, _make_directory) as temporary, _name_target(temporary, path):
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)


@contextmanager
def _name_target(temporary: Path, path: Path) -> Iterator[None]:
    """Let errors of the system name the path to write, of which users know, in place of the temporary one or none."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = find_cause(error)
        if cause is None or (cause.filename is not None and str(temporary) not in str(cause.filename)):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


@contextmanager
def _claim(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """Make a hidden file or folder beside a path, which is gone after the block unless it was moved away.

    A process that is killed leaves it behind, without the lock that it held: who writes the path next removes it. Under
    a name of its own it would stay, and count as input of a stage that reads the whole folder.

    Args:
        path: The path to write. A long name is cut, since file systems allow 255 bytes.
        make: Makes and opens it.
    """
    for number in itertools.count():
        temporary = path.parent / f".{path.name[:40]}.part{number or ''}"
        if _is_left(temporary):
            _remove(temporary)
        try:
            with _name_target(temporary, path):
                handle = make(temporary)
        except FileExistsError:
            continue  # another process is writing it
        try:
            if _lock(handle) and _is_at(handle, temporary):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # another process took it for a dead one's in the meantime
    try:
        yield temporary
    except BaseException:
        _remove(temporary)
        raise
    finally:
        os.close(handle)


def _make_file(path: Path) -> int:
    # Not mkstemp: here the user's umask decides who may read the file, from its first byte on.
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)


def _make_directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _lock(handle: int) -> bool:
    """Lock an open file or folder for as long as it is open; False if another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody is kept from it
        return True
    return True


def _is_left(path: Path) -> bool:
    """Whether a file or folder is there and no process has locked it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # of a living process, or on a file system that does not tell
        return False
    else:
        return True
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def work_in_folder() -> Iterator[Path]:
    """Yield an empty folder for temporary files that is gone after the block.

    A process that is killed leaves its folder behind, without the lock that it held: the next one removes it.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{WORK}-{os.getuid()}-*"):
        with suppress(OSError), open(left / ".lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process runs
            shutil.rmtree(left, ignore_errors=True)
    token = secrets.token_hex(6)
    made = Path(tempfile.mkdtemp(prefix=f".{WORK}-"))  # in a name that is not looked for until it is locked
    folder = place / f"{WORK}-{os.getuid()}-{token}"
    with open(made / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.rename(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: object) -> None:
    """Write JSON with sorted keys and a final newline."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that an earlier stage wrote.

    Raises:
        UserError: the file is missing or corrupt.
    """
    try:
        check_file(path, most=MOST_JSON)
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it first.") from None
    except ValueError:
        raise UserError(f"{path} is not valid JSON: delete it and run the stage that writes it again.") from None


def make_palette() -> list[int]:
    """The 256 RGB colours of PASCAL VOC's palette, as 768 numbers 0..255."""
    palette = []
    for index in range(256):
        red = green = blue = 0
        for bit in range(8):
            red |= (index >> (3 * bit) & 1) << (7 - bit)
            green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
        palette += [red, green, blue]
    return palette


PALETTE = make_palette()


def write_mask(path: Path | BinaryIO, mask: UInt8Array) -> None:
    """Write a mask as palette PNG.

    Args:
        path: The file, in a directory that exists, or an open one.
        mask: (H, W), uint8: 0 background, 1..C classes, 255 ignore.
    """
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    image.putpalette(PALETTE)  # makes the one-channel picture a palette picture; its values stay
    image.save(path, format="PNG")


def read_mask(path: Path, what: str = "mask") -> UInt8Array:
    """Read a mask, or another map of one channel.

    Args:
        path: The file.
        what: Its name in messages.

    Returns:
        (H, W), uint8, the values as stored.

    Raises:
        PictureError: the file is missing, broken, or not an 8-bit picture of one channel.
    """
    with open_picture(path, what) as image:
        return decode_mask(image, path, what)


def read_photograph(path: Path) -> UInt8Array:
    """Read a photograph.

    The pixels are read as stored. EXIF orientation is ignored, since masks, boxes and scores lie on the stored pixels
    (as in VOC and COCO). An animation gives its first picture, an alpha channel is dropped, grey and palettes become
    RGB, and CMYK is converted without its colour profile. More than 8 bits a channel are refused: the file does not say
    which range to show.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        PictureError: the file is missing or broken, or has more than 8 bits a channel.
    """
    with open_picture(path, "photograph") as image:
        return decode_photograph(image, path)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        UserError: the file is missing or no regular file.
    """
    try:
        check_file(path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it first, or restore it.") from None


def keep_only(directory: Path, names: Iterable[str]) -> None:
    """Delete everything in a directory of the pipeline but `names`.

    An earlier setting (more shards, a run since removed) leaves files that would count as input of a stage that depends
    on the whole directory.
    """
    wanted = set(names)
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.name in wanted or path.name == ".gitignore":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # another shard of the same stage may be deleting it too
        else:
            path.unlink(missing_ok=True)
