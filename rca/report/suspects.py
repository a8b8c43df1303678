"""A page of the masks that are most to be doubted, for those who mend them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from rca.core.arrays import UInt8Array
from rca.core.progress import track
from rca.data.manifest import Manifest
from rca.evaluation.suspicion import AGREEMENTS
from rca.report.gallery import Picture, read_example_photograph
from rca.report.pictures import blend_mask, scale_mask
from rca.report.templates import render_page

SCRIPTS = ("page.js", "tables.js")


@dataclass(frozen=True)
class Suspect:
    """An image on the page.

    Attributes:
        image: Its id.
        figures: Its suspicion and its agreements, as text; "" where there is none.
        reasons: What is doubtful.
        pictures: Its photograph, and its mask over it; none where the page shows only its figures.
    """

    image: str
    figures: dict[str, str]
    reasons: str
    pictures: list[Picture]


def write_suspects(
    page: Path,
    heading: tuple[str, str],
    table: pd.DataFrame,
    read_mask: Callable[[str], UInt8Array],
    manifest: Manifest,
    shown: int,
    width: int = 320,
) -> None:
    """Write `index.html` and `pictures/` into a folder that exists.

    Args:
        page: The folder.
        heading: The page's heading, and a sentence below it.
        table: From `rca.evaluation.suspicion.rank`.
        read_mask: Reads an image's mask (H, W), uint8.
        manifest: The dataset.
        shown: How many images to show; the table holds all.
        width: The width of each picture, in pixels.
    """
    (page / "pictures").mkdir()
    suspects = []
    for number, line in enumerate(track(table.to_dict("records"), "drawing", len(table))):
        figures = {name: "" if math.isnan(line[name]) else f"{line[name]:z.2f}" for name in ("suspicion", *AGREEMENTS)}
        pictures = (
            draw_pictures(page, number, line["image"], read_mask(line["image"]), manifest, width)
            if number < shown
            else []
        )
        suspects.append(Suspect(line["image"], figures, line["reasons"], pictures))
    text = render_page(
        "suspects.html.jinja",
        SCRIPTS,
        title=heading[0],
        note=heading[1],
        suspects=suspects,
        columns=("suspicion", *AGREEMENTS),
    )
    (page / "index.html").write_text(text, encoding="utf-8")


def draw_pictures(
    page: Path, number: int, image_id: str, mask: UInt8Array, manifest: Manifest, width: int
) -> list[Picture]:
    """Write an image's photograph and its mask over it; their files have its number, since an id may not fit a URL."""
    photograph = read_example_photograph(manifest, image_id, width)
    height = photograph.shape[0]
    blended = blend_mask(photograph, scale_mask(mask, width, height))
    pictures = []
    for name, pixels in (("photograph", photograph), ("mask", blended)):
        file = f"pictures/{number}-{name}.jpg"
        Image.fromarray(pixels).save(page / file, quality=88)
        pictures.append(Picture(file, name, f"{name} of {image_id}", width, height))
    return pictures
