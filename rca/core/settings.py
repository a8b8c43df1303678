"""Typed, frozen, strict settings from a params file.

Each stage and each method declares its settings class beside the code that uses it. This module reads YAML, merges a
run's overrides into a section, and says in one sentence what is wrong.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rca.core.errors import UserError
from rca.core.plain_yaml import MOST_YAML
from rca.core.plain_yaml import parse_yaml as parse_yaml
from rca.core.reading import read_text

# No number of any setting is larger. Seeds are the largest that are meant: a training derives others from its own,
# which must fit 64 bits.
MOST = 2**31 - 1


class Settings(BaseModel):
    """Base of every settings class: unknown keys, wrong types and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="after")
    def _numbers_mean_something(self) -> "Settings":
        for name in type(self).model_fields:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not -MOST <= number <= MOST:
                    raise ValueError(f"{name} is out of range: numbers lie between -{MOST} and {MOST}")
        return self

    @classmethod
    def list_inner(cls) -> list[type["Settings"]]:
        """The settings classes that the fields hold."""
        return [kind for field in cls.model_fields.values() for kind in list_kinds(field.annotation)]


def list_kinds(annotation: object) -> list[type[Settings]]:
    """The settings classes in a field's annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in list_kinds(part)]


def name_nearest(word: str, words: Iterable[str]) -> str:
    """What to add to a message on an unknown word: the nearest known one, or nothing."""
    near = difflib.get_close_matches(word, [one for one in words if one != word], n=1)
    return f" ({near[0]}?)" if near else ""


Scales = Annotated[tuple[Annotated[float, Field(ge=1 / 16, le=16)], ...], Field(min_length=1, max_length=32)]
"""Factors by which an image is resized. Below the least an image of VOC has 30 pixels, above the largest 60 million."""

Threads = Annotated[int, Field(ge=1, le=1024)]
"""A number of CPU threads."""


SettingsType = TypeVar("SettingsType", bound=Settings)
Supervision = Literal["tags", "masks", "run"]
"""What a run's networks learn from: image-level tags, true masks for the fully supervised upper bound, or masks of
another run."""


Train = Literal["own", "none", "average"]
"""Whether a run trains a network of its own, takes that of its base, or has none and averages the maps of others."""

Plain = dict[str, Any]
"""What YAML or JSON holds under some keys, before it is validated or after it was written."""


class Unpinned:
    """Marks a setting that changes no result, such as a number of workers: an edit to it reruns nothing."""


def list_pinned(settings: Settings) -> Plain:
    """The plain data of settings without those that are `Unpinned`."""
    data = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if any(isinstance(mark, Unpinned) for mark in field.metadata):
            del data[name]
        elif isinstance(value, Settings):
            data[name] = list_pinned(value)
    return data


def load_params(path: Path) -> Plain:
    """Read a params file.

    Raises:
        UserError: the file is missing or no regular file, not valid YAML, or not a mapping.
    """
    try:
        params = parse_yaml(read_text(path, most=MOST_YAML))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: go to a project, or make one with `rca init DIR`.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML ({reason}): fix it, or rewrite it with `rca preset`.") from None
    if not isinstance(params, dict):
        raise UserError(f"{path} must be a mapping of sections, but it holds a {type(params).__name__}.")
    return params


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> Plain:
    """Lay `override` over `base`: mappings are merged key by key, anything else is replaced.

    A mapping also replaces one of another kind (`kind`, `source` or `format` differ), which has other keys.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and are_alike(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def are_alike(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    """Whether two mappings are of the same kind, as far as they say it."""
    return all(new.get(key, old.get(key)) == old.get(key) for key in ("kind", "source", "format"))


def build_settings(kind: type[SettingsType], data: object, name: str, source: Path | str) -> SettingsType:
    """Turn plain data into settings.

    Args:
        kind: The settings class.
        data: The plain data.
        name: The dotted key of `data`, for the message; "" for the whole file.
        source: The file or option that holds the data, for the message.

    Raises:
        UserError: an unknown key, a missing key, a wrong type or a value out of range.
    """
    try:
        # Through JSON: pydantic's strict mode then takes a list as a tuple, but still refuses "3" as 3.
        return kind.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {_describe(error, name, data, kind)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # no plain data, too many digits, too deep
        raise UserError(f"{source}: {name or 'it'} holds a value that params cannot hold ({error}).") from None


def _describe(error: ValidationError, name: str, data: object, settings: type[Settings]) -> str:
    """The first error that pydantic reports, in one sentence."""
    first = error.errors(include_url=False)[0]
    kind = first["type"]
    key = ".".join([name, *_list_keys(first["loc"], data, kind == "missing")]).removeprefix(".")
    if kind == "extra_forbidden":
        near = name_nearest(str(first["loc"][-1]), _list_names(settings))
        return f"{key} is an unknown key: remove it or fix its spelling{near}."
    if kind == "missing":
        return f"{key} is missing: add it."
    reason = first["msg"].removeprefix("Value error, ")
    shown = json.dumps(first["input"], default=str)
    if kind == "value_error" or len(shown) > 60:
        return f"{key}: {reason}.".removeprefix(": ")
    return f"{key} is {shown}: {reason[:1].lower() + reason[1:]}."


def _list_names(kind: type[Settings]) -> set[str]:
    """The names of the fields of a class and of all settings that they hold."""
    found: set[type[Settings]] = set()
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.list_inner()
    return {name for one in found for name in one.model_fields}


def _list_keys(place: Sequence[int | str], data: object, is_missing: bool) -> Iterator[str]:
    """The keys of a place in plain data; pydantic also names the form that it took a section for, such as `voc`."""
    for part in place:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        elif not (is_missing and part == place[-1]):
            continue
        yield str(part)
