"""Image-level tags as annotation tools export them: in place of `tags.csv`, beside `images`.

annotations.xml                CVAT, "CVAT for images 1.1": the tags of each image
project-*.json, tags.json      Label Studio, "JSON" or "JSON-MIN": the choices of each task

Shapes are not drawn, but their labels count as tags of the image. What the tool leaves without a tag is left out, since
it may not have been looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rca.core.errors import UserError
from rca.core.images import SUFFIXES
from rca.core.plain_xml import read_xml
from rca.core.reading import MOST_JSON, parse_json, read_text
from rca.data.faults import Fault
from rca.data.formats.files import Index, drop_suffix
from rca.data.formats.tables import TAG_COLUMNS, TagRow, TagTable
from rca.data.formats.tool_names import find_name
from rca.data.names import find_role

# The exports in the root of a dataset, by the names that the tools give them.
NAMES = ("annotations.xml", "tags.xml", "tags.json", "project-*.json")
# What Label Studio adds to the fields of a task in JSON-MIN.
_OF_TOOL = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "file_upload"}


@dataclass
class Found:
    """What an export says of one image.

    Attributes:
        name: The image, as the tool names it.
        tags: The tags of each annotation.
        split: Its subset; "" without one.
        problem: What is wrong with it, in words; "" if nothing is.
        shapes: The number of shapes, of which only the labels are read.
    """

    name: str
    tags: list[set[str]] = field(default_factory=list)
    split: str = ""
    problem: str = ""
    shapes: int = 0


def list_exports(root: Path) -> list[Path]:
    """The exports in a folder."""
    return sorted({path for name in NAMES for path in root.glob(name)})


def read_export(exports: Sequence[Path], index: Index) -> TagTable:
    """Read the tags that CVAT or Label Studio exported.

    Args:
        exports: The one file. Several are refused, since they may differ.
        index: The photographs, by which the tool's names are found.

    Raises:
        UserError: there are several files, or the file is broken or of another form.
    """
    path, *others = exports
    if others:
        raise UserError(f"{path.parent} holds {path.name} and {others[0].name}: keep the one with the tags.")
    found = list(_read_cvat(path) if path.suffix == ".xml" else _read_label_studio(path))
    rows, faults, empty = [], [], []
    left_out: dict[str, int] = {}
    for number, image in enumerate(found, 1):
        name = find_name(image.name, index)
        if not name:
            faults.append(Fault("stray annotation", str(path), f"{path}: its entry {number} names no picture"))
            continue
        problem = image.problem or _compare(image.tags)
        if problem:
            identity = drop_suffix(name).replace("/", "--")
            faults.append(Fault("bad annotation", str(path), f"{path}, {name}: {problem}", identity))
        tags = sorted(set().union(*image.tags))
        for tag in tags:
            if find_role(tag) != "object":
                left_out[tag] = left_out.get(tag, 0) + 1
        if not tags and not problem:
            empty.append(name)
            continue
        kept = tuple(tag for tag in tags if tag not in left_out)
        rows.append(TagRow(number, name, kept, (image.split,) if image.split else ()))
    if not rows:
        raise UserError(f"{path} gives no image a tag: export the annotations again, with images that are labelled.")
    return TagTable(rows, tuple(_note(path, found, empty, left_out)), tuple(faults))


def _note(path: Path, found: Iterable[Found], empty: list[str], left_out: dict[str, int]) -> Iterator[str]:
    shapes = sum(image.shapes for image in found)
    if shapes:
        yield f"{path}: {shapes} shapes are not drawn; their labels are tags of their images."
    if empty:
        yield f"{path}: {len(empty)} images ({empty[0]}, ...) have no tag and are left out."
    for tag, times in sorted(left_out.items()):
        yield f"{path}: {tag!r} is no class and left out {times} times."


def _compare(tags: list[set[str]]) -> str:
    """What is wrong with the annotations of one image by several people."""
    if all(one == tags[0] for one in tags):
        return ""
    several = " and ".join(", ".join(sorted(one)) or "nothing" for one in tags[:2])
    return f"its annotations differ ({several[:200]})"


def _read_cvat(path: Path) -> Iterator[Found]:
    """The images of "CVAT for images 1.1"."""
    for element in read_xml(path, "annotations"):
        if element.tag == "track":
            raise UserError(f'{path} holds tracks of a video: export it from CVAT as "CVAT for images 1.1".')
        if element.tag != "image":
            continue
        image = Found(element.get("name", "").strip(), split=element.get("subset", ""))
        image.split = "" if image.split == "default" else image.split  # CVAT's name for no subset
        labels = [child.get("label", "").strip() for child in element]
        image.tags = [{label for label in labels if label}]
        image.shapes = sum(child.tag != "tag" for child in element)
        if not all(labels):
            image.problem = f"{next(child.tag for child in element if not child.get('label', '').strip())} has no label"
        yield image


def _read_label_studio(path: Path) -> Iterator[Found]:
    """The tasks of Label Studio's "JSON" or, with one entry for each annotation, of "JSON-MIN"."""
    try:
        tasks = parse_json(read_text(path, most=MOST_JSON))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): export it again.") from None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UserError(f'{path} is no list of tasks: export it from Label Studio as "JSON" or "JSON-MIN".')
    if any("annotations" in task for task in tasks):
        yield from map(_read_task, tasks)
        return
    key = _choose_key(path, tasks)
    images: dict[str, Found] = {}
    for number, task in enumerate(tasks):
        name = _find_picture(task)
        image = images.setdefault(name or str(number), Found(name))
        _add(image, [_split_choices(task.get(key))])
    yield from images.values()


def _read_task(task: dict[str, Any]) -> Found:
    data = task.get("data")
    image = Found(_find_picture(data if isinstance(data, dict) else {}) or _find_picture(task))
    annotations = task.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else [annotations]:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            image.problem = "an annotation of it has no list of results"
        elif not annotation.get("was_cancelled"):
            results = annotation["result"]
            _add(image, [result.get("value") if isinstance(result, dict) else None for result in results])
    return image


def _add(image: Found, values: list[Any]) -> None:
    """Add the tags of one annotation: choices, and the labels of shapes."""
    tags: set[str] = set()
    for value in values:
        keys = [key for key in value if key == "choices" or key.endswith("labels")] if isinstance(value, dict) else []
        if not isinstance(value, dict):
            image.problem = "a result of it has no value"
        for key in keys:
            if not isinstance(value[key], list) or not all(isinstance(tag, str) and tag.strip() for tag in value[key]):
                image.problem = f"its {key} are no list of names"
                continue
            image.shapes += key != "choices"
            tags.update(tag.strip() for tag in value[key])
    image.tags.append(tags)


def _split_choices(value: Any) -> Any:
    """A field of JSON-MIN as the value of a result: one choice is a text there, and shapes are a list."""
    if isinstance(value, str):
        return {"choices": [value] if value.strip() else []}
    if isinstance(value, list):
        labels = [one for shape in value if isinstance(shape, dict) for one in _list_labels(shape)]
        return {"labels": labels}
    return {} if value is None else value


def _list_labels(shape: dict[str, Any]) -> list[Any]:
    return [one for key, names in shape.items() if key.endswith("labels") and isinstance(names, list) for one in names]


def _choose_key(path: Path, tasks: list[dict[str, Any]]) -> str:
    """The field of JSON-MIN that holds the choices.

    Raises:
        UserError: none or several may.
    """
    keys = {
        key: None
        for task in tasks
        for key, value in task.items()
        if key not in _OF_TOOL and isinstance(value, str | dict | list) and not _is_picture(value)
    }
    named = [key for key in keys if key in TAG_COLUMNS] or list(keys)
    if len(named) != 1:
        some = ", ".join(named[:4])[:100]
        held = f"holds several fields of text ({some})" if named else "holds no field with choices"
        raise UserError(f'{path} {held}: export it from Label Studio as "JSON".')
    return named[0]


def _find_picture(fields: dict[str, Any]) -> str:
    """The field that names a picture: `image`, or the first that ends like one; "" without one."""
    named = [fields.get("image"), *fields.values()]
    return next((value for value in named if _is_picture(value)), "")


def _is_picture(value: Any) -> bool:
    """Whether a field is the path or the address of a picture."""
    if not isinstance(value, str):
        return False
    return any(word.lower().endswith(tuple(SUFFIXES)) for word in (value, value.partition("?")[0]))
