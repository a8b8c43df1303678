"""The archive that the evaluation server of PASCAL VOC takes for the segmentation of images without public masks.

Rules: The PASCAL Visual Object Classes Challenge 2012 Development Kit (Everingham & Winn), the section on submission of
results. An archive of the folder `results/VOC2012/Segmentation/comp6_test_cls` with an indexed PNG of VOC's palette for
each image of the list and no other, of the image's size, with the labels 0 to 20. comp5 is for what was trained on
VOC's own data alone, comp6 for all else, such as weights from ImageNet.
"""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from rca.core.errors import UserError
from rca.core.files import PALETTE, read_mask, write_file, write_mask
from rca.core.progress import track
from rca.data.faults import count
from rca.data.formats.files import index_pictures, read_list
from rca.prediction.inputs import open_image

Competition = Literal["comp5", "comp6"]
CLASSES = 20


def export_voc_test(masks: Path, photographs: Mapping[str, Path], out: Path, competition: Competition) -> None:
    """Write the archive, the same bytes for the same masks, and check it.

    Args:
        masks: The folder of the masks, `<id>.png`.
        photographs: The photograph of each image on the server's list, by id.
        out: The archive, `.tar.gz` or `.tgz`.
        competition: The server's competition.

    Raises:
        UserError: a mask is missing or against the rules. Then nothing is written.
    """
    without = [name for name in photographs if not (masks / f"{name}.png").is_file()]
    if without:
        raise UserError(
            f"{masks} has no mask of {len(without)} of the {len(photographs)} images on the list ({without[0]}, ...):"
            " name the folder of their predictions."
        )
    with write_file(out) as temporary:
        with (
            open(temporary, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w") as archive,
        ):
            for name in track(sorted(photographs), "packing", len(photographs)):
                picture = io.BytesIO()
                write_mask(picture, read_mask(masks / f"{name}.png"))
                member = tarfile.TarInfo(f"{name_results_folder(competition)}/{name}.png")
                member.size = picture.tell()
                picture.seek(0)
                archive.addfile(member, picture)
        check_voc_test(temporary, photographs, competition, out)


def read_listed(listed: Path) -> dict[str, Path]:
    """The photographs of a list in VOC's layout, by id.

    Raises:
        UserError: the list or a photograph is missing.
    """
    folder = listed.parent.parent.parent / "JPEGImages"
    index = index_pictures(folder)
    names = list(dict.fromkeys(read_list(listed, index.__contains__)))
    without = [name for name in names if name not in index]
    if without or not names:
        some = f"{count(len(without), 'photograph')} ({without[0]}, ...) that are not in {folder}" if names else "none"
        raise UserError(f"{listed} lists {some}: name ImageSets/Segmentation/test.txt in VOC's own folder.")
    return {name: folder / index[name][0] for name in names}


def name_results_folder(competition: Competition) -> str:
    """The folder of the masks in the archive."""
    return f"results/VOC2012/Segmentation/{competition}_test_cls"


def check_voc_test(
    archive: Path, photographs: Mapping[str, Path], competition: Competition, source: Path | None = None
) -> None:
    """Check an archive by the server's rules.

    Args:
        archive: The archive.
        photographs: The photograph of each image on the server's list, by id.
        competition: The server's competition.
        source: The archive's name in messages; by default its path.

    Raises:
        UserError: the archive breaks a rule.
    """
    source = source or archive
    wanted = {f"{name_results_folder(competition)}/{name}.png": photograph for name, photograph in photographs.items()}
    found: set[str] = set()
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                if member.isdir():
                    continue
                if member.name not in wanted or member.name in found or not member.isfile():
                    raise UserError(f"{source} holds {member.name}, which the server does not expect: leave it out.")
                found.add(member.name)
                content = members.extractfile(member)
                assert content is not None  # it is a file
                _check_picture(content.read(), wanted[member.name], f"{source}: {member.name}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{source} is no archive that tar and gzip read ({error}): export it again.") from None
    lacking = sorted(wanted.keys() - found)
    if lacking:
        raise UserError(f"{source} lacks {len(lacking)} of {len(wanted)} masks ({lacking[0]}, ...): export it again.")


def _check_picture(content: bytes, photograph: Path, name: str) -> None:
    """Check one mask of an archive."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            mode, size, palette, mask = picture.mode, picture.size, picture.getpalette() or [], np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name} is no PNG ({error}): export it again.") from None
    if mode != "P" or palette[: 3 * (CLASSES + 1)] != list(PALETTE[: 3 * (CLASSES + 1)]):
        raise UserError(f"{name} is no indexed PNG with VOC's palette: export it again.")
    with open_image(photograph, decode=False) as image:
        if size != image.size:
            raise UserError(
                f"{name} is {size[0]}x{size[1]}, its photograph {photograph} {image.width}x{image.height}: name the"
                " folder of masks that were made from these photographs."
            )
    if mask.max() > CLASSES:
        raise UserError(f"{name} holds the label {mask.max()}, but the server knows 0 to {CLASSES}: correct the mask.")
