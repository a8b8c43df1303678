"""Read and check the whole dataset once, and write its manifest, whole and in parts."""

from pydantic import Field

from rca.core.files import write_directory
from rca.core.settings import Settings
from rca.data.faults import QUARANTINE, count, write_faults
from rca.data.formats.dataset import build_dataset_settings, examine_dataset
from rca.data.manifest import summarise, write_manifest
from rca.data.partition import write_parts
from rca.stages.context import Context


class PrepareDataSettings(Settings):
    """How the dataset is read.

    Attributes:
        workers: Processes that decode images; the result does not depend on it.
    """

    workers: int = Field(default=1, ge=1)


def run(context: Context) -> None:
    """Write the manifest and its parts."""
    settings = context.settings(PrepareDataSettings)
    dataset = build_dataset_settings(context.read("dataset"), context.params_file)
    layout = context.layout
    with write_directory(layout.manifest) as directory:
        (directory / layout.drawn_masks.name).mkdir()
        examination = examine_dataset(
            layout.root,
            dataset,
            settings.workers,
            drawn=layout.drawn_masks,
            draw_into=directory / layout.drawn_masks.name,
        )
        manifest = examination.accept(dataset.broken)
        write_manifest(directory, manifest)
        write_parts(directory, manifest, context.read("shards"))
        if dataset.broken == "quarantine":
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
