"""The segmentation of a photograph, as Python and notebooks see it."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from rca.core.arrays import Float32Array, UInt8Array
from rca.core.files import write_mask
from rca.prediction.labels import LabelSummary
from rca.prediction.overlays import draw_overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Prediction:
    """The segmentation of an image. A notebook shows it as its overlay.

    Attributes:
        mask: (H, W), uint8, 0 background and 1..C.
        confidence: (H, W), float32: the probability of the mask's label, 0..1.
        labels: The labels in the mask, ascending, with the background.
        photograph: (H, W, 3), uint8, RGB: the image as it was segmented, upright.
    """

    mask: UInt8Array
    confidence: Float32Array
    labels: tuple[LabelSummary, ...]
    photograph: UInt8Array = field(compare=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the mask."""
        return tuple(summary.name for summary in self.labels if summary.label)

    @property
    def areas(self) -> dict[str, int]:
        """The number of pixels of each class in the mask."""
        return {summary.name: summary.pixels for summary in self.labels if summary.label}

    def overlay(self) -> Image.Image:
        """Draw the mask over the photograph, with a legend; see `rca.prediction.overlays.draw_overlay`."""
        return draw_overlay(self.photograph, self.mask, self.labels)

    def plot(self) -> "Figure":
        """A figure of matplotlib: the overlay beside the confidence."""
        from matplotlib.figure import Figure  # imported late: matplotlib takes a second, which predicting can save

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.imshow(self.overlay())
        shown = right.imshow(self.confidence, vmin=0, vmax=1, cmap="viridis")
        right.set_title("confidence")
        figure.colorbar(shown, ax=right)
        for axes in (left, right):
            axes.set_axis_off()
        return figure

    def save(self, path: str | Path) -> None:
        """Write the mask as PNG, in VOC's palette, in the place of an earlier file."""
        write_mask(Path(path), self.mask)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        largest = sorted(self.labels, key=lambda summary: -summary.pixels)
        shares = ", ".join(f"{summary.name} {summary.share:.1%}" for summary in largest)
        return f"Prediction({width}x{height}: {shares})"

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.overlay().save(stream, "PNG")
        return stream.getvalue()
