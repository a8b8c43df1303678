"""Typed, frozen, strict settings from a params file.

Each stage and each method declares its settings class beside the code that uses it. This module reads YAML, merges a
run's overrides into a section, and says in one sentence what is wrong.
"""

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rca.core.errors import UserError


class Settings(BaseModel):
    """Base of every settings class: unknown keys, wrong types and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


SettingsType = TypeVar("SettingsType", bound=Settings)
Supervision = Literal["tags", "masks"]
"""What a run's networks learn from: image-level tags, or true masks for the fully supervised upper bound."""


Train = Literal["own", "none"]
"""Whether a run trains a network of its own, or takes that of the run that is its base."""

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


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but `1e-4` is a number (as in YAML 1.2) and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # the safe loader refuses it
            key = key_node.value
            if key != "<<" and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> object:
    """Parse YAML safely, by the rules of a params file.

    Raises:
        yaml.YAMLError: the text is not valid YAML, or a mapping repeats a key.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def load_params(path: Path) -> Plain:
    """Read a params file.

    Raises:
        UserError: the file is missing, not valid YAML, or not a mapping.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: write it with `rca preset shapes`.")
    try:
        params = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        if isinstance(value, Mapping) and isinstance(old, Mapping) and _are_alike(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _are_alike(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
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
        raise UserError(f"{source}: {_describe(error, name)}") from None
    except TypeError as error:
        raise UserError(f"{source}: {name or 'it'} holds a value that params cannot hold ({error}).") from None


def _describe(error: ValidationError, name: str) -> str:
    """The first error that pydantic reports, in one sentence."""
    first = error.errors(include_url=False)[0]
    key = ".".join([name, *(str(part) for part in first["loc"])]).removeprefix(".")
    kind = first["type"]
    if kind == "extra_forbidden":
        return f"{key} is an unknown key: remove it or fix its spelling."
    if kind == "missing":
        return f"{key} is missing: add it."
    reason = first["msg"].removeprefix("Value error, ")
    shown = json.dumps(first["input"], default=str)
    if kind == "value_error" or len(shown) > 60:
        return f"{key}: {reason}.".removeprefix(": ")
    return f"{key} is {shown}: {reason[:1].lower() + reason[1:]}."
