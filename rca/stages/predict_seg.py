"""Segment the images of some splits with a run's segmentation network, without using their tags."""

from pydantic import Field

from rca.core.devices import choose_device, set_determinism
from rca.core.files import read_photograph, write_directory, write_mask
from rca.core.progress import track
from rca.core.settings import Settings, Threads
from rca.data.manifest import read_manifest
from rca.segmentation.network import load_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask
from rca.stages.base.context import Context
from rca.stages.base.stage import Stage


class PredictSegSettings(Settings):
    """Which images are segmented, and how.

    Attributes:
        splits: The images.
        prediction: Scales, flip and CRF.
        threads: CPU threads; results differ in the last digits between numbers of threads.
    """

    splits: tuple[str, ...] = Field(default=("val",), min_length=1)
    prediction: PredictionSettings = PredictionSettings()
    threads: Threads = 1


class PredictSegTask(PredictSegSettings):
    """All settings of the stage.

    Attributes:
        enabled: Whether a segmentation network is trained.
    """

    enabled: bool


def run(context: Context, settings: PredictSegTask) -> None:
    """Write the masks, in a folder for each split."""
    paths = context.paths
    set_determinism(settings.threads)
    network = load_segmenter(paths.segmenter).to(choose_device())
    with write_directory(paths.predictions) as directory:
        for split in settings.splits:
            (directory / split).mkdir()
            manifest = read_manifest(context.layout.manifest, f"splits/{split}")
            records = manifest.select(split)
            for record in track(records, f"segmenting {split}", len(records)):
                mask = predict_mask(network, read_photograph(manifest.photograph(record)), settings.prediction)
                write_mask(directory / split / f"{record.id}.png", mask)
            print(f"{split}: {len(records)} images")


STAGE = Stage(
    task=PredictSegTask,
    section=PredictSegSettings,
    run=run,
    shared={"enabled": "train_seg.enabled"},
    axes=("run", "seed"),
    needed=lambda task: task.enabled,
    cores="threads",
)
