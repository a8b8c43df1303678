"""The report's section on a memory bank: a map of its entries, the regions nearest to its centres, and its figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from rca.core.arrays import UInt8Array
from rca.core.errors import UserError
from rca.core.files import read_photograph
from rca.data.manifest import Manifest
from rca.report.charts import COLOURS
from rca.report.gallery import Picture
from rca.report.pictures import DIMMED

# The longest side of a region's picture, in pixels.
CROP = 128
# Marks of classes on the map, as Vega-Lite names them, with the signs that stand for them in the legend.
SHAPES = {"circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆", "cross": "✚", "triangle-down": "▼"}
HEADINGS = {
    "fill": "regions",
    "images": "images",
    "age": "age, epochs",
    "confidence": "confidence",
    "spread": "spread",
    "purity": "purity",
    "cosine": "cosine",
}
WHOLE = ("fill", "images")


@dataclass(frozen=True)
class MemoryTables:
    """A memory's exhibits, as `evaluate` wrote them.

    Attributes:
        statistics: From `rca.evaluation.memory_statistics.describe_memory`, and a line for the mean.
        map: From `rca.evaluation.memory_map.place_entries`.
        regions: The table of `rca.evaluation.memory_map.choose_regions`.
        coverage: (M, 16, 16), uint8: how far each cell of a line's box belongs to the region.
    """

    statistics: pd.DataFrame
    map: pd.DataFrame
    regions: pd.DataFrame
    coverage: UInt8Array


@dataclass(frozen=True)
class Mark:
    """How a class is drawn on the map, and the number of its entries there."""

    name: str
    colour: str
    shape: str
    entries: int

    @property
    def sign(self) -> str:
        """The letter that looks like the mark."""
        return SHAPES[self.shape]


@dataclass(frozen=True)
class Centre:
    """A prototype or a centroid: its class, its caption, and pictures of the regions nearest to it."""

    name: str
    caption: str
    pictures: list[Picture]


@dataclass(frozen=True)
class MemorySection:
    """What the page shows of a run's memory.

    Attributes:
        run: The run.
        map: The map's entries: `x`, `y`, `class`, `image` and `epoch`, counted from 1.
        marks: The mark of each class.
        entries: The number of entries in the bank; the map may show fewer.
        centres: Prototypes and centroids, class by class.
        rows: The rows of the table: a name, its figures, and the nearest other class; the last is the mean.
    """

    run: str
    map: pd.DataFrame
    marks: list[Mark]
    entries: int
    centres: list[Centre]
    rows: list[tuple[str, dict[str, str], str]]

    @property
    def has_prototypes(self) -> bool:
        """Whether the method makes prototypes."""
        return any(centre.caption.startswith("prototype") for centre in self.centres)


def write_memories(page: Path, tables: Mapping[str, MemoryTables], manifest: Manifest) -> list[MemorySection]:
    """Write the pictures of all runs' memories to `pictures/memory`, and arrange the rest for the page.

    Raises:
        UserError: a region's image is not in the manifest, or its photograph is missing or broken.
    """
    memories = []
    for number, (run, memory) in enumerate(tables.items()):
        # The folder has the number of the run, since its name may not fit into a URL.
        pictures = write_regions(page, page / "pictures" / "memory" / str(number), memory, manifest)
        names = memory.statistics["class"].tolist()[:-1]
        entries = int(memory.statistics["fill"].iloc[:-1].sum())
        centres, rows = arrange_centres(memory.regions, pictures), arrange_rows(memory.statistics)
        places = memory.map.assign(image=memory.map["image"].fillna("unknown image"), epoch=memory.map["epoch"] + 1)
        memories.append(MemorySection(run, places, choose_marks(places, names), entries, centres, rows))
    return memories


def choose_marks(places: pd.DataFrame, names: Sequence[str]) -> list[Mark]:
    """Give each class its own mark.

    From class to class both colour and shape change, for people who cannot tell the colours apart. The marks repeat
    after 36 classes.

    Args:
        places: The map's entries.
        names: All classes, in order.
    """
    counts, shapes = places["class"].value_counts(), list(SHAPES)
    return [
        Mark(
            name,
            COLOURS[number % len(COLOURS)],
            shapes[(number + number // len(COLOURS)) % len(shapes)],
            int(counts.get(name, 0)),
        )
        for number, name in enumerate(names)
    ]


def write_regions(page: Path, folder: Path, tables: MemoryTables, manifest: Manifest) -> list[Picture]:
    """Write a picture for each region: its box cut out of the photograph, dimmed outside the region."""
    folder.mkdir(parents=True)
    pictures: dict[int, Picture] = {}
    lines = tables.regions.reset_index(drop=True)
    for image_id, group in lines.groupby("image", sort=True):
        if image_id not in manifest.index:
            raise UserError(f"A memory holds a region of {image_id}, which is not in the manifest: run evaluate again.")
        photograph = read_photograph(manifest.photograph(manifest.images[manifest.index[image_id]]))
        for number, line in zip(group.index, group.to_dict("records"), strict=True):
            box = (line["left"], line["top"], line["right"], line["bottom"])
            picture = cut_region(photograph, box, tables.coverage[number])
            file = folder / f"{number}.jpg"
            picture.save(file, quality=88)
            what = f"region of {line['class']} in {image_id}"
            alt = f"{what}, epoch {line['epoch'] + 1}, cosine {line['cosine']:z.2f}"
            pictures[number] = Picture(file.relative_to(page).as_posix(), image_id, alt, *picture.size)
    return [pictures[number] for number in range(len(lines))]


def cut_region(photograph: UInt8Array, box: Sequence[float], coverage: UInt8Array) -> Image.Image:
    """Draw a region in colour, with the rest of its box in dark grey.

    Args:
        photograph: (H, W, 3), uint8.
        box: Left, top, right and bottom in pixels; it is clipped to the photograph.
        coverage: (16, 16), uint8: how far each cell of the box belongs to the region, 0..255.

    Returns:
        RGB, `CROP` pixels on its longer side.
    """
    height, width = photograph.shape[:2]
    left, top = min(max(math.floor(box[0]), 0), width - 1), min(max(math.floor(box[1]), 0), height - 1)
    right, bottom = max(min(math.ceil(box[2]), width), left + 1), max(min(math.ceil(box[3]), height), top + 1)
    scale = CROP / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    crop = Image.fromarray(photograph[top:bottom, left:right]).resize(size, Image.Resampling.LANCZOS)
    grey = crop.convert("L").point(lambda value: (DIMMED * value + 50) // 100).convert("RGB")
    return Image.composite(crop, grey, Image.fromarray(coverage).resize(size, Image.Resampling.BILINEAR))


def arrange_centres(regions: pd.DataFrame, pictures: Sequence[Picture]) -> list[Centre]:
    """Collect the pictures of each prototype or centroid, in the order of the lines."""
    groups: dict[tuple[str, str, int], list[Picture]] = {}
    keys = zip(regions["class"], regions["centre"].astype(str), regions["entries"], strict=True)
    for key, picture in zip(keys, pictures, strict=True):
        groups.setdefault(key, []).append(picture)
    centres = []
    for (name, centre, entries), members in groups.items():
        what = f"prototype {centre}" if centre.isdigit() else centre
        centres.append(Centre(name, f"{what}, {entries} region{'s' if entries != 1 else ''}", members))
    return centres


def arrange_rows(statistics: pd.DataFrame) -> list[tuple[str, dict[str, str], str]]:
    """The table's cells as text; "" for a figure that a class lacks."""
    rows = []
    for number, line in enumerate(statistics.fillna({"nearest": ""}).to_dict("records"), 1):
        cells = {}
        for key in HEADINGS:
            whole = key in WHOLE and number < len(statistics)
            digits = 0 if whole else 1 if key in (*WHOLE, "age") else 2
            cells[key] = "" if math.isnan(line[key]) else f"{line[key]:z.{digits}f}"
        rows.append((line["class"], cells, line["nearest"]))
    return rows
