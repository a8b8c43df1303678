"""`rca export`: convert a model or masks to the formats of other tools, or share a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rca.core.errors import UserError
from rca.data.formats.files import read_classes
from rca.data.formats.voc import VOC_CLASSES
from rca.data.manifest import Manifest, read_manifest
from rca.exporting.card import Evaluation, read_evaluation
from rca.exporting.coco import export_coco
from rca.exporting.coco_results import export_coco_results
from rca.exporting.hub import export_hub
from rca.exporting.label_studio import BRUSH, IMAGE, export_label_studio
from rca.exporting.masks import MaskSet, choose_images, read_images, read_masks_beside, read_masks_of, read_predictions
from rca.exporting.onnx import export_onnx
from rca.exporting.voc import export_voc
from rca.exporting.voc_test import Competition, export_voc_test, name_results_folder, read_listed
from rca.labels.thresholds import CHOICES, name_folder
from rca.prediction.folder import SUMMARY
from rca.prediction.model import Model, load_model
from rca.stages.base.layout import Layout

QUOTE = {'"': "&quot;"}


def export(target: str, **arguments: Any) -> None:
    """Export to a target, with the arguments of its function below."""
    targets: dict[str, Callable[..., None]] = {
        "onnx": _export_onnx,
        "hub": _export_hub,
        "coco": _export_coco,
        "coco-results": _export_coco_results,
        "voc": _export_voc,
        "voc-test": _export_voc_test,
        "label-studio": _export_label_studio,
    }
    targets[target](**arguments)


def _export_onnx(model: Path, out: Path, force: bool) -> None:
    _check_free(out, force)
    agreement = export_onnx(load_model(model, "cpu"), out)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; logits differ from PyTorch's by at most {agreement.difference:.1e} "
        f"of the largest, {agreement.pixels:.3%} of pixels are the same"
    )


def _export_hub(model: Path, out: Path, licence: str | None, force: bool) -> None:
    if out.exists() and not (force and out.is_dir()):
        raise UserError(f"{out} exists: name another folder, or replace it with --force.")
    loaded = load_model(model, "cpu")
    evaluation = find_evaluation(loaded)
    export_hub(loaded, out, evaluation, licence)
    unknown = [what for what, known in (("metrics", evaluation), ("licence", licence)) if not known]
    note = f"; its card says that {' and '.join(unknown)} are unknown" if unknown else ""
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}{note}")


def find_evaluation(model: Model) -> Evaluation | None:
    """The evaluation of a model that lies where a pipeline put it; None if there is none of this very file."""
    about, above = model.description.provenance, model.path.absolute().parents
    if about is None or len(above) < 5:
        return None
    paths = Layout(about.dataset).of(about.run, about.seed)
    return read_evaluation(above[4] / paths.evaluation, model.sha256)  # runs/<dataset>/<run>/<seed>/ lies in a project


def _export_coco(out: Path, components: bool, force: bool, **source: Any) -> None:
    _check_free(out, force)
    masks = find_masks(**source)
    annotations = export_coco(masks, out, components)
    print(f"{out}: {len(masks.images)} images, {annotations} annotations, {len(masks.classes)} categories")


def _export_voc(out: Path, split: str, **source: Any) -> None:
    masks = find_masks(**source)
    export_voc(masks, out, split)
    print(f"{out}: {len(masks.images)} images on the list {split}, {len(masks.classes)} classes")


def _export_coco_results(
    masks: Path, out: Path, annotations: Path, classes: Path | None, components: bool, force: bool
) -> None:
    _check_free(out, force)
    manifest = find_manifest(masks)
    names = read_classes(classes) if classes is not None else manifest.classes if manifest is not None else None
    images, entries = export_coco_results(masks, annotations, names, out, components)
    print(f"{out}: {images} images, {entries} entries")


def _export_voc_test(
    masks: Path, out: Path, split: str, listed: Path | None, competition: Competition, force: bool
) -> None:
    _check_free(out, force)
    photographs = find_listed(masks, split) if listed is None else read_listed(listed)
    export_voc_test(masks, photographs, out, competition)
    print(f"{out}: {len(photographs)} masks in {name_results_folder(competition)}, checked against the server's rules")


def find_listed(masks: Path, split: str) -> dict[str, Path]:
    """The photographs of a split of the run that made the masks, by id.

    Raises:
        UserError: the masks are of no run, or of a dataset with other classes than VOC's.
    """
    manifest = find_manifest(masks)
    if manifest is None:
        raise UserError(f"{masks} belongs to no run, so its list of images is unknown: name it with --list.")
    if manifest.classes != VOC_CLASSES:
        raise UserError(f"The masks in {masks} have other classes than VOC's 20: name those of a run on VOC.")
    return {record.id: manifest.photograph(record) for record in manifest.select(split)}


def find_manifest(masks: Path) -> Manifest | None:
    """The manifest of the run that made masks, which lie in runs/<dataset>/<run>/<seed>; None if no run did."""
    for parent in masks.absolute().parents:
        if (parent / "data/dataset.json").is_file():
            return read_manifest(parent / "data")
    return None


def _export_label_studio(out: Path, prefix: str, force: bool, **source: Any) -> None:
    _check_free(out, force)
    masks = find_masks(**source)
    regions = export_label_studio(masks, out, prefix)
    print(f"{out}: {len(masks.images)} tasks, {regions} regions; its configuration names them {IMAGE} and {BRUSH}:")
    labels = "".join(f'<Label value="{escape(name, QUOTE)}"/>' for name in masks.classes)
    print(f'<View><Image name="{IMAGE}" value="$image"/>', end="")
    print(f'<BrushLabels name="{BRUSH}" toName="{IMAGE}">{labels}</BrushLabels></View>')


def _check_free(out: Path, force: bool) -> None:
    if out.exists() and not (force and out.is_file()):
        raise UserError(f"{out} exists: name another file, or overwrite it with --force.")


def find_masks(listed: Path | None = None, first: int | None = None, **source: Any) -> MaskSet:
    """Find a folder's masks, or those of listed images in their order.

    Args:
        listed: A table with a column `image`; None takes all masks.
        first: How many of the list; None for all.
        source: The arguments of `find_all_masks`.

    Raises:
        UserError: as for `find_all_masks`, or a listed image has no mask.
    """
    masks = find_all_masks(**source)
    if listed is None:
        if first is not None:
            raise UserError("--first counts the images of a list: name it with --list.")
        return masks
    return choose_images(masks, read_images(listed)[:first], listed)


def find_all_masks(masks: Path, classes: Path | None, photographs: Path | None, threshold: str) -> MaskSet:
    """Find a folder's masks, with their classes and photographs.

    Args:
        masks: The folder.
        classes: The file with the names of the classes; None looks beside the masks and in their run's manifest.
        photographs: The folder of the photographs; None looks in the same places.
        threshold: The threshold of a run's pseudo labels or refined masks, "best" or "fixed".

    Raises:
        UserError: the folder does not exist or holds no masks, or their classes or photographs are not found.
    """
    if not masks.is_dir():
        raise UserError(f"The folder of masks {masks} does not exist: name another.")
    others = {name_folder(choice, tags) for choice in CHOICES for tags in ("given", "predicted")} - {threshold}
    if classes is None and photographs is None:
        predicted = masks.parent if masks.name == "masks" else masks
        if (predicted / SUMMARY).is_file():
            return read_predictions(predicted)
        manifest = find_manifest(masks)
        if manifest is not None:
            return read_masks_of(manifest, masks, others)
    classes = classes or masks.parent / "classes.txt"
    photographs = photographs or masks.parent / "JPEGImages"
    if not classes.is_file():
        raise UserError(f"The classes of the masks in {masks} are unknown: name their file with --classes.")
    return read_masks_beside(masks, classes, photographs, others)
