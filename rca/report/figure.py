"""A figure for a paper: photographs with their masks in rows, of several runs and steps, as PDF, SVG or PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from scipy import ndimage

from rca.core.arrays import Float64Array, UInt8Array
from rca.core.files import IGNORE, PALETTE
from rca.report.pictures import STRIPE, find_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

Colours = Literal["voc", "safe"]
Box = tuple[int, int, int, int]
# Okabe and Ito's colours, which colour-blind people can tell apart, on any photograph.
SAFE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
# Of a region's image, under which its class is not written on it.
LEAST_NAMED = 0.01
# Share of a panel that a magnified crop takes, in each direction.
MAGNIFIED = 0.5
_SETTINGS: "dict[RcKeyType, object]" = {
    "svg.hashsalt": "rca",
    "svg.fonttype": "none",  # text stays text, and letters can be edited
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 8,
}


@dataclass(frozen=True)
class FigureRow:
    """A row of a figure.

    Attributes:
        photograph: (H, W, 3), uint8, RGB.
        masks: The mask of each column, (H, W), uint8: 0 background, 1..C classes, 255 ignore. None shows the photograph
            alone.
        zoom: The part to magnify: left, top, width and height in pixels.
    """

    photograph: UInt8Array
    masks: Sequence[UInt8Array | None]
    zoom: Box | None = None


@dataclass(frozen=True)
class FigureLook:
    """How a figure looks.

    Attributes:
        alpha: The opacity of masks, 0..1.
        names: Whether classes are written on their regions.
        colours: "voc" for the palette of PASCAL VOC, "safe" for colours that colour-blind people can tell apart.
        width: The width of a column, in inches.
    """

    alpha: float = 0.55
    names: bool = False
    colours: Colours = "voc"
    width: float = 1.5


def choose_colours(labels: Sequence[int], colours: Colours) -> dict[int, tuple[float, float, float]]:
    """The colour of each label that a figure shows, red, green and blue in 0..1.

    Safe colours repeat, lighter each time, after the seventh label.
    """
    if colours == "voc":
        return {label: tuple(value / 255 for value in PALETTE[3 * label : 3 * label + 3]) for label in labels}  # type: ignore[misc]
    chosen = {}
    for number, label in enumerate(labels):
        lighter = 0.45 * (number // len(SAFE))
        red, green, blue = (value + (1 - value) * min(lighter, 0.9) for value in to_rgb(SAFE[number % len(SAFE)]))
        chosen[label] = (red, green, blue)
    return chosen


def tint(
    photograph: UInt8Array, mask: UInt8Array, colours: dict[int, tuple[float, float, float]], alpha: float
) -> Float64Array:
    """Lay a mask over a photograph, which keeps its light and colour where the mask says background.

    Args:
        photograph: (H, W, 3), uint8, RGB.
        mask: (H, W), uint8.
        colours: The colour of each label.
        alpha: The opacity of the mask, 0..1.

    Returns:
        (H, W, 3), 0..1; regions have white edges, and undecided pixels white stripes.
    """
    picture = photograph / 255
    for label, colour in colours.items():
        region = mask == label
        picture[region] = (1 - alpha) * picture[region] + alpha * np.array(colour)
    rows, columns = np.indices(mask.shape)
    picture[(mask == IGNORE) & ((rows + columns) // STRIPE % 2 == 0)] = 1
    picture[find_edges(mask)] = 1
    return picture


def draw_figure(
    rows: Sequence[FigureRow], headings: Sequence[str], classes: Sequence[str], look: FigureLook = FigureLook()
) -> Figure:
    """Draw a figure with a row for each image, a column for each heading, and a legend of the classes that it shows.

    Raises:
        ValueError: there is no row, or a row has not one mask, or None, for each heading.
    """
    if not rows or any(len(row.masks) != len(headings) for row in rows):
        raise ValueError(f"Each row needs {len(headings)} masks, one for each heading, and there must be a row.")
    shown = {int(label) for row in rows for mask in row.masks if mask is not None for label in np.unique(mask)}
    labels = sorted(shown - {0, IGNORE})
    colours = choose_colours(labels, look.colours)
    heights = [row.photograph.shape[0] / row.photograph.shape[1] for row in rows]
    size = (look.width * len(headings), look.width * sum(heights) + 0.25 + 0.2 * -(-len(labels) // 5))
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01))
        panels = figure.subplots(len(rows), len(headings), squeeze=False, height_ratios=heights)
        for row, axes in zip(rows, panels, strict=True):
            for mask, panel in zip(row.masks, axes, strict=True):
                draw_panel(panel, row, mask, classes, colours, look)
        for heading, panel in zip(headings, panels[0], strict=True):
            panel.set_title(heading, fontsize=8, pad=3)
        if labels:
            patches = [Patch(facecolor=colours[label], label=classes[label - 1]) for label in labels]
            figure.legend(handles=patches, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    return figure


def draw_panel(
    panel: "Axes",
    row: FigureRow,
    mask: UInt8Array | None,
    classes: Sequence[str],
    colours: dict[int, tuple[float, float, float]],
    look: FigureLook,
) -> None:
    """Draw a row's photograph with one of its masks, with names and a magnified part if they are wanted."""
    panel.set_axis_off()
    picture = row.photograph / 255 if mask is None else tint(row.photograph, mask, colours, look.alpha)
    panel.imshow(picture, interpolation="nearest")
    if mask is not None and look.names:
        for label in colours:
            write_name(panel, mask == label, classes[label - 1])
    if row.zoom:
        left, top, width, height = row.zoom
        panel.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="white", linewidth=0.8))
        inset = panel.inset_axes((1 - MAGNIFIED, 0, MAGNIFIED, MAGNIFIED))
        inset.imshow(picture[top : top + height, left : left + width], interpolation="nearest")
        inset.set_xticks([])
        inset.set_yticks([])
        for side in inset.spines.values():
            side.set_color("white")


def write_name(panel: "Axes", region: np.ndarray, name: str) -> None:
    """Write a class's name where its region (H, W), bool, is widest, unless the region is too small for letters."""
    if region.mean() < LEAST_NAMED:
        return
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    ground = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1}  # an outline would make text a path
    panel.text(float(column), float(row), name, color="white", fontsize=6, ha="center", va="center", bbox=ground)


def save_figure(figure: Figure, path: Path, form: str) -> None:
    """Write a figure as "pdf", "svg" or "png"; the same figure gives the same bytes."""
    dates = {"pdf": "CreationDate", "svg": "Date", "png": "Software"}
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(path, format=form, dpi=300, metadata={dates[form]: None})
