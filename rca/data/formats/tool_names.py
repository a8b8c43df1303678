"""What others call a photograph or a mask: by paths of other machines, addresses, and endings of their own."""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from rca.data.faults import Fault, count
from rca.data.formats.files import Index, find_pictures, list_files
from rca.data.ids import compose

_PREFIX = 8  # hexadecimal digits and "-" before the name of a file that was uploaded to Label Studio


def find_name(name: str, index: Index) -> str:
    """The photograph that a tool means, by ever less of its path, without host and prefix; "" for none."""
    address = urlsplit(name.replace("\\", "/")) if "://" in name or "?" in name else None
    path = name.replace("\\", "/") if address is None else (parse_qs(address.query).get("d") or [address.path])[0]
    parts = [part for part in compose(unquote(path)).split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        for last in (parts[-1], _drop_prefix(parts[-1])):
            word = "/".join([*parts[start:-1], last])
            files = find_pictures(index, word)
            if files:
                return files[0] if len(files) == 1 else word
    return parts[-1] if parts else ""


def _drop_prefix(name: str) -> str:
    head, dash, rest = name.partition("-")
    return rest if dash and rest and len(head) == _PREFIX and not head.strip("0123456789abcdef") else name


class Matched(NamedTuple):
    """Masks or maps by the names of their images.

    Attributes:
        files: The files of each name.
        ending: What stands behind the names on the disk, such as `_mask` or `.jpg`.
    """

    files: Index
    ending: str = ""


def drop_ending(index: Index, names: Collection[str]) -> Matched:
    """Leave out one ending that all pictures of a folder have behind the names of images, where no name fits as it is.

    Args:
        index: The pictures of the folder.
        names: The names of the images.
    """
    if not index or any(name in names for name in index):
        return Matched(index)
    first = min(index)
    start = max((name for name in names if first.startswith(name)), key=len, default="")
    ending = first.removeprefix(start)
    if not start or ending[:1].isalnum() or not all(name.endswith(ending) for name in index):
        return Matched(index)
    return Matched({name.removesuffix(ending): files for name, files in index.items()}, ending)


def compare_masks(root: Path, masks: Index, stems: Collection[str]) -> Iterator[Fault]:
    """The fault of masks that all belong to no image, since they are named in another way or are no pictures.

    Args:
        root: The dataset's root.
        masks: The pictures in its folder `masks`, by the names of their images.
        stems: The names of the images.
    """
    others = [] if masks or not (root / "masks").is_dir() else list(islice(list_files(root / "masks"), 2))
    if others:
        statement = f"{root / 'masks'} holds no picture that is read ({others[0]}, ...)"
        yield Fault("masks of no image", str(root / "masks"), statement)
    if masks and not any(name in stems for name in masks):
        first = masks[min(masks)][0]
        statement = f"{root / 'masks'}: none of {count(len(masks), 'mask')} ({first}, ...) has the name of an image"
        yield Fault("masks of no image", str(root / "masks"), statement)
