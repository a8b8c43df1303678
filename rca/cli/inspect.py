"""`rca inspect`: describe the content of a file of the pipeline."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rca.core.errors import UserError
from rca.data.faults import QUARANTINE, count, read_faults
from rca.data.manifest import Manifest, read_manifest, summarise
from rca.evaluation.memory_statistics import Snapshot, average_memory, describe_memory, measure_purity, read_snapshot
from rca.labels.score_maps import open_shard
from rca.models.storage import load_tensors

# The columns of a memory's table, and the decimals of each.
DIGITS = {"fill": 0, "age": 1, "images": 0, "confidence": 2, "spread": 2, "purity": 2, "cosine": 2}
OVER_EPOCHS = ("fill", "age", "spread", "purity", "cosine")
NAME_WIDTH = 20
QUARANTINE_LINES = 10


def inspect(kind: str, path: Path, manifest: Path | None = None) -> None:
    """Describe the content of a file of the pipeline.

    Args:
        kind: "data", "network", "memory", "scores" or "model", a segmentation network.
        path: The file; for data the manifest's directory; for a memory a snapshot or a directory of them.
        manifest: For a memory, the directory of its dataset's manifest, for the true masks.

    Raises:
        UserError: the file is missing, corrupt or of another kind.
    """
    if kind == "memory":
        _inspect_memory(path, manifest)
        return
    if manifest is not None:
        raise UserError(f"--manifest is only for a memory: leave it out for {kind}.")
    kinds = {"data": _inspect_data, "network": _inspect_network, "scores": _inspect_scores, "model": _inspect_model}
    kinds[kind](path)


def _inspect_data(path: Path) -> None:
    manifest = read_manifest(path)
    print(f"{len(manifest.images)} images, {len(manifest.classes)} classes, root {manifest.root}")
    for split, counts in summarise(manifest)["splits"].items():
        print(f"\n{split}: {counts['images']} images, {counts['with_mask']} with a mask")
        for name, number in counts["images_per_class"].items():
            print(f"  {number:6d}  {name}")
    _inspect_quarantine(path / QUARANTINE)


def _inspect_quarantine(path: Path) -> None:
    """Say which images were left out; there is no such file where any error stops the pipeline."""
    if not path.is_file():
        return
    lines = read_faults(path)
    print(f"\n{count(len({line['id'] for line in lines}), 'image')} with errors left out ({path})")
    for line in lines[:QUARANTINE_LINES]:
        print(f"  {line['id']}: {line['sentence']}")
    if len(lines) > QUARANTINE_LINES:
        print(f"  and {count(len(lines) - QUARANTINE_LINES, 'more error')}")


def _inspect_network(path: Path) -> None:
    tensors, about = load_tensors(path, "train_cam")
    for key, value in about.items():
        print(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    print(f"weights: {sum(tensor.numel() for tensor in tensors.values()) / 1e6:.2f} million")


def _inspect_model(path: Path) -> None:
    from rca.cli.export import find_evaluation  # here, since the other kinds need nothing that predicts
    from rca.exporting.card import write_body
    from rca.prediction.model import load_model

    model = load_model(path, "cpu")
    print(write_body(model, find_evaluation(model), None), end="")


def _inspect_memory(path: Path, manifest_directory: Path | None) -> None:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no snapshot of a memory: name a snapshot, or a directory of them.")
    manifest, reason = _find_manifest(path, manifest_directory)
    snapshot = read_snapshot(files[-1])
    about, slots = snapshot.about, snapshot.filled.shape[1]
    print(f"{about['method']}, run {about['run']}, seed {about['seed']}: {slots} slots for each class")
    if path.is_dir():
        _print_history(files, manifest)
    else:
        _print_bank(snapshot, manifest)
    if reason:
        print(f"No purity: {reason}")


def _find_manifest(path: Path, manifest_directory: Path | None) -> tuple[Manifest | None, str]:
    """Find the manifest of a memory's dataset, or the reason why purity cannot be computed."""
    if manifest_directory is not None:
        return read_manifest(manifest_directory), ""
    # Snapshots lie in runs/<dataset>/<run>/<seed>/model or .../memory_history, the manifest in runs/<dataset>/data.
    folder = path if path.is_dir() else path.parent
    above = folder.absolute().parents
    if len(above) < 3 or not (directory := above[2] / "data").is_dir():
        return None, "the snapshot is not in a run's folder; name the manifest's directory with --manifest."
    manifest = read_manifest(directory)
    if not manifest.root.is_dir():
        return None, f"the dataset {manifest.root} is not here; run the command in the project's folder."
    if all(record.mask is None for record in manifest.images):
        return None, f"no image of {manifest.root} has a true mask."
    return manifest, ""


def _print_bank(snapshot: Snapshot, manifest: Manifest | None) -> None:
    """A line for each class, and one for their mean."""
    table = describe_memory(snapshot, measure_purity(snapshot, manifest) if manifest else None)
    print(_format_line("class", {name: name for name in DIGITS}, "nearest other"))
    for line in table.to_dict("records"):
        print(_format_line(line["class"], _format_figures(line), line["nearest"]))
    print(_format_line("mean", _format_figures(average_memory(table)), ""))


def _print_history(files: list[Path], manifest: Manifest | None) -> None:
    """A line of means for each snapshot."""
    print("Means over the classes:")
    print(" ".join(f"{name:>10s}" for name in ("epoch", *OVER_EPOCHS)))
    for file in files:
        snapshot = read_snapshot(file)
        means = average_memory(describe_memory(snapshot, measure_purity(snapshot, manifest) if manifest else None))
        figures = _format_figures(means)
        print(" ".join(f"{cell:>10s}" for cell in (str(snapshot.epochs), *(figures[name] for name in OVER_EPOCHS))))


def _format_figures(line: Mapping[str, float]) -> dict[str, str]:
    cells = {}
    for name, digits in DIGITS.items():
        # Counts are whole numbers, but their means need a decimal.
        shown = digits if isinstance(line[name], int) else max(digits, 1)
        cells[name] = "-" if np.isnan(line[name]) else f"{line[name]:z.{shown}f}"
    return cells


def _format_line(name: str, figures: Mapping[str, str], nearest: str) -> str:
    """A line of at most 100 characters."""
    cells = " ".join(f"{figures[key]:>{max(len(key), 6)}s}" for key in DIGITS)
    return f"{_shorten(name):{NAME_WIDTH}s} {cells}  {_shorten(nearest)}".rstrip()


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _inspect_scores(path: Path) -> None:
    with open_shard(path) as shard:
        print(f"{len(shard.ids)} images, " + ", ".join(f"{key} {value}" for key, value in shard.about.items()))
        for image_id in shard.ids:
            maps = shard.read(image_id)
            size = f"maps {maps.scores.shape[1]}x{maps.scores.shape[2]}"
            labels = f"labels {maps.labels.tolist()}"
            if shard.has_predicted(image_id):
                labels += f", predicted {shard.read(image_id, 'predicted').labels.tolist()}"
            print(f"  {image_id}: {labels}, {size}")
