"""Read and check the whole dataset once, and write its manifest, whole and in parts."""

from typing import Annotated

from pydantic import Field

from rca.core.files import write_directory
from rca.core.settings import Settings, Unpinned
from rca.data.faults import QUARANTINE, count, write_faults
from rca.data.formats.dataset import DatasetSettings, examine_dataset
from rca.data.manifest import summarise, write_manifest
from rca.data.partition import write_parts
from rca.data.segments import write_segments
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class PrepareDataSettings(Settings):
    """How the dataset is read.

    Attributes:
        workers: Processes that decode images; their number does not change the result.
    """

    workers: Annotated[int, Unpinned()] = Field(default=1, ge=1, le=1024)


class PrepareDataTask(PrepareDataSettings):
    """All settings of the stage.

    Attributes:
        dataset: The dataset's format and parts.
        shards: The parts that its images are split into, counted from 0.
    """

    dataset: DatasetSettings
    shards: tuple[int, ...]


def run(context: Context, task: PrepareDataTask) -> None:
    """Write the manifest and its parts."""
    layout = context.layout
    with write_directory(layout.manifest) as directory:
        (directory / layout.drawn_masks.name).mkdir()
        examination = examine_dataset(
            layout.root,
            task.dataset,
            task.workers,
            drawn=layout.drawn_masks,
            draw_into=directory / layout.drawn_masks.name,
        )
        manifest = examination.accept(task.dataset.broken)
        write_manifest(directory, manifest)
        write_parts(directory, manifest, task.shards)
        write_segments(directory, manifest, task.dataset.segments, task.shards)
        if task.dataset.broken == "quarantine":
            write_faults(directory / QUARANTINE, examination.quarantine)
    for note in examination.notes:
        print(note)
    for split, counts in summarise(manifest)["splits"].items():
        print(f"{split}: {counts['images']} images, {counts['with_mask']} with a mask")
    if examination.quarantine:
        images = len({fault.id for fault in examination.quarantine})
        print(f"{count(images, 'image')} with errors left out: see {layout.manifest / QUARANTINE}")
    if examination.warnings:
        print(f"{count(len(examination.warnings), 'warning')}: `rca check` lists them")


STAGE = Stage(
    task=PrepareDataTask,
    section=PrepareDataSettings,
    run=run,
    shared={"dataset": "dataset", "shards": "shards"},
    cores="workers",
)
