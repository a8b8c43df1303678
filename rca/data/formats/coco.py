"""Datasets in COCO layout: `annotations/instances_*.json` and a folder of photographs for each split."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, model_validator

from rca.core.errors import UserError
from rca.data.base import BaseDatasetSettings
from rca.data.faults import Fault
from rca.data.formats.coco_annotations import (
    AnnotatedImage,
    Annotations,
    CocoMask,
    Crowds,
    order_instances,
    read_annotations,
)
from rca.data.formats.coco_categories import Labels, choose_labels
from rca.data.formats.colours import CLASS_LIST
from rca.data.formats.files import (
    MAPS,
    Index,
    check_folder,
    drop_suffix,
    find_file,
    find_pictures,
    index_pictures,
    read_names,
    spell,
)
from rca.data.formats.tool_names import find_name
from rca.data.ids import compose
from rca.data.listing import Entry, Listing, name_drawn


class CocoSettings(BaseDatasetSettings):
    """The files of a dataset in COCO layout.

    Attributes:
        format: The layout.
        splits: The splits to read.
        annotations: Each split's annotation file, relative to the root; `{split}` stands for its name.
        images: Each split's folder of photographs, in the same form.
        tags: The source of an image's tags: "masks" (the classes visible in the mask, and those of boxes without a
            shape) or "annotations" (all of them, including crowds and hidden instances).
        categories: The categories to use, in the order of their labels, or the class of each, so that several become
            one; null uses all. What is left out is background.
        crowds: What annotations with `iscrowd` are: "undecided", as in COCO, or "objects", where they were drawn with a
            brush.
        unlabelled: Those of the splits whose images have no annotations, to be segmented alone, each with its list of
            images, such as `{test: annotations/image_info_test2014.json}`.
        unannotated: What images without an annotation are: "left_out", or "background".
    """

    format: Literal["coco"]
    splits: tuple[str, ...] = Field(default=("train", "val"), min_length=1)
    annotations: str = "annotations/instances_{split}2014.json"
    images: str = "{split}2014"
    tags: Literal["masks", "annotations"] = "masks"
    categories: tuple[str, ...] | dict[str, str] | None = None
    crowds: Crowds = "undecided"
    unlabelled: dict[str, str] = {}
    unannotated: Literal["left_out", "background"] = "left_out"

    @model_validator(mode="after")
    def _unlabelled_splits_are_read(self) -> "CocoSettings":
        for split in self.unlabelled:
            if split not in self.splits:
                raise ValueError(f"unlabelled names {split}: add it to splits as well")
        return self


def list_coco(root: Path, settings: CocoSettings, drawn: Path) -> Listing:
    """List a dataset in COCO layout, with the annotations of one split in memory at a time.

    Args:
        root: The folder of annotations and photographs.
        settings: The splits and their files.
        drawn: The folder for drawn masks.

    Raises:
        UserError: an annotation file is missing or is none, or the splits differ in their categories.
    """
    if settings.saliency is not None:
        check_folder(root, settings.saliency, "dataset.saliency")
    files = {split: settings.annotations.replace("{split}", split) for split in settings.splits} | settings.unlabelled
    lists = {split: root / file for split, file in files.items()}
    read = {split: read_annotations(path, split not in settings.unlabelled) for split, path in lists.items()}
    first = read[settings.splits[0]]
    for one in read.values():
        if [category[:2] for category in one.categories] != [category[:2] for category in first.categories]:
            raise UserError(f"{one.path} has other categories than {settings.splits[0]}: give all splits the same.")
    used = Counter(drawn.category for one in read.values() for image in one.images for drawn in image.objects)
    labels = choose_labels(first.path, first.categories, used, settings.categories)
    entries: dict[str, Entry] = {}
    notes, faults = [*labels.notes], [*_compare_classes(root, labels, first.path)]
    for split, one in read.items():
        blamed = {fault.id for fault in one.faults}
        kept = [
            image
            for image in one.images
            if image.objects
            or image.name in blamed
            or split in settings.unlabelled
            or settings.unannotated == "background"
        ]
        if not kept or not labels.classes:
            raise UserError(f"{one.path} names no category or no annotated image: correct dataset.annotations.")
        if one.counts["shares"] and not one.counts["pixels"]:
            raise UserError(f"{one.path}: all coordinates lie between 0 and 1: write them in pixels.")
        folder, ids = settings.images.replace("{split}", split), {}
        pictures = cache(partial(index_pictures, root / folder))
        for image in kept:
            file, name, fault = _find_photograph(root, folder, pictures, one, image)
            ids[image.name] = name
            faults += [fault] if fault else []
            entry = _make_entry(root, settings, drawn, labels, image, file, name)
            if split in settings.unlabelled:
                entry = replace(entry, mask=None, draw=None, tags=())
            known = entries.get(name, entry)
            if split in known.splits:
                raise UserError(f"{one.path}: two images have the file {image.file}: join their annotations in one.")
            if replace(known, splits=()) != entry:
                raise UserError(f"{one.path}: the image {name} differs from that in {known.splits[0]}: rename it.")
            entries[name] = replace(entry, splits=(*known.splits, split))
        notes += [f"{split}: {note}" for note in _list_notes(one, kept, settings)]
        faults += [replace(fault, id=ids[fault.id]) for fault in one.faults]
        faults += _find_faults(one, labels, settings)
    return Listing(
        labels.classes,
        tuple(entries[name] for name in sorted(entries)),
        tuple(notes),
        tuple(faults),
        lists=lists,
        class_list=lists[settings.splits[0]],
    )


def _compare_classes(root: Path, labels: Labels, path: Path) -> Iterator[Fault]:
    """A list of classes beside the annotations must say the same."""
    file = root / CLASS_LIST
    if file.is_file() and read_names(file).objects != labels.classes:
        names = read_names(file).objects
        same = "the same classes in another order" if set(names) == set(labels.classes) else "other classes"
        yield Fault("differing classes", str(file), f"{file} lists {same} than the categories in {path}")


def _find_photograph(
    root: Path, folder: str, pictures: Callable[[], Index], annotations: Annotations, image: AnnotatedImage
) -> tuple[str, str, Fault | None]:
    """A photograph's path, its id, and a fault if its name leads out of the folder.

    Tools write names with folders, hosts and prefixes of their own, so a name that is not there is looked for without.
    """
    file = PurePosixPath(image.file)
    leads_out = file.is_absolute() or ".." in file.parts
    path = spell(root, f"{folder}/{file}")
    if not leads_out and (root / path).is_file():
        return path, image.name, None
    found = find_pictures(pictures(), find_name(image.file, pictures()))
    if len(found) == 1:
        annotations.note("folders", image.file)
        return f"{folder}/{found[0]}", compose(drop_suffix(found[0])).replace("/", "--"), None
    if leads_out:
        statement = f"{annotations.path}: the file name {image.file} leads out of the folder"
        return (
            f"{folder}/{file.name}",
            image.name,
            Fault("bad annotation", str(annotations.path), statement, image.name),
        )
    return path, image.name, None


def _make_entry(
    root: Path, settings: CocoSettings, drawn: Path, labels: Labels, image: AnnotatedImage, file: str, name: str
) -> Entry:
    """List an image, as yet without its splits."""
    counts = Counter(labels.of[one.category] for one in image.objects)
    boxes = {labels.of[one.category] for one in image.objects if one.form == "box"}
    shown = {label: labels.classes[label - 1] for label in sorted(counts) if 0 < label <= len(labels.classes)}
    has_mask = image.height > 0 and image.width > 0
    return Entry(
        id=name,
        image=file,
        mask=name_drawn(drawn, name) if has_mask else None,
        saliency=settings.saliency and find_file(root, (settings.saliency,), name, MAPS),
        tags=tuple(shown.values()) if settings.tags == "annotations" else None,
        draw=CocoMask(image.height, image.width, order_instances(image.objects, labels.of, settings.crowds))
        if has_mask
        else None,
        kept=tuple(shown[label] for label in sorted(boxes & shown.keys())),
        objects=tuple((shown[label], counts[label]) for label in shown),
    )


def _list_notes(annotations: Annotations, kept: list[AnnotatedImage], settings: CocoSettings) -> Iterator[str]:
    dropped, total = len(annotations.images) - len(kept), len(annotations.images)
    if dropped:
        yield f"{dropped} of {total} images have no annotation and are left out."
    forms = Counter(one.form for image in kept for one in image.objects)
    if forms["crowd"] and settings.crowds == "undecided":
        first = next(image.file for image in kept for one in image.objects if one.form == "crowd")
        yield f"{forms['crowd']} of {forms.total()} annotations are crowds and undecided (in {first})."
    yield from annotations.tell("boxes", "{} boxes without a shape are undecided and keep their tag")
    yield from annotations.tell("pieces", "{} annotations have pieces of fewer than three corners, which are dropped")
    yield from annotations.tell("unseen", "{} annotations are too small for a pixel and dropped")
    yield from annotations.tell("beyond", "{} boxes end outside of their images; a box is left, top, width, height")
    yield from annotations.tell("folders", "{} names found by less than is given")


def _find_faults(annotations: Annotations, labels: Labels, settings: CocoSettings) -> Iterator[Fault]:
    """The faults of an annotation file as a whole."""
    path = str(annotations.path)
    for sentence in annotations.tell("stray", f"{path}: {{}} annotations belong to no image"):
        yield Fault("stray annotation", path, sentence.removesuffix("."))
    if settings.crowds == "objects":
        return
    every: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    for one in (one for image in annotations.images for one in image.objects):
        every[labels.of[one.category]] += 1
        crowds[labels.of[one.category]] += one.form == "crowd"
    mostly = [label for label in sorted(every) if 2 * crowds[label] > every[label] and 0 < label <= len(labels.classes)]
    if mostly:
        some = ", ".join(f"{labels.classes[one - 1]} ({crowds[one]} of {every[one]})" for one in mostly[:5])
        yield Fault("mostly crowds", path, f"{path}: most annotations are crowds, and undecided, of {some}")
