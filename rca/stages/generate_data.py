"""Generate an embedded dataset at `data/<name>`."""

from pydantic import Field

from rca.core.errors import UserError
from rca.core.settings import Settings
from rca.data.shapes.dataset import generate_shapes
from rca.data.shapes.saliency import ShapesSaliencySettings
from rca.stages.context import Context
from rca.stages.layout import Layout


class GenerateDataSettings(Settings):
    """What to generate.

    Attributes:
        train: Images for training.
        val: Images held out.
        size: Their side, in pixels.
        seed: Of the pictures.
        objects: The smallest and the largest number of objects in an image.
        saliency: Saliency maps, in the folder `Saliency`, and how wrong they are; null for none.
    """

    train: int = Field(ge=1)
    val: int = Field(ge=1)
    size: int = Field(ge=32)
    seed: int = Field(ge=0)
    objects: tuple[int, int] = (1, 3)
    saliency: ShapesSaliencySettings | None = None


def run(context: Context) -> None:
    """Generate the dataset that the instance names."""
    if context.item != "shapes":
        raise UserError(f"There is no generated dataset {context.item}: the only one is shapes.")
    settings = context.settings(GenerateDataSettings, f"generate.{context.item}")
    generate_shapes(Layout(context.item).root, **dict(settings))
