"""Write docs/params.md, the page of every key of params.yaml: `python docs/list_params.py`.

Keys, defaults and meanings come from the settings classes and their docstrings.
"""

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from rca.classifier.registry import PACKAGE, list_declared, load_host, load_method
from rca.core.settings import Settings
from rca.params.json_schema import read_attributes
from rca.params.project import ProjectSettings, RunSettings
from rca.params.schema import load_stages

PAGE = Path(__file__).with_name("params.md")
INTRODUCTION = """\
# Every key of params.yaml

Written by `python docs/list_params.py` from the settings classes. `params.yaml` lists what differs from these defaults.
A run overrides them under `run.<name>.<section>`, and has options of its host and its method beside them.
"""


def list_kinds(annotation: object) -> list[type[Settings]]:
    """The settings classes that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    unions = (typing.Union, types.UnionType, typing.Annotated)
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in unions else ()
    return [kind for part in parts for kind in list_kinds(part)]


def name_choice(kind: type[Settings]) -> str:
    """What tells a class from the others that a field may hold, such as `kind: power`."""
    name = next(name for name in ("kind", "source", "format") if name in kind.model_fields)
    return f"`{name}: {typing.get_args(kind.model_fields[name].annotation)[0]}`"


def list_rows(kind: type[Settings], prefix: str, default: object = None) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each field of a class; of a field that holds settings, those of its fields."""
    meanings = read_attributes(kind)
    for name, field in kind.model_fields.items():
        key, kinds = f"{prefix}{name}", list_kinds(field.annotation)
        required = field.is_required() and not isinstance(default, kind)
        value = getattr(default, name) if isinstance(default, kind) else field.default
        if len(kinds) == 1 and not required and value is not None:
            yield from list_rows(kinds[0], f"{key}.", value)
            continue
        yield key, "required" if required else f"`{json.dumps(value, default=dump)}`", meanings.get(name, "")
        if len(kinds) > 1:
            yield from list_choices(kinds, f"{key}.")
        elif kinds:  # null by default: what it holds where it is given
            yield from list_rows(kinds[0], f"{key}.")
        for inner in typing.get_args(field.annotation) if typing.get_origin(field.annotation) is dict else ():
            yield from (row for part in list_kinds(inner) for row in list_rows(part, f"{key}.<name>."))


def list_choices(kinds: list[type[Settings]], prefix: str) -> Iterator[tuple[str, str, str]]:
    """The rows of several classes, one of which a field holds: those that all share first."""
    rows = {kind: [row for row in list_rows(kind, prefix) if row[2]] for kind in kinds}
    shared = [row for row in rows[kinds[0]] if all(row in of_kind for of_kind in rows.values())]
    yield from shared
    for kind, of_kind in rows.items():
        for key, shown, meaning in of_kind:
            if (key, shown, meaning) not in shared:
                yield key, shown, f"With {name_choice(kind)}: {meaning[0].lower()}{meaning[1:]}"


def dump(value: object) -> object:
    """Plain data of a default."""
    return value.model_dump(mode="json") if isinstance(value, Settings) else str(value)


def write_table(title: str, kind: type[Settings], prefix: str = "") -> str:
    """A heading and a table of the fields of a class; a key that several choices share stands once."""
    default = None if any(field.is_required() for field in kind.model_fields.values()) else kind()
    rows = dict.fromkeys(list_rows(kind, prefix, default))
    lines = [f"| `{key}` | {shown} | {meaning.replace('|', '/')} |" for key, shown, meaning in rows]
    meaning = (kind.__doc__ or "").strip().split("\n")[0]
    return "\n".join([f"## {title}", "", meaning, "", "| key | default | meaning |", "| --- | --- | --- |", *lines, ""])


def list_options() -> Iterator[str]:
    """The tables of the options of the package's hosts and methods, but for those that have none."""
    for key, declared, load in (
        ("host_options", list_declared(PACKAGE / "hosts", "HOST"), load_host),
        ("options", list_declared(PACKAGE / "methods", "METHOD"), load_method),
    ):
        for name in sorted(declared):
            kind = load(name).Options
            if kind.model_fields:
                yield write_table(f"`run.<name>.{key}` of `{name}`", kind, f"{key}.")


def build_page() -> str:
    """The whole page."""
    sections = {name: stage.section for name, stage in load_stages().items() if stage.section is not None}
    return "\n".join(
        [
            INTRODUCTION,
            write_table("The project", ProjectSettings),
            write_table("A run: `run.<name>`", RunSettings),
            *(write_table(f"`{name}`", kind, f"{name}.") for name, kind in sections.items()),
            *list_options(),
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
