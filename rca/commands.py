"""What the commands of `rca` do that are no stage."""

import os
import shutil
from pathlib import Path

import torch

from rca.config import Params, read_params
from rca.data.formats import read_dataset
from rca.data.manifest import Manifest, summarise
from rca.errors import UserError
from rca.export_commands import export
from rca.inspection import inspect
from rca.models.backbones import build_backbone
from rca.models.weights import FileWeights, check_file
from rca.prediction.folder import predict_folder as predict
from rca.presets import apply_preset
from rca.stages.context import PARAMS
from rca.stages.layout import LOGS, Layout

__all__ = ["check", "clean", "estimate_disk", "export", "inspect", "predict", "preset", "show"]

GIGABYTE = 1e9
# Bytes for each pixel of a PNG mask: 0.0215 was measured on 200 masks of photographs.
MASK_BYTES = 0.02


def preset(name: str, changes: list[str], force: bool) -> None:
    """Write params.yaml from a preset and link its dataset."""
    for line in apply_preset(name, changes, force):
        print(line)


def check(params: Path) -> None:
    """Validate a params file and the data that it names.

    Raises:
        UserError: with the first thing that is wrong.
    """
    settings = read_params(params)
    print(f"{params}: {len(settings.runs)} runs, {len(settings.seeds)} seeds, {len(settings.shards)} shards.")
    for role in (settings.train_cam, settings.train_seg):
        if isinstance(role.backbone.weights, FileWeights):
            check_file(role.backbone.weights)
    layout = Layout(settings.dataset.name)
    if settings.generate and not layout.root.exists():
        print(f"{layout.root}: will be generated.")
        return
    manifest = read_dataset(layout.root, settings.dataset, os.cpu_count() or 1)
    _check_splits(settings, manifest)
    for split, counts in summarise(manifest)["splits"].items():
        print(f"{layout.root}: {split}: {counts['images']} images, {counts['with_mask']} with a mask.")
    need, free = estimate_disk(settings, manifest), shutil.disk_usage(".").free
    print(f"Disk: outputs and DVC's cache will take about {need / GIGABYTE:.1f} GB, {free / GIGABYTE:.1f} GB are free.")
    if need > free:
        raise UserError("The disk is too small for this pipeline: free some, or list fewer runs, seeds or splits.")


def _check_splits(settings: Params, manifest: Manifest) -> None:
    """Every split exists, and what is scored or trained on has score maps."""
    scored = {record.id for record in manifest.select_any(settings.make_cam.splits)}
    need_maps = {"choose_threshold.split", "train_seg.split"}
    need_maps |= {f"evaluate.{kind}" for kind in ("seed", "pseudo", "refined", "classification")}
    for key, splits in settings.used_splits.items():
        for split in splits:
            records = manifest.select(split)
            without = [record.id for record in records if record.id not in scored]
            if without and key in need_maps:
                raise UserError(
                    f"{key} names {split}, but {len(without)} of its images ({without[0]}, ...) get no score maps: "
                    "add the split to make_cam.splits."
                )


def estimate_disk(settings: Params, manifest: Manifest) -> float:
    """About how many bytes the outputs and DVC's copy of them will take."""
    records = manifest.select_any(settings.make_cam.splits)
    pixels = sum(record.width * record.height for record in records)
    tagged = sum(record.width * record.height * len(record.tags) for record in records)
    scores = 2 * tagged / settings.make_cam.stride**2
    masks = 4 * max(MASK_BYTES * pixels, 4096 * len(records))  # a file takes a block at least
    networks = 4e8  # two networks of a hundred million weights at most
    each_run = len(settings.runs) * len(settings.seeds) * (scores + masks + networks)
    return 2 * (each_run + _estimate_features(settings, pixels))


def _estimate_features(settings: Params, pixels: int) -> float:
    """About how many bytes the features of a frozen backbone will take."""
    backbone = settings.train_cam.backbone
    if backbone.trainable != "none":
        return 0
    with torch.device("meta"):  # its number of channels alone
        channels = build_backbone(backbone.name, backbone.output_stride).channels
    positions = pixels / backbone.output_stride**2 * sum(view.scale**2 for view in settings.make_cam.inference.views)
    return 2 * channels * positions


def show() -> None:
    """Print the table and where the report lies.

    Raises:
        UserError: the pipeline has not run.
    """
    layout = Layout(read_params(PARAMS).dataset.name)
    table = layout.results / "table.md"
    if not table.is_file():
        raise UserError(f"{table} does not exist: run the pipeline first, with `dvc repro` or `snakemake --cores 2`.")
    print(table.read_text(encoding="utf-8"))
    page = layout.report / "index.html"
    report = page if page.is_file() else "not made on this machine yet (run the pipeline)"
    print(f"All figures: {layout.results}/; the report: {report}")


def clean(delete: bool) -> None:
    """List, or delete, what no stage declares."""
    from rca.pipeline.resolve import find_undeclared

    # Other datasets' results stay: params.yaml names one dataset at a time.
    layout = Layout(read_params(PARAMS).dataset.name)
    found = find_undeclared(Path.cwd(), [folder.as_posix() for folder in (layout.runs, layout.results, LOGS)])
    for path in found:
        print(path)
        if delete:
            path.unlink()
    print(f"{len(found)} files that no stage declares" + (" deleted." if delete else "; delete them with --delete."))
