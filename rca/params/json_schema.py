"""The JSON schema of a params file, by which editors complete and check it, made from the settings classes.

It knows keys, types and ranges. What depends on several keys, such as the split of a training, only `rca check` knows.
"""

import re
from collections.abc import Iterable
from inspect import cleandoc
from typing import Any

from pydantic.json_schema import models_json_schema

from rca.classifier.registry import list_declared, load_host, load_method
from rca.core.imports import PACKAGE
from rca.core.settings import Plain, Settings
from rca.params.project import ProjectSettings, RunSettings
from rca.params.schema import load_stages

DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that all editors know
REFERENCE = "#/$defs/"


def describe_params() -> Plain:
    """The schema of a whole params file."""
    stages = load_stages()
    sections = {name: stage.section for name, stage in stages.items() if stage.section is not None}
    parts = {
        ("host_options", "host"): {name: load_host(name).Options for name in list_declared(PACKAGE / "hosts", "HOST")},
        ("options", "method"): {
            name: load_method(name).Options for name in list_declared(PACKAGE / "methods", "METHOD")
        },
    }
    options = [kind for kinds in parts.values() for kind in kinds.values()]
    kinds = _list_classes([ProjectSettings, RunSettings, *sections.values(), *options])
    references, schema = models_json_schema([(kind, "validation") for kind in kinds])
    definitions: dict[str, Plain] = schema["$defs"]
    names = {kind: references[kind, "validation"]["$ref"].removeprefix(REFERENCE) for kind in kinds}
    for kind in kinds:
        _explain_keys(definitions[names[kind]], kind)
    root, run = definitions.pop(names[ProjectSettings]), definitions.pop(names[RunSettings])
    whole = _find_used(root["properties"]["dataset"], definitions)
    for name, definition in definitions.items():
        if name not in whole:
            _allow_parts(definition)
    of_sections = {name: _take(names[kind]) for name, kind in sections.items()}
    overridden = {
        name: of_sections[name] for name in sections if stages[name].overridable and "run" in stages[name].axes
    }
    run["properties"] |= overridden
    run["allOf"] = [
        _choose(key, part, name, names[kind], RunSettings.model_fields[part].default)
        for (key, part), kinds_of in parts.items()
        for name, kind in kinds_of.items()
    ]
    for key, part in parts:
        run["properties"][part]["enum"] = list(parts[key, part])
        run["properties"][key] = {"type": "object", "description": run["properties"][key].get("description", "")}
    definitions["Run"] = run
    root["properties"] |= of_sections
    root["properties"]["run"]["additionalProperties"] = {"$ref": f"{REFERENCE}Run"}
    result: Plain = _tidy({"$schema": DRAFT, **root, "title": "params.yaml of rca", "$defs": definitions})
    return result


def _take(name: str) -> Plain:
    """A section, which may be left empty."""
    return {"anyOf": [{"$ref": f"{REFERENCE}{name}"}, {"type": "null"}]}


def _choose(key: str, part: str, name: str, options: str, default: str) -> Plain:
    """Check the options of a host or a method where the run itself names it; a run may have it from its base."""
    condition: Plain = {"properties": {part: {"const": name}}, "required": [part]}
    if name == default:
        condition = {"anyOf": [condition, {"not": {"anyOf": [{"required": [part]}, {"required": ["base"]}]}}]}
    return {"if": condition, "then": {"properties": {key: {"$ref": f"{REFERENCE}{options}"}}}}


def _allow_parts(node: Any) -> None:
    """Let any keys be left out: a section is laid over its defaults, and a run over the sections."""
    if isinstance(node, dict):
        node.pop("discriminator", None)
        if isinstance(node.get("required"), list):
            del node["required"]
        if "oneOf" in node:
            node["anyOf"] = node.pop("oneOf")
        for value in node.values():
            _allow_parts(value)
    elif isinstance(node, list):
        for value in node:
            _allow_parts(value)


def _find_used(node: Any, definitions: dict[str, Plain]) -> set[str]:
    """The names of the definitions that a part of a schema uses, directly or not."""
    used: set[str] = set()
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).removeprefix(REFERENCE)
            if name in definitions and name not in used:
                used.add(name)
                waiting.append(definitions[name])
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return used


def _tidy(node: Any) -> Any:
    """A schema of draft 7, without pydantic's titles and discriminators, which editors do not need."""
    if isinstance(node, list):
        return [_tidy(value) for value in node]
    if not isinstance(node, dict):
        return node
    tidy = {}
    for key, value in node.items():
        if key == "discriminator" or (key == "title" and isinstance(value, str) and "$schema" not in node):
            continue
        tidy["items" if key == "prefixItems" else key] = _tidy(value)
    return tidy


def _list_classes(kinds: Iterable[type[Settings]]) -> list[type[Settings]]:
    """Settings classes and all that they hold."""
    found: dict[type[Settings], None] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found[kind] = None
            waiting += kind.list_inner()
    return list(found)


def _explain_keys(definition: Plain, kind: type[Settings]) -> None:
    """Give each key its meaning, which an editor shows, from the docstring of its class."""
    meanings = read_attributes(kind)
    for name, field in definition.get("properties", {}).items():
        if name in meanings:
            # Draft 7 ignores what stands beside a reference.
            reference = {"allOf": [{"$ref": field.pop("$ref")}]} if "$ref" in field else {}
            field |= {**reference, "description": meanings[name]}
    definition["description"] = cleandoc(kind.__doc__ or "").split("\n\n")[0]


def read_attributes(kind: type[Settings]) -> dict[str, str]:
    """The meaning of each field, from the docstrings of a class and of its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, Settings) and base.__doc__ and "Attributes:" in base.__doc__:
            text = cleandoc(base.__doc__).split("Attributes:\n")[1]
            for name, meaning in re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", text, re.DOTALL | re.MULTILINE):
                meanings[name] = " ".join(meaning.split())
    return meanings
