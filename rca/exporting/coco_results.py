"""Masks as COCO's results, the file that its evaluation takes.

Rules: https://cocodataset.org/#format-results. A list of `image_id`, `category_id`, `segmentation` (run lengths) and
`score`, with the ids of COCO's own file of the images; a semantic mask has one entry for each of its classes, and its
score says nothing.
"""

import json
from pathlib import Path

from rca.core.errors import UserError
from rca.core.files import IGNORE, read_mask, write_text
from rca.core.progress import track
from rca.data.formats.coco_annotations import AnnotatedImage, read_annotations
from rca.exporting.coco import encode_region, split_mask


def export_coco_results(
    masks: Path, annotations: Path, classes: tuple[str, ...] | None, out: Path, components: bool = False
) -> tuple[int, int]:
    """Write the results of all images of COCO's file.

    Args:
        masks: The folder of the masks, named by the photographs' names.
        annotations: COCO's file with the images and categories; its annotations are not read.
        classes: The names of the masks' labels 1..C; None for those of all categories in the order of their ids.
        out: The file.
        components: Whether to write an entry for each connected region, not one for each class of an image.

    Returns:
        The number of images and of entries.

    Raises:
        UserError: a mask is missing, of another size or with an unknown label, or a class is no category. Then nothing
            is written.
    """
    listed = read_annotations(annotations, annotated=False)
    ids = {category.name: category.id for category in listed.categories}
    names = tuple(ids) if classes is None else classes
    for name in names:
        if name not in ids:
            raise UserError(f"The class {name} is no category of {annotations}: name the file of the right dataset.")
    without = [image.name for image in listed.images if not (masks / f"{image.name}.png").is_file()]
    if without:
        raise UserError(
            f"{masks} has no mask of {len(without)} of the {len(listed.images)} images in {annotations}"
            f" ({without[0]}, ...): name the folder of their predictions."
        )
    entries: list[dict[str, object]] = []
    for image in track(listed.images, "encoding", len(listed.images)):
        mask = read_mask(masks / f"{image.name}.png")
        if mask.shape != (image.height, image.width):
            raise UserError(_tell_size(masks, image, mask.shape[1], mask.shape[0], annotations))
        for label, region in split_mask(mask, components):
            if label == IGNORE:
                continue
            if label > len(names):
                raise UserError(f"The mask {masks / image.name}.png holds the label {label}, but there are {len(names)}"
                                " classes: name the file of the classes with --classes.")  # fmt: skip
            shape = encode_region(region)["segmentation"]
            entry = {"image_id": image.id, "category_id": ids[names[label - 1]], "segmentation": shape, "score": 1.0}
            entries.append(entry)
    write_text(out, json.dumps(entries, allow_nan=False) + "\n")
    return len(listed.images), len(entries)


def _tell_size(masks: Path, image: AnnotatedImage, width: int, height: int, annotations: Path) -> str:
    return (
        f"The mask {masks / image.name}.png is {width}x{height}, its image in {annotations}"
        f" {image.width}x{image.height}: name the folder of masks that were made from these photographs."
    )
