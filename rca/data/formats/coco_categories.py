"""Which class, or none, each category of an annotation file becomes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rca.core.errors import UserError
from rca.core.files import IGNORE
from rca.data.formats.coco_annotations import Category
from rca.data.names import find_role, find_similar, fold


class Labels(NamedTuple):
    """The labels of categories.

    Attributes:
        classes: The names of the classes: label n is `classes[n - 1]`.
        of: The label of each category by its id: 0 is background, 255 undecided. (An id is no label: COCO's 80 ids run
            to 90, with gaps.)
        notes: What is no class, in sentences.
    """

    classes: tuple[str, ...]
    of: dict[int | str, int]
    notes: tuple[str, ...]


def choose_labels(
    path: Path,
    categories: Sequence[Category],
    used: Mapping[int | str, int],
    chosen: Sequence[str] | Mapping[str, str] | None,
) -> Labels:
    """Choose the label of each category.

    Names of the background and of undecided pixels are no classes, nor is a category without an annotation that is the
    parent of others, as some tools write one.

    Args:
        path: The annotation file, for messages.
        categories: Its categories in the order of their ids.
        used: The number of annotations of each, by its id.
        chosen: The wanted categories in the order of the labels, or the class of each; None for all.

    Raises:
        UserError: a wanted category does not exist.
    """
    parents = {category.parent for category in categories if category.parent and category.parent != category.name}
    notes = []
    labels: dict[int | str, int] = {}
    objects = []
    for category in categories:
        role = find_role(category.name)
        if role in ("background", "undecided"):
            labels[category.id] = IGNORE if role == "undecided" else 0
            notes.append(f"{path}: the category {category.name} is no class: its {used[category.id]} are {role}.")
        elif not used[category.id] and category.name in parents and chosen is None:
            labels[category.id] = 0
            notes.append(f"{path}: the category {category.name}, a parent without an annotation, is left out.")
        else:
            objects.append(category)
    names = tuple(category.name for category in objects)
    if chosen is None:
        return Labels(names, labels | {one.id: label for label, one in enumerate(objects, 1)}, tuple(notes))
    classes_of = dict(chosen) if isinstance(chosen, Mapping) else {name: name for name in chosen}
    for name in classes_of:
        if name not in names:
            alike = next((one for one in names if fold(one) == fold(name)), None) or find_similar(name, names)
            hint = f"did you mean {alike}?" if alike else f"its categories are {', '.join(names[:8])}, ..."
            raise UserError(f"dataset.categories names {name}, which {path} does not have: {hint}")
    classes = tuple(dict.fromkeys(classes_of.values()))
    left_out = [one for one in objects if one.name not in classes_of]
    if left_out:
        total = sum(used[one.id] for one in left_out)
        notes.append(f"{len(left_out)} categories ({left_out[0].name}, ...) with {total} annotations are background.")
    of = {one.id: classes.index(classes_of[one.name]) + 1 if one.name in classes_of else 0 for one in objects}
    return Labels(classes, labels | of, tuple(notes))
