"""The command `rca import masks`: corrected masks come back and take the place of those that the pipeline makes."""

from pathlib import Path

from rca.cli.edit import set_values
from rca.data.manifest import read_manifest
from rca.exporting.corrections import keep_corrections
from rca.labels.training_masks import hash_corrected, list_corrected
from rca.params.read import read_params
from rca.stages.base.layout import Layout

CORRECTED = Path("corrected")


def import_masks(source: Path) -> None:
    """Keep corrected masks in `corrected/<dataset>/`, and name them in params.yaml for the segmentation network.

    Args:
        source: As for `rca.exporting.corrections.read_corrections`.

    Raises:
        UserError: as for `rca.exporting.corrections.keep_corrections`.
    """
    layout = Layout(read_params().dataset.name)
    folder = CORRECTED / layout.dataset
    new = keep_corrections(source, read_manifest(layout.manifest), folder)
    value = f"{{folder: {folder.as_posix()}, sha256: {hash_corrected(folder)}}}"
    lines = set_values([f"train_seg.corrected={value}"])
    print(f"{len(new)} new corrected masks, {len(list_corrected(folder))} in {folder}; commit them with params.yaml.")
    print(*lines, sep="\n")
    print("The next `rca run` trains the segmentation network on them.")
