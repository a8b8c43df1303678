"""Each key of params.yaml with values that it cannot have: a sentence that names the key, and nothing else.

The rows come from the settings classes, so a new key has its rows at once: a value of another type, one beyond each
bound, a word that is no choice, an unknown key beside it. What must come of a row is the same for all: a refusal.
"""

import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from rca.classifier.registry import PACKAGE, list_declared, load_host, load_method, read_options
from rca.core.errors import UserError
from rca.core.settings import MOST, Settings, build_settings, merge
from rca.data.formats.dataset import build_dataset_settings
from rca.params.project import ResourceSettings
from rca.params.schema import load_stages

LINE = 120  # letters of a terminal's line: a message has two of them at most
UNIONS = (typing.Union, types.UnionType)
DATASETS = {
    "folder": {"name": "x", "format": "folder"},
    "voc": {"name": "x", "format": "voc", "splits": ["train"]},
    "coco": {"name": "x", "format": "coco"},
}

# What a section that is null by default cannot do without, so that each row changes one value of a good whole.
NEEDED = {"train_seg": {"corrected": {"folder": "x", "sha256": "x"}}}


def list_sections() -> dict[str, type[Settings]]:
    """The settings classes by the place of params.yaml that they describe."""
    sections = {name: stage.section for name, stage in load_stages().items() if stage.section is not None}
    sections["resources.other"] = ResourceSettings
    for host in list_declared(PACKAGE / "hosts", "HOST"):
        sections[f"host {host}"] = load_host(host).Options
    for method in list_declared(PACKAGE / "methods", "METHOD"):
        sections[f"method {method}"] = load_method(method).Options
    for name, data in DATASETS.items():
        sections[f"dataset {name}"] = type(build_dataset_settings(data, "params.yaml"))
    return sections


def take_apart(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without None."""
    if get_origin(annotation) in UNIONS:
        return [part for one in get_args(annotation) for part in take_apart(one)]
    if get_origin(annotation) is typing.Annotated:
        return take_apart(get_args(annotation)[0])
    return [] if annotation is type(None) else [annotation]


def list_wrong(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    """Kinds of values that a field cannot have, each with an example."""
    kinds = take_apart(field.annotation)
    plain = {get_origin(kind) or kind for kind in kinds}
    is_settings = any(isinstance(kind, type) and issubclass(kind, Settings) for kind in kinds)
    if is_settings or dict in plain:
        yield "a number for a section", 7
        yield "a list for a section", [1]
    else:
        yield "a section for a value", {"banana": 1}
    if type(None) not in get_args(field.annotation) and Any not in plain:
        yield "null", None
    if is_settings:
        yield "an unknown key", {"banana": 1}
        return
    if plain <= {int, float}:
        yield "a word for a number", "banana"
        yield "a number in quotes", "1"
        yield "a truth value for a number", True
        yield "more than any number", 2**64 if int in plain else 1e29
        yield "minus infinity", -math.inf
    if plain == {int}:
        yield "a part of a whole number", 1.5
    if plain == {bool}:
        yield "a number for a truth value", 2
        yield "a word for a truth value", "yes please"
    if Literal in plain and str not in plain:
        yield "a word that is no choice", "banana"
        if not plain & {int, float}:
            yield "a number for a word", 1
    if str in plain and not plain & {int, float}:
        yield "a number for a word", 1
    if tuple in plain:
        yield "a number for a list", 7
        yield "a list of sections", [{"banana": 1}]
        if str not in plain:
            yield "a word for a list", "banana"
    yield from list_beyond(field, plain)


def list_beyond(field: FieldInfo, plain: set[Any]) -> Iterator[tuple[str, Any]]:
    """Values just beyond each bound."""
    step = 1 if plain == {int} else 1e-3
    for mark in field.metadata:
        match mark:
            case annotated_types.Ge(ge=bound):
                yield "less than the least", bound - step
            case annotated_types.Gt(gt=bound):
                yield "no more than the bound", bound
            case annotated_types.Le(le=bound):
                yield "more than the most", bound + step
            case annotated_types.Lt(lt=bound):
                yield "no less than the bound", bound
            case annotated_types.MinLen(min_length=least) if least:
                yield "too short", "" if str in plain else []


def walk(kind: type[Settings], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Each field of a settings class and of the only class that a field may hold."""
    for name, field in kind.model_fields.items():
        yield (*path, name), field
        inner = [one for one in take_apart(field.annotation) if isinstance(one, type) and issubclass(one, Settings)]
        if len(inner) == 1:
            yield from walk(inner[0], (*path, name))


SECTIONS = list_sections()
ROWS = [
    pytest.param(place, path, value, id=f"{place}: {'.'.join(path)}: {what}")
    for place, kind in SECTIONS.items()
    for path, field in walk(kind)
    for what, value in list_wrong(field)
]


def read(place: str, path: tuple[str, ...], value: Any) -> object:
    """Read a section with one value changed, as the params file is read."""
    data: Any = value
    for key in reversed(path):
        data = {key: data}
    part, _, name = place.partition(" ")
    match part:
        case "host":
            return read_options(load_host(name), data, "run.x.host_options", "params.yaml")
        case "method":
            return read_options(load_method(name), data, "run.x.options", "params.yaml")
        case "dataset":
            return build_dataset_settings(merge(DATASETS[name], data), "params.yaml")
    kind = SECTIONS[place]
    whole = kind().model_dump(mode="json") if not any(f.is_required() for f in kind.model_fields.values()) else {}
    return build_settings(kind, merge(merge(whole, NEEDED.get(place, {})), data), place, "params.yaml")


@pytest.mark.parametrize(("place", "path", "value"), ROWS)
def test_a_value_that_a_key_cannot_have_is_refused(place: str, path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(UserError) as caught:
        read(place, path, value)
    text = str(caught.value)
    assert text.startswith("params.yaml: ")
    assert path[-1] in text
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) <= 2 * LINE, text


def test_the_rows_are_many_and_differ() -> None:
    assert len(ROWS) >= 1000
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert MOST < 2**64


@pytest.mark.parametrize("place", SECTIONS)
def test_each_section_is_read_without_a_change(place: str) -> None:
    """What the rows change is good: the refusal is of the change."""
    if " " in place or not any(f.is_required() for f in SECTIONS[place].model_fields.values()):
        assert isinstance(read(place, (), {}), Settings)
