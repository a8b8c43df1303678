"""The settings that all dataset formats share."""

from pydantic import Field

from rca.core.settings import Settings
from rca.data.faults import Broken


class SourceSettings(Settings):
    """An extra source of images to train on, in the format `folder`, with tags from the dataset's classes.

    Attributes:
        path: Its folder, relative to the dataset's root; by default the source's name.
        weight: The weight of each image in training: below 1 where the tags are noisy.
        limit: The most images to take, always the same ones; null takes all.
    """

    path: str | None = None
    weight: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, ge=1)


class BaseDatasetSettings(Settings):
    """The base of every format's settings.

    Attributes:
        name: The dataset's name; its root is `data/<name>`.
        saliency: The folder of saliency maps, `<id>.png`, relative to the root; null if there is none.
        segments: The folder of segments, `<id>.png` or `<id>.npz`, relative to the root, for `refine_crf.segments`;
            null if there is none.
        sources: Extra sources of images to train on, by name.
        broken: What to do when images have errors: "stop", or leave them out and list them ("quarantine").
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    saliency: str | None = None
    segments: str | None = None
    sources: dict[str, SourceSettings] = {}
    broken: Broken = "stop"
