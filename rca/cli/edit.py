"""`rca set` and `rca get`: change and read values of params.yaml by their dotted keys; comments and order stay."""

import copy
import fcntl
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from rca.cli.packaged import SCHEMA
from rca.core.errors import UserError
from rca.core.files import write_file
from rca.core.plain_yaml import MOST_YAML, parse_yaml
from rca.core.reading import read_text
from rca.core.settings import load_params, name_nearest

PARAMS = Path("params.yaml")
LOCK = Path(".rca/params.lock")
# A path with places to fill in, such as `{split}2017`: text, although YAML sees a mapping before it.
_TEMPLATE = re.compile(r"[\w./-]*(\{[a-z]+\}[\w./-]*)+")


class Document:
    """The text of a params file, to be changed by dotted keys.

    Args:
        text: The file's text.
        source: The file's name in messages.
        option: What precedes a change in messages.

    Raises:
        UserError: the text is not valid YAML, or no mapping.
    """

    def __init__(self, text: str, source: Path, option: str = "--set") -> None:
        self.original, self.option, self.changed = text, option, False
        self.yaml = YAML()  # as safe as the safe loader, since it builds only plain data
        self.yaml.width = 10_000
        self.yaml.preserve_quotes = True
        if re.search(r":[^\S\n]*(#.*)?\n  - ", text):  # lists stand further in than their keys
            self.yaml.indent(mapping=2, sequence=4, offset=2)
        try:
            parse_yaml(text)  # its bounds hold here as well
            self.content = self.yaml.load(text)
        except Exception as error:  # ruamel.yaml raises errors of several kinds
            reason = " ".join(str(error).split())
            raise UserError(
                f"{source} is not valid YAML ({reason}): fix it, or rewrite it with `rca preset`."
            ) from None
        if not isinstance(self.content, CommentedMap):
            raise UserError(f"{source} must be a mapping of sections: fix it, or rewrite it with `rca preset`.")

    def set(self, change: str) -> None:
        """Lay a change, `dotted.key=YAML`, over the file; an unknown key is found when the whole is validated.

        Raises:
            UserError: the change has no value, or none in YAML, or its key lies below a value.
        """
        dotted, equals, text = change.partition("=")
        if not equals or not dotted:
            raise UserError(f"{self.option} {change}: write dotted.key=value, e.g. {self.option} seeds='[0, 1]'.")
        self.put(dotted, self._parse(text, change), change)

    def _parse(self, text: str, change: str) -> object:
        """The value of a change."""
        if _TEMPLATE.fullmatch(text):
            return text
        try:
            anchors = [event.anchor for event in self.yaml.parse(text) if getattr(event, "anchor", None)]
            value: object = self.yaml.load(text)
        except YAMLError:
            raise UserError(f"{self.option} {change}: {text} is not valid YAML.") from None
        if anchors:
            raise UserError(
                f"{self.option} {change}: write values out: `dvc exp run -S` changes all places that share an anchor."
            )
        return value

    def find(self, dotted: str) -> object:
        """The value of a dotted key; `MISSING` where the file leaves it out."""
        return _find(self.content, dotted)

    def put(self, dotted: str, value: object, change: str = "") -> None:
        """Set the value of a dotted key; `change` is what messages quote."""
        *parents, last = dotted.split(".")
        place = self.content
        for part in parents:
            if not hasattr(place, "keys"):
                break
            if place.get(part) is None:
                place[part] = CommentedMap()
            elif isinstance(place, CommentedMap) and part not in dict(place.non_merged_items()):
                # The value was merged by `<<` from another section, which must not change with this one.
                place[part] = copy.deepcopy(place[part])
            place = place[part]
        if not hasattr(place, "keys"):
            raise UserError(f"{self.option} {change}: {'.'.join(parents)} is no section: name the key of a value.")
        if last not in place and place is not self.content:
            place.insert(0, last, value)  # what follows the last key, such as an empty line, stays behind it
        else:
            place[last] = value
        self.changed = True

    @property
    def text(self) -> str:
        """The file's new text."""
        if not self.changed:
            return self.original
        stream = io.StringIO()
        self.yaml.dump(self.content, stream)
        return stream.getvalue()


def refer_to_schema(text: str) -> str:
    """Let editors find the schema beside params.yaml, if there is one."""
    line = f"# yaml-language-server: $schema={SCHEMA}\n"
    return text if text.startswith(line) or not SCHEMA.is_file() else line + text


def set_values(changes: Sequence[str], path: Path = PARAMS) -> list[str]:
    """Change values of params.yaml: all of them, or none if the result is not valid.

    Args:
        changes: The changes, each as `dotted.key=YAML`.
        path: The file.

    Returns:
        A line for each change: the key, its old value and its new one.

    Raises:
        UserError: a change is not valid.
    """
    from rca.params.instances import write_instances  # imported late: they load the settings of all stages
    from rca.params.read import read_params

    with _only_one():
        before = load_params(path)
        document = Document(read_text(path, most=MOST_YAML), path, "rca set")
        for change in changes:
            document.set(change)
        with write_file(path) as temporary:
            temporary.write_text(document.text, encoding="utf-8")
            params = read_params(temporary, path)  # before it replaces the old one
            after = load_params(temporary)
        write_instances(params)
    keys = dict.fromkeys(change.partition("=")[0] for change in changes)
    return [f"{key}: {format_value(_find(before, key))} -> {format_value(_find(after, key))}" for key in keys]


@contextmanager
def _only_one() -> Iterator[None]:
    """Wait for another command that changes the file, so that neither loses what the other wrote."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


MISSING = object()


def _find(data: object, dotted: str) -> object:
    for part in dotted.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return MISSING
        data = data[part]
    return data


def format_value(value: object) -> str:
    """A value as one line of YAML."""
    import yaml

    if value is MISSING:
        return "(default)"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def get_value(key: str, path: Path = PARAMS) -> str:
    """The value of a dotted key: that of the file or, where the file leaves it out, its default.

    Raises:
        UserError: the key is unknown.
    """
    value = _find(load_params(path), key)
    if value is MISSING or isinstance(value, Mapping):  # a section's keys may be left out as well
        value = _find_effective(key, path)
    return format_value(value)


def _find_effective(key: str, path: Path) -> object:
    """The value of a key with defaults filled in.

    Raises:
        UserError: the key is unknown.
    """
    from rca.params.read import read_params

    params = read_params(path)
    place: Any = {
        **params.project.model_dump(mode="json"),
        **{name: section.model_dump(mode="json") for name, section in params.sections.items()},
    }
    for name, run in params.described.items():
        sections = {key: section.model_dump(mode="json") for key, section in run.sections.items()}
        parts = ("host", "host_options", "method", "options", "masks_from", "train")
        plain = {part: getattr(run, part) for part in parts}
        plain["supervision"] = "masks" if run.supervision == "masks" else "tags"
        place["run"][name] = {**place["run"][name], **plain, **sections}
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            known = list(place) if isinstance(place, Mapping) else []
            where = f" in {'.'.join(walked)}" if walked else ""
            raise UserError(
                f"There is no key {part}{where}{name_nearest(part, known)}: `rca get SECTION` prints its keys."
            )
        place = place[part]
        walked.append(part)
    return place
