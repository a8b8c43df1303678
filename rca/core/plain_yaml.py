"""YAML by the rules of a params file: plain data, bounded in size and depth before anything is built from it."""

import re
from collections.abc import Hashable

import yaml

# The largest file in bytes, the most levels, and the most values once aliases are followed. Params files have
# 10 kB, 6 levels and 500 values.
MOST_YAML = 1 << 17
MOST_LEVELS = 32
MOST_VALUES = 4000
_DEEP = re.compile(rf"(?:[\[{{]\s*){{{MOST_LEVELS + 1}}}")  # found at once, where the parser would look ahead for long
_BASE_60 = re.compile(r"[-+]?[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but `1e-4` is a number and `1:30` is none (as in YAML 1.2), and no key is repeated."""

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

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode and implicit[0] and _BASE_60.fullmatch(value):
            return "tag:yaml.org,2002:str"
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> object:
    """Parse YAML safely, by the rules of a params file.

    Raises:
        yaml.YAMLError: the text is not valid YAML, a mapping repeats a key, or the text is too large or too deep, also
            by what its aliases repeat.
    """
    try:
        check_bounds(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:  # of a number or a date
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None


def list_shared(text: str) -> list[str]:
    """The anchors of a valid text to which an alias leads: what changes one place may change the others."""
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    return sorted({str(event.anchor) for event in events if isinstance(event, yaml.AliasEvent)})


def check_bounds(text: str) -> None:
    """Check a text's size, its depth and its number of values, with what its aliases repeat, before it is parsed.

    Raises:
        yaml.YAMLError: a bound is exceeded, an alias stands in its own anchor, or the text is not valid YAML.
    """
    if len(text) > MOST_YAML:
        raise yaml.YAMLError(f"it has more than {MOST_YAML} letters")
    if _DEEP.search(text):
        raise yaml.YAMLError(f"it has more than {MOST_LEVELS} levels")
    sizes: dict[str, int] = {}  # the values below each anchor
    opened: list[tuple[str | None, int]] = []  # the anchor of each open collection, and the values before it
    values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in opened):
                raise yaml.YAMLError(f"*{event.anchor} stands in its own anchor &{event.anchor}")
            values += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if len(opened) > MOST_LEVELS:
            raise yaml.YAMLError(f"it has more than {MOST_LEVELS} levels")
        if values > MOST_VALUES:
            raise yaml.YAMLError(f"it has more than {MOST_VALUES} values")
