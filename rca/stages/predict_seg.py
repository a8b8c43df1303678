"""Segment the images of some splits with a run's segmentation network, without their tags."""

from pydantic import Field

from rca.core.files import read_photograph, write_directory, write_mask
from rca.core.progress import track
from rca.core.settings import Settings
from rca.data.manifest import read_manifest
from rca.segmentation.network import load_segmenter
from rca.segmentation.predict import PredictionSettings, predict_mask
from rca.stages.context import Context
from rca.training.trainer import choose_device, set_determinism


class PredictSegSettings(Settings):
    """Which images are segmented, and how.

    Attributes:
        splits: The images.
        prediction: Scales, flip and CRF.
        threads: Of the CPU; another number gives other last digits.
    """

    splits: tuple[str, ...] = Field(min_length=1)
    prediction: PredictionSettings = PredictionSettings()
    threads: int = Field(default=1, ge=1)


def run(context: Context) -> None:
    """Write the masks, in a folder for each split."""
    settings = context.settings(PredictSegSettings)
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
