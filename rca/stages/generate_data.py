"""Generate the embedded dataset `shapes` at `data/shapes`."""

from pydantic import Field, field_validator

from rca.core.settings import Settings
from rca.data.shapes.dataset import generate_shapes
from rca.data.shapes.saliency import ShapesSaliencySettings
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class GenerateDataSettings(Settings):
    """What to generate.

    Attributes:
        train: Images for training; 0 generates no dataset.
        val: Images held out.
        size: The side of an image, in pixels.
        seed: The random seed of the pictures.
        objects: The smallest and the largest number of objects in an image.
        saliency: Saliency maps, in the folder `Saliency`, and how wrong they are; null for none.
    """

    train: int = Field(default=0, ge=0, le=10_000_000)
    val: int = Field(default=100, ge=1, le=10_000_000)
    size: int = Field(default=96, ge=32, le=4096)
    seed: int = Field(default=0, ge=0)
    objects: tuple[int, int] = (1, 3)
    saliency: ShapesSaliencySettings | None = None

    @field_validator("objects")
    @classmethod
    def _objects_are_a_range(cls, objects: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= objects[0] <= objects[1] <= 100:
            raise ValueError("objects must be two numbers from 1 to 100, the smaller one first")
        return objects


def run(context: Context, task: GenerateDataSettings) -> None:
    """Generate the dataset."""
    generate_shapes(context.layout.root, **dict(task))


STAGE = Stage(
    task=GenerateDataSettings,
    section=GenerateDataSettings,
    run=run,
    axes=("item",),
    items=("shapes",),
    needed=lambda task: task.train > 0,
)
