"""Typed, frozen, strict settings out of a params file.

Each stage and each method declares its own settings class beside the code that uses it; this module only knows how
to read YAML, to lay a run's overrides over a section and to say in one sentence what is wrong.
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
    """Base of every settings class: an unknown key, a wrong type or a value out of range is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


SettingsType = TypeVar("SettingsType", bound=Settings)
Supervision = Literal["tags", "masks"]
"""What a run's networks learn from: image-level tags, or true masks for the fully supervised upper bound."""


class Unpinned:
    """Marks a setting that changes no result, such as a number of workers: an edit to it reruns nothing."""


def list_pinned(settings: Settings) -> dict[str, Any]:
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
    """PyYAML's safe loader, except that `1e-4` is a number (as in YAML 1.2) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # the safe loader refuses it with a sentence of its own
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
        yaml.YAMLError: the text is no YAML, or a key stands twice in one mapping.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def load_params(path: Path) -> dict[str, Any]:
    """Read a params file.

    Raises:
        UserError: the file is missing, is no YAML, or is no mapping.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: write it with `rca preset shapes`.")
    try:
        params = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML ({reason}): mend it, or write it anew with `rca preset`.") from None
    if not isinstance(params, dict):
        raise UserError(f"{path} must be a mapping of sections, but it holds a {type(params).__name__}.")
    return params


def merge(base: Mapping[str, object], override: Mapping[str, object]) -> dict[str, object]:
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
        data: What the params file holds for it.
        name: The dotted key where `data` stands, for the message; "" for the whole file.
        source: The params file, or what else holds the data, for the message.

    Raises:
        UserError: an unknown key, a missing key, a wrong type or a value out of range.
    """
    try:
        # By way of JSON: there pydantic's strict mode takes a list for a tuple, but still no "3" for a 3.
        return kind.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {_describe(error, name)}") from None
    except TypeError as error:
        raise UserError(f"{source}: {name or 'it'} holds a value that params cannot hold ({error}).") from None


def _describe(error: ValidationError, name: str) -> str:
    """One sentence for the first thing that pydantic found."""
    first = error.errors(include_url=False)[0]
    key = ".".join([name, *(str(part) for part in first["loc"])]).removeprefix(".")
    kind = first["type"]
    if kind == "extra_forbidden":
        return f"{key} is an unknown key: remove it or mend its spelling."
    if kind == "missing":
        return f"{key} is missing: add it."
    reason = first["msg"].removeprefix("Value error, ")
    shown = json.dumps(first["input"], default=str)
    if kind == "value_error" or len(shown) > 60:
        return f"{key}: {reason}.".removeprefix(": ")
    return f"{key} is {shown}: {reason[:1].lower() + reason[1:]}."
