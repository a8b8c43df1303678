"""What the settings of every dataset format share."""

from pydantic import Field

from rca.core.settings import Settings
from rca.data.faults import Broken


class SourceSettings(Settings):
    """Further images to train on, in the layout of the format `folder`, whose tags are the dataset's classes.

    Attributes:
        path: Their folder, relative to the dataset's root; by default the source's name.
        weight: What each counts in a training: below 1 where the tags are noisy.
        limit: How many are taken at most, always the same ones; null takes all.
    """

    path: str | None = None
    weight: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, ge=1)


class BaseDatasetSettings(Settings):
    """What every format has.

    Attributes:
        name: The dataset's name; it lies at `data/<name>`.
        saliency: The folder of saliency maps, `<id>.png`, relative to the root; null where there is none.
        sources: Further images to train on, by the source's name.
        broken: What is done about images with an error: "stop", or leave them out and keep a list ("quarantine").
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    saliency: str | None = None
    sources: dict[str, SourceSettings] = {}
    broken: Broken = "stop"
